#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/attention/decode_plan.h"
#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// One layer's attention of one new token of each sequence over its rows: each query head reads the
// virtual pages of its KV head. K and V of the new token are in the pages already. Over fp8 pages
// the Hopper kernel has queries in f16: beyond 65504 they become infinite. Sums have another order
// than prefill's, so that a token decoded and the same one prefilled differ in the last bits.
struct DecodeAttentionParams {
  const __nv_bfloat16*
      q;  // [T, q_stride]: the queries [Hq, d] first in each row (a QKV product's output)
  int64_t q_stride;    // elements from token to token
  __nv_bfloat16* out;  // [T, Hq * d]
  int num_q_heads;
  int num_kv_heads;
  float scale;  // of q.k, 1/sqrt(d)
  KvView kv;
  LayerPlan plan;
  // Results of segments of split entries, by slot: sums of exp2-weighted values, and (maximum, sum
  // of weights) of the scaled base-2 logits.
  float* partial_out;       // [partials, g, d]
  float2* partial_max_sum;  // [partials, g]
  // No launch that may still run when this one starts writes the plan, page tables, or pages but
  // the last of each row (an append, which lets the next start when all before it are done; another
  // layer's attention and combine): the kernel reads all these ahead.
  bool early_start;
};

// The tiles through which the Hopper kernel reads a pool (an encoded CUtensorMap), made once for
// each pool; nothing where the simple kernel is what runs.
struct alignas(64) KvTensorMap {
  uint64_t opaque[16];
};
KvTensorMap MakeKvTensorMap(const KvView& kv);

// The faster of the two below that the device and the shapes allow. d = 64 or 128.
void RunDecodeAttention(const DecodeAttentionParams& params, const KvTensorMap& map,
                        cudaStream_t stream);

// Adds up the partial results of split entries, after the attention.
void RunDecodeCombine(const DecodeAttentionParams& params, cudaStream_t stream);

// For any GPU from sm_80 on; the reference that the tuned one is held to. Starts when all before it
// are done, early_start or not.
void RunDecodeAttentionSimple(const DecodeAttentionParams& params, cudaStream_t stream);

// Hopper (RunsHopperCode): d = 128, or 64 in bf16; g <= 8. See decode_sm90.cu.
bool DecodeAttentionSm90Supports(const DecodeAttentionParams& params);
void RunDecodeAttentionSm90(const DecodeAttentionParams& params, const KvTensorMap& map,
                            cudaStream_t stream);

}  // namespace tangram::ops::cuda
