#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "ops/cuda/check.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/sampling/philox.h"
#include "ops/cuda/sampling/sampling.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kBins = 2048;

// A token and what it competes with. Larger values win, then lower ids.
struct Best {
  float value;
  int token;
  __device__ __forceinline__ void Offer(float v, int t) {
    if (v > value || (v == value && t < token)) value = v, token = t;
  }
};

__device__ Best BlockBest(Best best) {
  __shared__ Best warps[32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    best.Offer(__shfl_xor_sync(~0u, best.value, offset), __shfl_xor_sync(~0u, best.token, offset));
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  best = warps[threadIdx.x % 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    best.Offer(__shfl_xor_sync(~0u, best.value, offset), __shfl_xor_sync(~0u, best.token, offset));
  }
  __syncthreads();
  return best;
}

// Finite for any bits: of 150,000 tokens one with infinite noise would be drawn whatever its logit.
__device__ __forceinline__ float Gumbel(uint32_t bits) { return -logf(-logf(UnitInterval(bits))); }

// Calls f(four values, first token) for a thread's share of the vocabulary: four adjacent tokens at
// a time, block-strided, with the loads of several in flight.
template <class Load, class F>
__device__ __forceinline__ void ForEachFour(int vocabulary, const Load& load, const F& f) {
  constexpr int kStride = kThreads * 4, kBatch = 5;
  for (int base = threadIdx.x * 4; base < vocabulary; base += kBatch * kStride) {
    float4 v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (base + i * kStride < vocabulary) v[i] = load(base + i * kStride);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (base + i * kStride < vocabulary) f(v[i], base + i * kStride);
    }
  }
}

// One row at work.
struct Row {
  const SamplingArgs& args;
  const SamplingRow& how;
  const __nv_bfloat16* logits;
  float* scores;  // penalised, divided by the temperature; -inf where not allowed
  float best;     // the largest score

  __device__ __forceinline__ float4 LoadLogits(int token) const {
    const uint2 raw = *reinterpret_cast<const uint2*>(logits + token);
    const float2 a = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(raw.x));
    const float2 b = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(raw.y));
    return {a.x, a.y, b.x, b.y};
  }

  template <class F>
  __device__ __forceinline__ void ForEachFourScores(const F& f) const {
    ForEachFour(
        args.vocabulary, [&](int t) { return *reinterpret_cast<const float4*>(scores + t); }, f);
  }

  template <class F>
  __device__ __forceinline__ void ForEach(const F& f) const {
    ForEachFourScores(
        [&](const float4& v, int t) { f(v.x, t), f(v.y, t + 1), f(v.z, t + 2), f(v.w, t + 3); });
  }

  template <class F>
  __device__ __forceinline__ void ForEachLogit(const F& f) const {
    ForEachFour(
        args.vocabulary, [&](int t) { return LoadLogits(t); },
        [&](const float4& v, int t) { f(v.x, t), f(v.y, t + 1), f(v.z, t + 2), f(v.w, t + 3); });
  }

  __device__ __forceinline__ float Score(float logit, int token, const uint32_t* counts) const {
    if (args.allowed != nullptr) {
      const int64_t words = (args.vocabulary + 31) / 32;
      if (!(args.allowed[blockIdx.x * words + token / 32] >> (token % 32) & 1)) return -INFINITY;
    }
    if (counts != nullptr) {
      const uint32_t seen = counts[token];
      if (seen != 0) {
        logit = logit > 0 ? logit / how.repetition_penalty : logit * how.repetition_penalty;
        const uint32_t times = seen & ~kInPrompt;
        logit -= how.frequency_penalty * times + (times > 0 ? how.presence_penalty : 0.f);
      }
    }
    return how.temperature > 0 ? logit / how.temperature : logit;
  }

  // The distance of a score below the best one, in steps of 2^-27, 32 at most. Exact order: the
  // subtraction is monotone and the rest is a power of two.
  __device__ __forceinline__ uint32_t Distance(float score) const {
    return __float2uint_rz(fminf((best - score) * 0x1p27f, 4294967040.f));
  }
};

struct Shared {
  unsigned long long mass[kBins];
  unsigned long long warp_mass[32];
  uint32_t prefix;
  unsigned long long below;
};

