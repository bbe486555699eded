#pragma once

#include <vector>

#include "base/result.h"
#include "ops/backend.h"
#include "paging/head_group_map.h"

namespace tangram {

struct KvLayout {
  DType dtype = DType::kF16;
  int page_size = 16;
  int head_dim = 0;
  HeadGroupMap heads;

  // Bytes of one page: B x Hp x (K and V) x head_dim.
  size_t page_bytes() const;
};

// The memory of all pages, and where each head lies in them.
class KvStorage {
 public:
  // Fails with kOutOfMemory if the pool does not fit, naming the remedy.
  static Result<KvStorage> Create(ops::Backend& backend, KvLayout layout, int64_t num_pages);

  const KvLayout& layout() const { return layout_; }
  int64_t num_pages() const { return num_pages_; }
  ops::KvPoolView pool() const;
  ops::LayerHeadMap heads(int layer) const;

 private:
  KvStorage(KvLayout layout, int64_t num_pages, Buffer pool, Buffer maps);
  KvLayout layout_;
  int64_t num_pages_;
  Buffer pool_;
  Buffer maps_;  // [2][L * Hkv]: rows, then columns, in the backend's memory
};

}  // namespace tangram
