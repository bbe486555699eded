#include "kvcache/kv_storage.h"

#include <algorithm>

namespace tangram {
namespace {

// Boundaries that the scratch retention may need behind a sequence's last: a chunk and a prompt.
constexpr int kExtraTokens = 64;

// An odd number of cache lines, so that the same place of all groups is not in one set of the
// cache.
constexpr int OddLines(int pages) { return ((pages + 15) / 16 | 1) * 16; }

}  // namespace

size_t KvLayout::page_bytes() const {
  const int64_t tokens = int64_t{page_size} * heads.group_size();
  const size_t scores = with_scores ? static_cast<size_t>(tokens) * sizeof(float) : 0;
  return BytesFor(dtype, 2 * tokens * head_dim) + scores;
}

Result<KvStorage> KvStorage::Create(ops::Backend& backend, KvLayout layout, const KvSize& size,
                                    std::span<const RetentionTable> tables) {
  KvStorage made(std::move(layout));
  ops::KvView& view = made.view_;
  const KvLayout& l = made.layout_;
  const int chunk = tables.front().chunk();
  made.num_tables_ = static_cast<int>(tables.size());
  view.dtype = l.dtype;
  view.page_size = l.page_size;
  view.group_size = l.heads.group_size();
  view.head_dim = l.head_dim;
  view.num_pages = size.num_pages;
  view.num_groups = l.heads.num_groups();
  // Behind the longest sequence a chunk of it may be repeated.
  view.max_pages =
      OddLines((size.max_tokens + chunk + kExtraTokens + l.page_size - 1) / l.page_size);
  view.num_layers = l.heads.num_layers();
  view.num_kv_heads = l.heads.num_kv_heads();
  view.num_q_heads = l.num_q_heads;
  view.retention = {nullptr, (size.max_tokens + chunk + kExtraTokens) / chunk + 1, view.num_groups,
                    chunk};
  if (!made.Allocate(backend, size)) {
    return MakeError(
        ErrorKind::kOutOfMemory,
        fmt::format(
            "the KV cache of {:.2f} GiB does not fit in memory; choose a smaller "
            "--kv-cache-memory-bytes or --max-model-len",
            static_cast<double>(l.page_bytes()) * static_cast<double>(size.num_pages) / (1 << 30)));
  }
  made.WriteHeads(backend);
  made.WriteRetention(backend, tables);
  return made;
}

bool KvStorage::Allocate(ops::Backend& backend, const KvSize& size) {
  const auto pages = static_cast<size_t>(size.num_pages);
  pool_ = backend.Allocate(static_cast<size_t>(view_.page_bytes()) * pages);
  page_table_ = backend.Allocate(static_cast<size_t>(view_.Place(size.num_slots, 0)) * 4);
  host_heads_.resize(size_t{2} * layout_.heads.num_layers() * view_.num_kv_heads);
  heads_ = backend.Allocate(host_heads_.size() * 4);
  host_retention_.resize(static_cast<size_t>(num_tables_ + 1) * view_.retention.num_boundaries *
                         view_.num_groups);
  retention_ = backend.Allocate(host_retention_.size() * 4);
  if (layout_.with_scores) {
    scores_ = backend.Allocate(pages * view_.group_size * view_.page_size * sizeof(float));
    if (scores_.data() == nullptr) return false;
  }
  view_.pool = pool_.data();
  view_.page_table = static_cast<int32_t*>(page_table_.data());
  view_.retention.retained = static_cast<const int32_t*>(retention_.data());
  view_.host_retention = view_.retention;
  view_.host_retention.retained = host_retention_.data();
  return pool_.data() != nullptr && page_table_.data() != nullptr && heads_.data() != nullptr &&
         retention_.data() != nullptr;
}

void KvStorage::WriteHeads(ops::Backend& backend) {
  const int num_layers = layout_.heads.num_layers(), num_heads = view_.num_kv_heads;
  const auto half = static_cast<ptrdiff_t>(host_heads_.size() / 2);
  for (int l = 0; l < num_layers; ++l) {
    std::ranges::copy(layout_.heads.groups(l), host_heads_.begin() + l * num_heads);
    std::ranges::copy(layout_.heads.columns(l), host_heads_.begin() + half + l * num_heads);
  }
  backend.Write(heads_.data(), host_heads_.data(), heads_.bytes());
  const auto* heads = static_cast<const int32_t*>(heads_.data());
  view_.heads = {heads, heads + half};
  view_.host_heads = {host_heads_.data(), host_heads_.data() + half};
}

void KvStorage::WriteRetention(ops::Backend& backend, std::span<const RetentionTable> tables) {
  const ops::RetentionView& r = view_.retention;
  auto out = host_retention_.begin();
  for (const RetentionTable& table : tables) {
    const int known =
        table.full() ? r.num_boundaries : std::min(r.num_boundaries, table.max_tokens() / r.chunk);
    for (int k = 0; k < known; ++k) {
      for (int g = 0; g < r.num_groups; ++g) {
        out[int64_t{k} * r.num_groups + g] = table.Retained(g, k * r.chunk);
      }
    }
    out += int64_t{r.num_boundaries} * r.num_groups;
  }
  backend.Write(retention_.data(), host_retention_.data(), retention_.bytes());
}

// length(group, n) = retained(k) + n - k*C is to be what it would be without compression at
// `boundary`.
void KvStorage::SetScratchRetention(ops::Backend& backend, int of, int boundary, int extra) {
  const ops::RetentionView& r = view_.host_retention;
  const int first = boundary / r.chunk, last = (boundary + extra) / r.chunk;
  TANGRAM_CHECK(last < r.num_boundaries, "{} tokens behind {}", extra, boundary);
  const int64_t offset = (int64_t{num_tables_} * r.num_boundaries + first) * r.num_groups;
  const int64_t count = int64_t{last - first + 1} * r.num_groups;
  for (int64_t i = 0; i < count; ++i) {
    const int k = first + static_cast<int>(i / r.num_groups);
    const int group = static_cast<int>(i % r.num_groups);
    host_retention_[static_cast<size_t>(offset + i)] =
        ops::Retained(r, of, group, first - 1) + (k - first + 1) * r.chunk;
  }
  backend.Write(static_cast<int32_t*>(retention_.data()) + offset, host_retention_.data() + offset,
                static_cast<size_t>(count) * 4);
}

}  // namespace tangram