// Among tokens with distance <= limit, the smallest distance d such that those with distance <= d
// weigh at least `target`; their weights are `weigh(score)`, whole numbers. Three passes over the
// row, 11, 11 and 10 bits of the distance.
template <class Weigh>
__device__ uint32_t SelectDistance(const Row& row, uint32_t limit, unsigned long long target,
                                   Shared& shared, const Weigh& weigh) {
  constexpr int kShift[] = {21, 10, 0};
  uint32_t prefix = 0, mask = 0;
  unsigned long long below = 0;
  for (int pass = 0; pass < 3; ++pass) {
    for (int i = threadIdx.x; i < kBins; i += kThreads) shared.mass[i] = 0;
    __syncthreads();
    row.ForEach([&](float score, int) {
      const uint32_t d = row.Distance(score);
      if (score == -INFINITY || d > limit || (d & mask) != prefix) return;
      const uint32_t bin = d >> kShift[pass] & (pass == 2 ? 1023u : 2047u);
      atomicAdd(&shared.mass[bin], weigh(score));
    });
    __syncthreads();
    // Each thread owns two bins; a scan over the block finds the one that reaches the target.
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned long long first = shared.mass[2 * threadIdx.x];
    const unsigned long long second = shared.mass[2 * threadIdx.x + 1];
    unsigned long long sum = first + second;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned long long other = __shfl_up_sync(~0u, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (lane == 31) shared.warp_mass[warp] = sum;
    if (threadIdx.x == 0) shared.prefix = ~0u;
    __syncthreads();
    unsigned long long before = below + sum - first - second;
    for (int w = 0; w < warp; ++w) before += shared.warp_mass[w];
    const bool in_first = before < target && before + first >= target;
    const bool in_second = before + first < target && before + first + second >= target;
    if (in_first || in_second) {
      shared.prefix = prefix | (2 * threadIdx.x + in_second) << kShift[pass];
      shared.below = in_second ? before + first : before;
    }
    __syncthreads();
    prefix = shared.prefix, below = shared.below;
    mask |= (pass == 2 ? 1023u : 2047u) << kShift[pass];
    __syncthreads();
    if (prefix == ~0u) return limit;  // all together weigh less than the target (first pass only)
  }
  return prefix;
}

// A score's probability relative to the best, in units of 2^-40.
__device__ __forceinline__ unsigned long long Mass(const Row& row, float score) {
  return __float2ull_rn(__expf(score - row.best) * 0x1p40f);
}

// The largest distance that min-p, top-k and top-p let through.
__device__ uint32_t KeptDistance(const Row& row, Shared& shared) {
  uint32_t limit = ~0u;
  if (row.how.min_p > 0) limit = row.Distance(row.best + logf(row.how.min_p));
  if (row.how.top_k > 0 && row.how.top_k < row.args.vocabulary) {
    limit = SelectDistance(row, limit, row.how.top_k, shared, [](float) { return 1ull; });
  }
  if (row.how.top_p < 1) {
    if (threadIdx.x == 0) shared.below = 0;
    __syncthreads();
    unsigned long long mass = 0;
    row.ForEach([&](float score, int) {
      if (score > -INFINITY && row.Distance(score) <= limit) mass += Mass(row, score);
    });
    atomicAdd(&shared.below, mass);
    __syncthreads();
    const double target = static_cast<double>(shared.below) * row.how.top_p;
    __syncthreads();
    limit = SelectDistance(row, limit, max(1ull, __double2ull_ru(target)), shared,
                           [&](float score) { return Mass(row, score); });
  }
  return limit;
}

__device__ int DrawToken(const Row& row, uint32_t limit) {
  Best best{-INFINITY, INT_MAX};
  const uint2 key = {static_cast<uint32_t>(row.how.seed),
                     static_cast<uint32_t>(row.how.seed >> 32)};
  row.ForEachFourScores([&](const float4& v, int t) {
    const float score[4] = {v.x, v.y, v.z, v.w};
    const float highest = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
    if (highest == -INFINITY || row.Distance(highest) > limit) return;
    const uint4 bits = Philox({static_cast<uint32_t>(t / 4), row.how.step, 0, 0}, key);
    const uint32_t noise[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (score[i] == -INFINITY || row.Distance(score[i]) > limit) continue;
      best.Offer(score[i] + Gumbel(noise[i]), t + i);
    }
  });
  return BlockBest(best).token;
}

// The best logit, and the log of the sum of exp(logit), of the row as it came.
__device__ float LogSumExp(const Row& row, Best* best) {
  Best mine{-INFINITY, INT_MAX};
  row.ForEachLogit([&](float logit, int token) { mine.Offer(logit, token); });
  *best = BlockBest(mine);
  float sum = 0;
  row.ForEachLogit([&](float logit, int) { sum += expf(logit - best->value); });
  return best->value + logf(BlockSum(sum));
}

__device__ void WriteLogprobs(const Row& row, int token) {
  Best top;
  const float lse = LogSumExp(row, &top);
  if (threadIdx.x == 0) row.args.logprobs[blockIdx.x] = __bfloat162float(row.logits[token]) - lse;
  for (int i = 0; i < row.args.num_top; ++i) {
    if (threadIdx.x == 0) {
      row.args.top_tokens[blockIdx.x * row.args.num_top + i] = top.token;
      row.args.top_logprobs[blockIdx.x * row.args.num_top + i] = top.value - lse;
    }
    Best next{-INFINITY, INT_MAX};
    row.ForEachLogit([&](float logit, int t) {
      if (logit < top.value || (logit == top.value && t > top.token)) next.Offer(logit, t);
    });
    top = BlockBest(next);
  }
}

__global__ void __launch_bounds__(kThreads) SamplingKernel(const SamplingArgs args) {
  LaunchDependents();
  WaitForPriorKernels();
  __shared__ Shared shared;
  __shared__ SamplingRow how;
  if (threadIdx.x == 0) how = args.rows[blockIdx.x];
  __syncthreads();
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * args.vocabulary;
  Row row{args, how, args.logits + offset, args.scratch + offset, 0.f};
  const bool penalties =
      args.counts != nullptr &&
      (how.repetition_penalty != 1 || how.presence_penalty != 0 || how.frequency_penalty != 0);
  uint32_t* counts = args.counts == nullptr
                         ? nullptr
                         : args.counts + static_cast<int64_t>(how.slot) * args.vocabulary;
  Best best{-INFINITY, INT_MAX};
  const auto score_four = [&](const float4& v, int t) {
    const uint32_t* seen = penalties ? counts : nullptr;
    const float4 score = {row.Score(v.x, t, seen), row.Score(v.y, t + 1, seen),
                          row.Score(v.z, t + 2, seen), row.Score(v.w, t + 3, seen)};
    if (how.temperature > 0) *reinterpret_cast<float4*>(row.scores + t) = score;
    best.Offer(score.x, t), best.Offer(score.y, t + 1);
    best.Offer(score.z, t + 2), best.Offer(score.w, t + 3);
  };
  ForEachFour(
      args.vocabulary, [&](int t) { return row.LoadLogits(t); }, score_four);
  best = BlockBest(best);  // its barriers also make the scores visible
  row.best = best.value;
  int token = how.temperature > 0 ? DrawToken(row, KeptDistance(row, shared)) : best.token;
  if (token >= args.vocabulary) token = 0;
  if (threadIdx.x == 0) {
    args.tokens[blockIdx.x] = token;
    if (counts != nullptr) atomicAdd(counts + token, 1);
  }
  if (args.logprobs != nullptr) WriteLogprobs(row, token);
}

__global__ void __launch_bounds__(256) CountTokensKernel(const CountTokensArgs args) {
  LaunchDependents();
  WaitForPriorKernels();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= args.count) return;
  if (i < args.num_prompt) {
    atomicOr(args.counts + args.tokens[i], kInPrompt);
  } else {
    atomicAdd(args.counts + args.tokens[i], 1);
  }
}

}  // namespace

void RunSampling(const SamplingArgs& args, cudaStream_t stream) {
  if (args.num_rows == 0) return;
  if (args.vocabulary % 4 != 0) {
    std::fprintf(stderr, "RunSampling: a vocabulary of %d, not a multiple of 4\n", args.vocabulary);
    std::abort();
  }
  LaunchChained(SamplingKernel, dim3(args.num_rows), dim3(kThreads), stream, args);
}

void RunCountTokens(const CountTokensArgs& args, cudaStream_t stream) {
  if (args.count == 0) return;
  LaunchChained(CountTokensKernel, dim3((args.count + 255) / 256), dim3(256), stream, args);
}

}  // namespace tangram::ops::cuda
