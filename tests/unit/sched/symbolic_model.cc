#include "symbolic_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "base/check.h"

namespace tangram {
namespace {

uint64_t Mix(uint64_t a, uint64_t b) {  // the finalizer of SplitMix64
  uint64_t x = a * 0x9e3779b97f4a7c15u + b + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t Digest(const SymbolicKv& kv, int row, int index) {
  return Mix(kv.prefix, uint64_t(kv.position) << 32 | uint64_t(row) << 16 | uint64_t(index));
}

// Which of a row's tokens stay at `boundary`, as indices: what the boundary before kept, its window
// excepted (sinks at the first), the last `window` tokens, and the best scored of the rest; a score
// is a hash.
std::vector<int> Kept(const std::vector<SymbolicKv>& row, int row_index,
                      const RetentionTable& table, int boundary, CompressionRule rule) {
  const int size = static_cast<int>(row.size());
  const int before = table.Retained(row_index, boundary - table.chunk());
  const int fixed = before == 0 ? rule.sinks : before - rule.window;
  const int scored = table.Retained(row_index, boundary) - fixed - rule.window;
  std::vector<int> rest(size - rule.window - fixed);
  std::iota(rest.begin(), rest.end(), fixed);
  std::ranges::sort(rest, std::greater{}, [&](int i) { return Mix(row[i].prefix, row_index); });
  TANGRAM_CHECK(0 <= scored && scored <= int(rest.size()), "{} of {}", scored, rest.size());
  std::vector<int> kept(fixed);
  std::iota(kept.begin(), kept.end(), 0);
  kept.insert(kept.end(), rest.begin(), rest.begin() + scored);
  for (int i = size - rule.window; i < size; ++i) kept.push_back(i);
  std::ranges::sort(kept);
  return kept;
}

}  // namespace

DenseRun::DenseRun(const RetentionTable& table, CompressionRule rule, std::string_view salt)
    : table_(&table),
      rule_(rule),
      last_prefix_(std::hash<std::string_view>{}(salt)),
      rows_(table.num_rows()) {}

void DenseRun::Process(TokenId token) {
  const int position = num_computed_++;
  const bool at_boundary = position > 0 && position % table_->chunk() == 0 && !table_->full();
  last_prefix_ = Mix(last_prefix_, uint64_t(token));
  for (int r = 0; r < table_->num_rows(); ++r) {
    auto& row = rows_[r];
    if (at_boundary) {
      std::vector<SymbolicKv> kept;
      for (const int i : Kept(row, r, *table_, position, rule_)) kept.push_back(row[i]);
      row = std::move(kept);
    }
    row.push_back({last_prefix_, position});
  }
}

TokenId DenseRun::Next(int vocab_size) const {
  uint64_t read = 0;
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t i = 0; i < rows_[r].size(); ++i) read += Digest(rows_[r][i], int(r), int(i));
  }
  return static_cast<TokenId>(Mix(read, 0) % vocab_size);
}

SymbolicModel::SymbolicModel(Shape shape, CompressionRule rule)
    : shape_(shape),
      rule_(rule),
      pool_(shape.num_pages * shape.page_size),
      page_table_(size_t(shape.num_slots) * shape.num_rows * shape.max_pages_per_row, -1) {}

void SymbolicModel::Begin(const SchedulerOutput& output, const PageTable& pages) {
  for (const PageUpdate& u : output.page_updates) {
    const size_t row = size_t(u.slot) * shape_.num_rows + u.row;
    std::copy_n(pages.row(u.slot, u.row) + u.first, u.count,
                page_table_.begin() + row * shape_.max_pages_per_row + u.first);
  }
  std::set<int32_t> written;
  for (const PageCopy& copy : output.page_copies) {
    TANGRAM_CHECK(written.insert(copy.to).second, "page {} is the target of two copies", copy.to);
  }
  for (const PageCopy& copy : output.page_copies) {  // a device makes them in any order
    TANGRAM_CHECK(!written.contains(copy.from), "page {} is copied and overwritten", copy.from);
    std::copy_n(pool_.begin() + int64_t{copy.from} * shape_.page_size, shape_.page_size,
                pool_.begin() + int64_t{copy.to} * shape_.page_size);
  }
}

const SymbolicKv& SymbolicModel::At(int slot, int row, int index) const {
  const size_t first = (size_t(slot) * shape_.num_rows + row) * shape_.max_pages_per_row;
  const int32_t page = page_table_[first + index / shape_.page_size];
  TANGRAM_CHECK(page >= 0 && page < shape_.num_pages, "slot {} row {} index {}: page {}", slot, row,
                index, page);
  return pool_[int64_t{page} * shape_.page_size + index % shape_.page_size];
}

SymbolicKv& SymbolicModel::At(int slot, int row, int index) {
  return const_cast<SymbolicKv&>(std::as_const(*this).At(slot, row, index));
}

void SymbolicModel::Compress(int slot, const RetentionTable& table, int boundary) {
  for (int r = 0; r < shape_.num_rows; ++r) {
    std::vector<SymbolicKv> row(table.Length(r, boundary));
    for (size_t i = 0; i < row.size(); ++i) row[i] = At(slot, r, int(i));
    const std::vector<int> kept = Kept(row, r, table, boundary, rule_);
    for (size_t i = 0; i < kept.size(); ++i) {  // what stays in place is not written
      if (kept[i] != int(i)) At(slot, r, int(i)) = row[kept[i]];
    }
  }
}

TokenId SymbolicModel::Run(const ScheduledSequence& seq, const RetentionTable& table,
                           std::string_view salt, std::span<const TokenId> tokens) {
  uint64_t read = 0;
  const int end = seq.num_computed + seq.num_tokens;
  for (int n = seq.num_computed; n < end; ++n) {
    uint64_t prefix = std::hash<std::string_view>{}(salt);
    const bool compressed = n == seq.boundary;  // then the row's last token lies elsewhere
    if (n > 0) {
      const int length = compressed ? table.Retained(0, n) : table.Length(0, n);
      prefix = At(seq.slot, 0, length - 1).prefix;
    }
    if (n % table.chunk() == 0 && !compressed && !table.full()) Compress(seq.slot, table, n);
    for (int r = 0; r < shape_.num_rows; ++r) {
      At(seq.slot, r, table.Length(r, n + 1) - 1) = {Mix(prefix, uint64_t(tokens[n])), n};
    }
  }
  for (int r = 0; r < shape_.num_rows; ++r) {
    const int length = table.Length(r, end);
    for (int i = 0; i < length; ++i) read += Digest(At(seq.slot, r, i), r, i);
  }
  return static_cast<TokenId>(Mix(read, 0) % shape_.vocab_size);
}

std::string SymbolicModel::Difference(int slot, const DenseRun& dense) const {
  for (int r = 0; r < shape_.num_rows; ++r) {
    const auto row = dense.row(r);
    for (int i = 0; i < int(row.size()); ++i) {
      const SymbolicKv& kv = At(slot, r, i);
      if (kv == row[i]) continue;
      return fmt::format("slot {} row {} index {} of {}: position {} (prefix {:x}), not {} ({:x})",
                         slot, r, i, row.size(), kv.position, kv.prefix, row[i].position,
                         row[i].prefix);
    }
  }
  return {};
}

}  // namespace tangram
