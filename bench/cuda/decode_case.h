#pragma once

#include <cstdint>
#include <vector>

#include "ops/cuda/attention/decode_attention.h"
#include "ops/cuda/device_array.h"

namespace tangram::bench {

struct DecodeShape {
  int layers;
  int q_heads, kv_heads, head_dim;
  int group_size;  // Hp
  DType dtype;

  int group() const { return q_heads / kv_heads; }
  int qkv_width() const { return (q_heads + 2 * kv_heads) * head_dim; }  // of a token
  int num_rows() const { return layers * kv_heads / group_size; }
  size_t page_bytes() const {  // of a virtual page
    return BytesFor(dtype, int64_t{2} * ops::cuda::kPageTokens * head_dim);
  }
};

// What decides the lengths of a decode step's rows.
struct DecodeLoad {
  std::vector<int32_t> num_tokens;  // [T] n of each sequence; 0: unused
  std::vector<int32_t> retained;    // [boundaries][G]
  int chunk;
};

// A decode step in device memory: random queries, keys and values in pages scattered over a pool,
// page tables, plan and partial results. For tests and benchmarks.
class DecodeCase {
 public:
  // `map[h]` of layer l at [l*Hkv + h]: the place (row*Hp + column) of each head; empty: in order.
  // `poison`: everything that no row holds is NaN.
  DecodeCase(const DecodeShape& shape, const DecodeLoad& load, std::vector<int32_t> places,
             ops::cuda::SplitMode mode, int num_ranges, bool poison, uint64_t seed);

  ops::cuda::DecodePlanParams plan_params() const;
  ops::cuda::DecodeAttentionParams attention_params(int layer) const;

  void Plan(cudaStream_t stream) const { ops::cuda::RunDecodePlan(plan_params(), stream); }
  // `early_start`: of DecodeAttentionParams; not directly after Plan.
  void Attend(int layer, bool simple, cudaStream_t stream, bool early_start = false) const;

  const ops::cuda::KvTensorMap& tensor_map() const { return map_; }

  const DecodeShape& shape() const { return shape_; }
  int size() const { return static_cast<int>(load_.num_tokens.size()); }
  const DecodeLoad& load() const { return load_; }
  int RowTokens(int sequence, int row) const;
  int EntryTokens(int layer, int sequence, int head) const;
  // Tokens attended in one layer, and the bytes of their K and V.
  int64_t LayerTokens(int layer) const;
  double LayerBytes(int layer) const;

  // Copies of device memory, for references.
  std::vector<float> Queries() const;                                      // [T, Hq, d]
  std::vector<float> KeysValues(int layer, int sequence, int head) const;  // [tokens][K, V][d]
  // Of the row that holds the head.
  std::vector<int64_t> VirtualPages(int layer, int sequence, int head) const;
  int64_t num_virtual_pages() const { return num_pages_ * shape_.group_size; }
  std::vector<uint8_t> Pool() const { return pool_.Download(); }
  std::vector<float> Output() const;  // [T, Hq, d]
  void PoisonOutputs();
  void MultiplyQueries(float factor);
  // Lengths of the same step with other sequences or none beside; none may grow.
  void SetNumTokens(const std::vector<int32_t>& num_tokens);

 private:
  int Place(int layer, int head) const { return places_[layer * shape_.kv_heads + head]; }
  void ScatterPages(uint64_t seed);

  DecodeShape shape_;
  DecodeLoad load_;
  std::vector<int32_t> places_;
  ops::cuda::SplitMode mode_;
  int num_ranges_;
  ops::cuda::PlanCosts costs_;
  int max_pages_;
  int64_t num_pages_;
  std::vector<int32_t> host_table_;
  ops::cuda::DeviceArray<uint8_t> pool_;
  ops::cuda::DeviceArray<int32_t> page_table_, slot_, num_tokens_, table_, retained_, head_row_,
      head_column_;
  ops::cuda::DeviceArray<__nv_bfloat16> q_, out_;
  ops::cuda::DeviceArray<ops::cuda::PlanEntry> entries_;
  ops::cuda::DeviceArray<ops::cuda::PlanRange> ranges_;
  ops::cuda::DeviceArray<ops::cuda::PlanSplit> splits_;
  ops::cuda::DeviceArray<int32_t> num_splits_;
  ops::cuda::DeviceArray<float> partial_out_;
  ops::cuda::DeviceArray<float2> partial_max_sum_;
  ops::cuda::KvTensorMap map_;
};

// Lengths as a real profile gives them: `ratios` [L*Hkv] of a profile are rescaled to the mean
// `ratio`; heads are sorted by demand and cut into rows; sequences stand one token behind a
// boundary. Fills `places`.
DecodeLoad ProfileLoad(const DecodeShape& shape, const std::vector<float>& ratios, double ratio,
                       const std::vector<int32_t>& contexts, int chunk,
                       std::vector<int32_t>* places);

}  // namespace tangram::bench
