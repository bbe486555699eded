#include <cuda_fp8.h>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/step/append.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kPerLane = 8;  // 16 bytes of bf16

__device__ void Store8(__nv_bfloat16* out, const float (&x)[kPerLane]) {
  __nv_bfloat162 pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
  *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(pairs);
}
__device__ void Store8(__nv_fp8_e4m3* out, const float (&x)[kPerLane]) {
  __nv_fp8x4_e4m3 quads[2] = {__nv_fp8x4_e4m3(make_float4(x[0], x[1], x[2], x[3])),
                              __nv_fp8x4_e4m3(make_float4(x[4], x[5], x[6], x[7]))};
  *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(quads);
}

// The lanes of one head: kDim/8 of them, eight dimensions each.
template <int kDim>
struct HeadLanes {
  static constexpr int kLanes = kDim / kPerLane;

  __device__ static void Norm(float (&x)[kPerLane], const float* weight, int first, float epsilon) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum += x[i] * x[i];
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    const float scale = rsqrtf(sum / kDim + epsilon);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) x[i] *= scale * weight[first + i];
  }

  // (cosine, sine) of the angles that the lane's dimensions need: of its four pairs, or of eight
  // halves of pairs.
  __device__ static void LoadAngles(float (&cosine)[kPerLane], float (&sine)[kPerLane],
                                    const float* cosines, const float* sines, int first,
                                    bool interleaved) {
    const int pair = interleaved ? first / 2 : first % (kDim / 2);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (interleaved && i >= kPerLane / 2) break;
      cosine[i] = cosines[pair + i];
      sine[i] = sines[pair + i];
    }
  }

  __device__ static void Rotate(float (&x)[kPerLane], const float (&cosine)[kPerLane],
                                const float (&sine)[kPerLane], int first, bool interleaved) {
    if (interleaved) {
#pragma unroll
      for (int i = 0; i < kPerLane / 2; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosine[i] - b * sine[i];
        x[2 * i + 1] = b * cosine[i] + a * sine[i];
      }
      return;
    }
    const bool upper = first >= kDim / 2;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const float partner = __shfl_xor_sync(~0u, x[i], kLanes / 2);
      x[i] = x[i] * cosine[i] + (upper ? partner : -partner) * sine[i];
    }
  }
};

// One block a token: the angles are worked out once for all heads. A lane has its eight dimensions
// of kHeads heads, `head_step` apart. All loads come first, the chains that end in page ids too:
// latency is what there is to hide.
template <class Kv, int kDim, int kHeads, int kThreads>
__global__ void __launch_bounds__(kThreads, 1152 / kThreads)
    AppendKernel(const __grid_constant__ CudaAppendParams p) {
  using Lanes = HeadLanes<kDim>;
  __shared__ alignas(16) float cosines[kDim / 2], sines[kDim / 2];
  const int token = blockIdx.x;
  const int heads = p.num_q_heads + 2 * p.num_kv_heads;
  const int first_value = p.num_q_heads + p.num_kv_heads;
  const int head_step = blockDim.x / Lanes::kLanes;
  const int first_head = threadIdx.x / Lanes::kLanes;
  const int first = threadIdx.x % Lanes::kLanes * kPerLane;
  __nv_bfloat16* qkv = p.qkv + int64_t{token} * heads * kDim + first;
  uint4 raw[kHeads];
  auto load = [&] {
    WaitForPriorKernels();
    LaunchDependents();  // attention may start on the older pages
#pragma unroll
    for (int i = 0; i < kHeads; ++i) {
      // Whole warps stay together for the shuffles: lanes past the last head work on it, and write
      // nothing.
      const int head = min(first_head + i * head_step, heads - 1);
      raw[i] = *reinterpret_cast<const uint4*>(qkv + head * kDim);
    }
  };
  const bool early = kHeads == 1 && p.early_start;
  if (!early) load();
  const int position = p.position[token];
  if (position < 0) return WaitForPriorKernels();  // that this launch is over must mean they are

  const int boundary = position / p.tables.chunk;
  const int since = position - boundary * p.tables.chunk;
  const int32_t* retained =
      p.tables.retained +
      (int64_t{p.table[token]} * p.tables.num_boundaries + boundary) * p.tables.num_rows;
  const int32_t* pages =
      p.kv.page_table + int64_t{p.slot[token]} * p.kv.num_rows * p.kv.max_pages_per_row;
  Kv* out[kHeads];  // of keys and values: where they go
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int head = first_head + i * head_step;
    out[i] = nullptr;
    if (head < p.num_q_heads || head >= heads) continue;
    const bool value = head >= first_value;
    const int place = p.layer * p.num_kv_heads + head - (value ? first_value : p.num_q_heads);
    const int row = p.kv.head_row[place];
    const int index = retained[row] + since;
    const int64_t page = pages[int64_t{row} * p.kv.max_pages_per_row + index / kPageTokens];
    const int64_t virtual_page = page * p.kv.group_size + p.kv.head_column[place];
    out[i] = static_cast<Kv*>(p.kv.pool) + first +
             ((virtual_page * 2 + value) * kPageTokens + index % kPageTokens) * kDim;
  }
  for (int i = threadIdx.x; i < kDim / 2; i += blockDim.x) {
    float sine, cosine;
    sincosf(position * p.inv_freq[i], &sine, &cosine);
    cosines[i] = cosine * p.rope_scale;
    sines[i] = sine * p.rope_scale;
  }
  __syncthreads();
  if (early) load();
  float cosine[kPerLane], sine[kPerLane];
  Lanes::LoadAngles(cosine, sine, cosines, sines, first, p.rope_interleaved);
