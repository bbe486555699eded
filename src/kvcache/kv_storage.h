#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "ops/backend.h"
#include "paging/head_group_map.h"
#include "paging/retention_table.h"

namespace tangram {

struct KvLayout {
  DType dtype = DType::kF16;
  int page_size = 16;
  int head_dim = 0;
  HeadGroupMap heads;
  bool with_scores = false;  // of compression, beside the pages
  int num_q_heads = 0;       // of a layer, where attention is planned ahead (KvView)

  // Bytes of one page: B x Hp x (K and V) x head_dim, and a score for each token and head.
  size_t page_bytes() const;
};

// How much of it there is.
struct KvSize {
  int64_t num_pages = 0;
  int num_slots = 1;
  int max_tokens = 0;  // of a sequence
};

// The KV cache in the backend's memory: the pages and their table, where each head lies in them,
// and what each group retains.
class KvStorage {
 public:
  // The tables have one chunk. kOutOfMemory, naming the remedy, if it does not fit.
  static Result<KvStorage> Create(ops::Backend& backend, KvLayout layout, const KvSize& size,
                                  std::span<const RetentionTable> tables);

  const KvLayout& layout() const { return layout_; }
  int64_t num_pages() const { return view_.num_pages; }
  const ops::KvView& view() const { return view_; }
  // [virtual pages][B] f32, or null without scores.
  float* scores() const { return static_cast<float*>(scores_.data()); }

  // One retention table more, behind those given: that of a sequence of `boundary` tokens which are
  // not yet compressed, but follow retention `of`, and of up to `extra` tokens behind them.
  int scratch_retention() const { return num_tables_; }
  void SetScratchRetention(ops::Backend& backend, int of, int boundary, int extra);

 private:
  explicit KvStorage(KvLayout layout) : layout_(std::move(layout)) {}
  bool Allocate(ops::Backend& backend, const KvSize& size);
  void WriteHeads(ops::Backend& backend);
  void WriteRetention(ops::Backend& backend, std::span<const RetentionTable> tables);

  KvLayout layout_;
  ops::KvView view_{};
  int num_tables_ = 0;
  Buffer pool_, scores_;
  Buffer page_table_;  // [slots][G][max_pages]
  Buffer heads_;       // [2][L * Hkv]: groups, then columns
  Buffer retention_;   // [tables + 1][boundaries][G]
  std::vector<int32_t> host_heads_, host_retention_;
};

}  // namespace tangram
