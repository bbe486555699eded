#include "kvcache/kv_storage.h"

#include <algorithm>

namespace tangram {

size_t KvLayout::page_bytes() const {
  return BytesFor(dtype, int64_t{2} * page_size * heads.group_size() * head_dim);
}

Result<KvStorage> KvStorage::Create(ops::Backend& backend, KvLayout layout, int64_t num_pages) {
  const size_t bytes = layout.page_bytes() * static_cast<size_t>(num_pages);
  Buffer pool = backend.Allocate(bytes);
  if (pool.data() == nullptr) {
    return MakeError(ErrorKind::kOutOfMemory,
                     fmt::format("the KV cache of {:.2f} GiB does not fit in memory; choose a "
                                 "smaller --kv-cache-memory-bytes or --max-model-len",
                                 static_cast<double>(bytes) / (1 << 30)));
  }
  const int num_layers = layout.heads.num_layers(), num_heads = layout.heads.num_kv_heads();
  Buffer host = Buffer::AllocateHost(size_t{2} * num_layers * num_heads * sizeof(int32_t));
  auto* out = static_cast<int32_t*>(host.data());
  for (int l = 0; l < num_layers; ++l) std::ranges::copy(layout.heads.rows(l), out + l * num_heads);
  out += num_layers * num_heads;
  for (int l = 0; l < num_layers; ++l) {
    std::ranges::copy(layout.heads.columns(l), out + l * num_heads);
  }
  return KvStorage(std::move(layout), num_pages, std::move(pool), std::move(host));
}

KvStorage::KvStorage(KvLayout layout, int64_t num_pages, Buffer pool, Buffer maps)
    : layout_(std::move(layout)),
      num_pages_(num_pages),
      pool_(std::move(pool)),
      maps_(std::move(maps)) {}

ops::KvPoolView KvStorage::pool() const {
  return {pool_.data(),     layout_.dtype, layout_.page_size, layout_.heads.group_size(),
          layout_.head_dim, num_pages_};
}

ops::LayerHeadMap KvStorage::heads(int layer) const {
  const int num_heads = layout_.heads.num_kv_heads();
  const auto* rows = static_cast<const int32_t*>(maps_.data());
  const int32_t* columns = rows + layout_.heads.num_layers() * num_heads;
  return {rows + layer * num_heads, columns + layer * num_heads};
}

}  // namespace tangram