#pragma unroll
  for (int i = 0; i < kHeads; ++i) {
    const int head = first_head + i * head_step;
    float x[kPerLane];
    const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(&raw[i]);
#pragma unroll
    for (int k = 0; k < kPerLane / 2; ++k) {
      const float2 pair = __bfloat1622float2(pairs[k]);
      x[2 * k] = pair.x, x[2 * k + 1] = pair.y;
    }
    float rotated[kPerLane];  // values share warps with keys, and so take part in the shuffles
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) rotated[k] = x[k];
    if (p.q_norm != nullptr) {
      Lanes::Norm(rotated, head < p.num_q_heads ? p.q_norm : p.k_norm, first, p.epsilon);
    }
    Lanes::Rotate(rotated, cosine, sine, first, p.rope_interleaved);
    if (head >= first_value) {
#pragma unroll
      for (int k = 0; k < kPerLane; ++k) rotated[k] = x[k];
    }
    if (out[i] != nullptr) {
      Store8(out[i], rotated);
      if (p.new_scores != nullptr && head < first_value && first == 0) {
        const int64_t place = (out[i] - static_cast<Kv*>(p.kv.pool)) / kDim;  // among K's and V's
        p.scores[place / (2 * kPageTokens) * kPageTokens + place % kPageTokens] =
            p.new_scores[int64_t{token} * p.num_kv_heads + head - p.num_q_heads];
      }
    } else if (head < p.num_q_heads) {
      Store8(qkv + head * kDim, rotated);
    }
  }
}

// Few tokens: all heads at once, for latency. Many: small blocks, several a multiprocessor (six of
// 192 threads beat what the compiler chooses by itself), hide each other's waits; an early start
// gains them nothing.
template <class Kv, int kDim>
void LaunchHeads(const CudaAppendParams& params, cudaStream_t stream) {
  constexpr int kHeads = 4, kLanes = kDim / kPerLane;
  const int heads = params.num_q_heads + 2 * params.num_kv_heads;
  const auto launch = [&](auto kernel, int threads) {
    LaunchChained(kernel, params.num_tokens, (threads + 31) / 32 * 32, stream, params);
  };
  const int threads = (heads + kHeads - 1) / kHeads * kLanes;
  if (params.num_tokens <= 2 * CurrentDevice().num_sms && heads * kLanes <= 1024) {
    launch(AppendKernel<Kv, kDim, 1, 1024>, heads * kLanes);
  } else if (threads <= 192) {
    launch(AppendKernel<Kv, kDim, kHeads, 192>, threads);
  } else {
    launch(AppendKernel<Kv, kDim, kHeads, 1024>, threads);
  }
}

}  // namespace

void RunAppend(const CudaAppendParams& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return;
  DispatchKv(params.kv, "append", [&](auto kv, auto dim) {
    LaunchHeads<typename decltype(kv)::Type, dim.value>(params, stream);
  });
}

}  // namespace tangram::ops::cuda
