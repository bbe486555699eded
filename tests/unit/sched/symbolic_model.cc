#include "symbolic_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "base/check.h"

namespace tangram {
namespace {

constexpr TokenId kNeverDrawn = -1000;

uint64_t Mix(uint64_t a, uint64_t b) {  // the finalizer of SplitMix64
  uint64_t x = a * 0x9e3779b97f4a7c15u + b + 1;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t Digest(const SymbolicKv& kv, int group, int index) {
  return Mix(kv.prefix, uint64_t(kv.position) << 32 | uint64_t(group) << 16 | uint64_t(index));
}

// Which of a group's tokens stay at `boundary`, as indices: what the boundary before kept, its
// window excepted (sinks at the first), the last `window` tokens, and the best scored of the rest;
// a score is a hash.
std::vector<int> Kept(const std::vector<SymbolicKv>& group, int group_index,
                      const RetentionTable& table, int boundary, CompressionRule rule) {
  const int size = static_cast<int>(group.size());
  const int before = table.Retained(group_index, boundary - table.chunk());
  const int fixed = before == 0 ? rule.sinks : before - rule.window;
  const int scored = table.Retained(group_index, boundary) - fixed - rule.window;
  std::vector<int> rest(size - rule.window - fixed);
  std::iota(rest.begin(), rest.end(), fixed);
  std::ranges::sort(rest, std::greater{}, [&](int i) { return Mix(group[i].prefix, group_index); });
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
      groups_(table.num_groups()) {}

void DenseRun::Process(TokenId token) {
  const int position = num_computed_++;
  const bool at_boundary = position > 0 && position % table_->chunk() == 0 && !table_->full();
  last_prefix_ = Mix(last_prefix_, uint64_t(token));
  for (int r = 0; r < table_->num_groups(); ++r) {
    auto& group = groups_[r];
    if (at_boundary) {
      std::vector<SymbolicKv> kept;
      for (const int i : Kept(group, r, *table_, position, rule_)) kept.push_back(group[i]);
      group = std::move(kept);
    }
    group.push_back({last_prefix_, position});
  }
}

TokenId DenseRun::Next(int vocab_size) const {
  uint64_t read = 0;
  for (size_t r = 0; r < groups_.size(); ++r) {
    for (size_t i = 0; i < groups_[r].size(); ++i) read += Digest(groups_[r][i], int(r), int(i));
  }
  return static_cast<TokenId>(Mix(read, 0) % vocab_size);
}

SymbolicModel::SymbolicModel(Shape shape, CompressionRule rule)
    : shape_(shape),
      rule_(rule),
      pool_(shape.num_pages * shape.page_size),
      page_table_(size_t(shape.num_slots) * shape.num_groups * shape.max_pages, -1),
      drawn_(shape.num_slots, kNeverDrawn) {}

void SymbolicModel::Begin(const SchedulerOutput& output) {
  std::set<int32_t> places, written;
  for (const PageWrite& write : output.page_writes) {
    const bool is_new = places.insert(write.place).second;
    TANGRAM_CHECK(is_new || !output.page_copies.empty(), "place {} is told twice", write.place);
    page_table_.at(write.place) = write.page;
  }
  for (const PageCopy& copy : output.page_copies) {
    TANGRAM_CHECK(written.insert(copy.to).second, "page {} is the target of two copies", copy.to);
  }
  for (const PageCopy& copy : output.page_copies) {  // a device makes them in any order
    TANGRAM_CHECK(!written.contains(copy.from), "page {} is copied and overwritten", copy.from);
    std::copy_n(pool_.begin() + int64_t{copy.from} * shape_.page_size, shape_.page_size,
                pool_.begin() + int64_t{copy.to} * shape_.page_size);
  }
}

void SymbolicModel::Forget(int slot) {
  const size_t count = size_t(shape_.num_groups) * shape_.max_pages;
  std::fill_n(Pages(slot, 0), count, -1);
  drawn_[slot] = kNeverDrawn;
}

const SymbolicKv& SymbolicModel::At(int slot, int group, int index) const {
  const size_t first = (size_t(slot) * shape_.num_groups + group) * shape_.max_pages;
  const int32_t page = page_table_[first + index / shape_.page_size];
  TANGRAM_CHECK(page >= 0 && page < shape_.num_pages, "slot {} group {} index {}: page {}", slot,
                group, index, page);
  return pool_[int64_t{page} * shape_.page_size + index % shape_.page_size];
}

SymbolicKv& SymbolicModel::At(int slot, int group, int index) {
  return const_cast<SymbolicKv&>(std::as_const(*this).At(slot, group, index));
}

void SymbolicModel::Compress(int slot, const RetentionTable& table, int boundary) {
  for (int r = 0; r < shape_.num_groups; ++r) {
    std::vector<SymbolicKv> group(table.Length(r, boundary));
    for (size_t i = 0; i < group.size(); ++i) group[i] = At(slot, r, int(i));
    const std::vector<int> kept = Kept(group, r, table, boundary, rule_);
    for (size_t i = 0; i < kept.size(); ++i) {  // what stays in place is not written
      if (kept[i] != int(i)) At(slot, r, int(i)) = group[kept[i]];
    }
  }
}

TokenId SymbolicModel::Run(const ScheduledSequence& seq, const RetentionTable& table,
                           std::string_view salt, std::span<const TokenId> tokens) {
  const int end = seq.num_computed + seq.num_tokens;
  for (int n = seq.num_computed; n < end; ++n) {
    uint64_t prefix = std::hash<std::string_view>{}(salt);
    const bool compressed = n == seq.boundary;  // then the group's last token lies elsewhere
    if (n > 0) {
      const int length = compressed ? table.Retained(0, n) : table.Length(0, n);
      prefix = At(seq.slot, 0, length - 1).prefix;
    }
    if (n % table.chunk() == 0 && !compressed && !table.full()) Compress(seq.slot, table, n);
    TokenId token = tokens[n - seq.num_computed];
    if (token == SchedulerOutput::kLastDrawn) token = drawn_[seq.slot];
    for (int r = 0; r < shape_.num_groups; ++r) {
      At(seq.slot, r, table.Length(r, n + 1) - 1) = {Mix(prefix, uint64_t(token)), n};
    }
  }
  uint64_t read = 0;
  for (int r = 0; r < shape_.num_groups; ++r) {
    const int length = table.Length(r, end);
    for (int i = 0; i < length; ++i) read += Digest(At(seq.slot, r, i), r, i);
    // Pages behind these are given back.
    const int count = (length + shape_.page_size - 1) / shape_.page_size;
    std::fill(Pages(seq.slot, r) + count, Pages(seq.slot, r) + shape_.max_pages, -1);
  }
  return static_cast<TokenId>(Mix(read, 0) % shape_.vocab_size);
}

std::string SymbolicModel::Difference(int slot, const DenseRun& dense) const {
  for (int r = 0; r < shape_.num_groups; ++r) {
    const auto group = dense.group(r);
    for (int i = 0; i < int(group.size()); ++i) {
      const SymbolicKv& kv = At(slot, r, i);
      if (kv == group[i]) continue;
      return fmt::format(
          "slot {} group {} index {} of {}: position {} (prefix {:x}), not {} ({:x})", slot, r, i,
          group.size(), kv.position, kv.prefix, group[i].position, group[i].prefix);
    }
  }
  return {};
}

}  // namespace tangram
