#include "ops/cuda/check.h"
#include "ops/cuda/compress/compress.h"
#include "ops/cuda/compress/compress_row.cuh"
#include "ops/cuda/device.h"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/kv_load.cuh"
#include "ops/cuda/launch.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kPerLane = 8;
constexpr int kInFlight = 4;  // keys that a lane group has on their way

// A cluster of kSlices blocks a head, kDim/8 lanes a token. The first pass adds up the row's unit
// keys, each lane group its own tokens in order, then the groups and the blocks in order, so that
// the sum depends on the row alone; the second reads the candidates' keys again, from L2 for the
// most part.
template <class Kv, int kDim, int kSlices>
__global__ void __launch_bounds__(kThreads, 2)
    ScoreKeyDiffKernel(const __grid_constant__ CompressParams p) {
  constexpr int kLanes = kDim / kPerLane, kGroups = kThreads / kLanes;
  __shared__ float sums[kGroups][kDim];
  __shared__ float own[kDim], mean[kDim];
  const CompressRow row = LoadCompressRow(p, blockIdx.x / kSlices);
  WaitForPriorKernels();
  LaunchDependents();
  if (row.keep >= row.candidates) return;
  const int slice = blockIdx.x % kSlices;
  const int group = threadIdx.x / kLanes, first = threadIdx.x % kLanes * kPerLane;
  const Kv* pool = static_cast<const Kv*>(p.kv.pool) + first;
  auto load = [&](int index, float(&key)[kPerLane]) {
    Load8(pool + (row.VirtualPage(index) * 2 * kPageTokens + index % kPageTokens) * kDim, key);
  };
  auto sum_lanes = [](float x) {
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
  };
  // Calls use(index, key) for the lane group's share of the tokens from `begin` to `end`, loads of
  // several ahead of their use. All lanes of a warp go round equally often, for the shuffles, and
  // past the end too.
  constexpr int kTogether = kGroups * kSlices;  // tokens
  auto for_each_key = [&](int begin, int end, auto use) {
    for (int at = begin; at < end; at += kInFlight * kTogether) {
      const int index = at + slice * kGroups + group;
      float key[kInFlight][kPerLane];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) load(min(index + j * kTogether, end - 1), key[j]);
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) use(index + j * kTogether, key[j]);
    }
  };

  float sum[kPerLane] = {};
  for_each_key(0, row.old_length, [&](int index, const float(&key)[kPerLane]) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) squares += key[i] * key[i];
    squares = sum_lanes(squares);
    const float scale = index < row.old_length ? rsqrtf(fmaxf(squares, 1e-24f)) : 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) sum[i] += key[i] * scale;
  });
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) sums[group][first + i] = sum[i];
  __syncthreads();
  for (int dim = threadIdx.x; dim < kDim; dim += kThreads) {
    float total = 0;
    for (int g = 0; g < kGroups; ++g) total += sums[g][dim];
    own[dim] = total;  // its length does not matter for the cosine
  }
  if constexpr (kSlices > 1) ArriveAtCluster(), WaitForCluster();
  for (int dim = threadIdx.x; dim < kDim; dim += kThreads) {
    float total = 0;
#pragma unroll
    for (int other = 0; other < kSlices; ++other) total += ReadFromCluster(&own[dim], other);
    mean[dim] = total;
  }
  if constexpr (kSlices > 1) ArriveAtCluster();  // has read what the others have
  __syncthreads();
  float direction[kPerLane], squares = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    direction[i] = mean[first + i], squares += direction[i] * direction[i];
  const float mean_scale = rsqrtf(fmaxf(sum_lanes(squares), 1e-24f));
  const int end = row.first + row.candidates;
  for_each_key(row.first, end, [&](int index, const float(&key)[kPerLane]) {
    float dot = 0, key_squares = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      dot += key[i] * direction[i];
      key_squares += key[i] * key[i];
    }
    dot = sum_lanes(dot);
    key_squares = sum_lanes(key_squares);
    if (index < end && threadIdx.x % kLanes == 0) {
      p.scores[row.VirtualPage(index) * kPageTokens + index % kPageTokens] =
          -dot * mean_scale * rsqrtf(fmaxf(key_squares, 1e-24f));
    }
  });
  if constexpr (kSlices > 1) WaitForCluster();
}

__global__ void __launch_bounds__(kThreads)
    ScoreStreamingKernel(const __grid_constant__ CompressParams p) {
  WaitForPriorKernels();
  LaunchDependents();
  const CompressRow row = LoadCompressRow(p, blockIdx.x);
  for (int i = threadIdx.x; i < row.candidates; i += kThreads) {
    const int index = row.first + i;
    p.scores[row.VirtualPage(index) * kPageTokens + index % kPageTokens] =
        static_cast<float>(index);
  }
}

int Blocks(const CompressParams& params) {
  return params.batch.size * params.num_layers * params.num_kv_heads;
}

}  // namespace

void RunScoreKeyDiff(const CompressParams& params, cudaStream_t stream) {
  if (params.batch.size == 0) return;
  // The same number of blocks for every launch of a device: the sum hangs on it.
  constexpr int kSlices = 8;
  const bool clusters = RunsHopperCode();
  DispatchKv(params.kv, "keydiff", [&](auto kv, auto dim) {
    using Kv = typename decltype(kv)::Type;
    const auto kernel = clusters ? ScoreKeyDiffKernel<Kv, dim.value, kSlices>
                                 : ScoreKeyDiffKernel<Kv, dim.value, 1>;
    const int slices = clusters ? kSlices : 1;
    LaunchChainedClusters(kernel, slices, Blocks(params) * slices, kThreads, 0, stream, params);
  });
}

void RunScoreStreamingLlm(const CompressParams& params, cudaStream_t stream) {
  if (params.batch.size == 0) return;
  LaunchChained(ScoreStreamingKernel, Blocks(params), kThreads, stream, params);
}

}  // namespace tangram::ops::cuda
