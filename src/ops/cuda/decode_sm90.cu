#include <cuda.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <type_traits>

#include "ops/cuda/check.h"
#include "ops/cuda/decode_attention.h"
#include "ops/cuda/decode_segments.cuh"
#include "ops/cuda/ptx_sm90.cuh"

// Decode attention on Hopper. Bound by reading K and V once: one persistent block a multiprocessor,
// whose eight warps work alone, each on every eighth page of a segment, with a ring of pages of its
// own in flight (192 KiB a multiprocessor; about 30 KiB would hide the latency, the rest hides
// changes of segment). What they leave at the end of a segment they add up together, but only at
// the end of the next one: waiting for the slowest at once would empty the rings of the others. A
// page comes by one box of the copy engine, swizzled so that ldmatrix meets no bank conflicts.
// Operands are swapped, S^T = K Q^T and O^T += V^T P^T, since a group of query heads fills N = 8,
// not M = 16.
namespace tangram::ops::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kSoloPages = 4;         // of a segment that one warp does alone
constexpr int kHeads = 8;             // columns of a product: query heads of a KV head, padded
constexpr int kSwizzleBytes = 128;    // a swizzled row: one half of d=128 in bf16
constexpr int kRingBytes = 24 << 10;  // of a warp
constexpr float kLog2E = 1.44269504088896f;

template <class Kv, int kDim>
struct Shape {
  static constexpr int kRowBytes = kDim * sizeof(Kv);
  static constexpr int kHalves = kRowBytes / kSwizzleBytes;
  static constexpr int kHalfBytes = 2 * kPageTokens * kSwizzleBytes;  // rows: K's tokens, then V's
  static constexpr int kPageBytes = kHalves * kHalfBytes;
  static constexpr int kStages = kRingBytes / kPageBytes;
  static constexpr int kSteps = kDim / 16;     // of 16 dimensions
  static constexpr int kOutStride = kDim + 4;  // no bank conflicts between heads
};

template <class Kv, int kDim>
struct Shared {
  using S = Shape<Kv, kDim>;
  alignas(1024) uint8_t pages[kWarps][S::kStages][S::kPageBytes];
  uint64_t full[kWarps][S::kStages];
  uint64_t stored[2];  // all warps have left their sums in the buffer
  float out[kWarps][kHeads][S::kOutStride];
  float2 max_sum[kWarps][kHeads];
};

// A warp's part of a segment: pages first_page, first_page + step, ... A short segment is one
// warp's alone, a longer one is dealt to all warps of the block, page by page. Turns go round over
// the whole range, so that short segments keep all warps busy; sums are made in relative order, so
// their bits depend on the segment alone.
struct Task {
  Segment segment;
  bool solo;
  int first_page, step;
  int first_warp;  // the one that took the segment's first page
};

// Walks the tasks of one warp in order; the whole block passes the same shared segments in the same
// order.
class TaskWalker {
 public:
  __device__ TaskWalker(const LayerPlan& plan, int range, int warp)
      : walker_(plan, range), warp_(warp) {}

  __device__ bool Next(Task* task) {
    while (walker_.Next(&task->segment)) {
      const int pages = task->segment.end_page - task->segment.first_page;
      const int relative = (warp_ - turn_) & (kWarps - 1);
      task->solo = pages <= kSoloPages;
      task->step = task->solo ? 1 : kWarps;
      task->first_page = task->segment.first_page + (task->solo ? 0 : relative);
      task->first_warp = turn_ & (kWarps - 1);
      turn_ += task->solo ? 1 : pages;
      if (!task->solo || relative == 0) return true;
    }
    return false;
  }

 private:
  SegmentWalker walker_;
  int warp_;
  int turn_ = 0;
};

// The order in which a warp's pages are copied; runs ahead of the arithmetic. Page ids are read 32
// at a time, one a lane, and a batch ahead.
class PageFeed {
 public:
  __device__ PageFeed(const DecodeAttentionParams& p, int range)
      : kv_(p.kv), walker_(p.plan, range, threadIdx.x / 32), lane_(threadIdx.x % 32) {
    NextTask();
    LoadBatch();
  }

  // The next virtual page, the same in all lanes, or -1. `last`: it ends its row, where this step's
  // token is.
  __device__ int Next(bool* last) {
    if (position_ == 32) {
      page_ = next_id_ < 0 ? -1 : next_id_ * kv_.group_size + next_column_;
      last_ = next_last_;
      LoadBatch();
      position_ = 0;
    }
    *last = last_ >> position_ & 1;
    return __shfl_sync(~0u, page_, position_++);
  }

 private:
  __device__ void NextTask() {
    more_ = walker_.Next(&task_);
    next_page_ = task_.first_page;
  }
  // One load for the whole batch, whatever segments it spans.
  __device__ void LoadBatch() {
    const int32_t* id = nullptr;
    bool last = false;
    for (int filled = 0; filled < 32 && more_;) {
      const Segment& segment = task_.segment;
      const int left = (segment.end_page - next_page_ + task_.step - 1) / task_.step;
      const int take = max(0, min(32 - filled, left));
      if (lane_ >= filled && lane_ < filled + take) {
        const int page = next_page_ + (lane_ - filled) * task_.step;
        id = kv_.page_table + int64_t{segment.table_row} * kv_.max_pages_per_row + page;
        next_column_ = segment.column;
        last = (page + 1) * kPageTokens >= segment.num_tokens;
      }
      filled += take;
      next_page_ += take * task_.step;
      if (next_page_ >= segment.end_page) NextTask();
    }
    next_id_ = id != nullptr ? *id : -1;
    next_last_ = __ballot_sync(~0u, last);
  }

  const KvView& kv_;
  TaskWalker walker_;
  Task task_ = {};
  bool more_;
  int lane_;
  int next_page_;
  int position_ = 32;
  int page_ = -1, next_id_, next_column_ = 0;
  unsigned last_ = 0, next_last_ = 0;
};

__device__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ uint32_t PackF16(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
// Four e4m3 to two pairs of f16, exactly.
__device__ void WidenFp8(uint32_t bytes, uint32_t& low, uint32_t& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\n"
      "cvt.rn.f16x2.e4m3x2 %1, h;\n}"
      : "=r"(low), "=r"(high)
      : "r"(bytes));
}

// Arithmetic of one warp over pages in shared memory. Lane l: tokens l/4 and l/4 + 8 of S^T;
// dimensions by l/4 of O^T; heads 2*(l%4) and the next of both. fp8 becomes f16; contractions may
// run in any order of dimensions, and the rows of O^T in any order too, so fp8 needs no shuffles
// but one byte permutation of V.
template <class Kv, int kDim>
class WarpAttention {
  using S = Shape<Kv, kDim>;
  static constexpr bool kFp8 = std::is_same_v<Kv, __nv_fp8_e4m3>;

 public:
  __device__ WarpAttention() : lane_(threadIdx.x % 32) {}

  struct Query {
    uint32_t b[S::kSteps][2];
  };
  // The queries of one KV head as the right operand; heads past the group are 0.
  __device__ Query LoadQuery(const DecodeAttentionParams& p, int entry) const {
    Query query;
    const int group = p.num_q_heads / p.num_kv_heads;
    const int head = lane_ / 4, c = lane_ % 4;
    const __nv_bfloat16* q =
        p.q + entry / p.num_kv_heads * p.q_stride + (entry % p.num_kv_heads * group + head) * kDim;
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      if (head >= group) {
        query.b[step][0] = query.b[step][1] = 0;
      } else if constexpr (kFp8) {
        const uint2 raw = *reinterpret_cast<const uint2*>(q + step * 16 + 4 * c);
        query.b[step][0] = ToF16(raw.x);
        query.b[step][1] = ToF16(raw.y);
      } else {
        query.b[step][0] = *reinterpret_cast<const uint32_t*>(q + step * 16 + 2 * c);
        query.b[step][1] = *reinterpret_cast<const uint32_t*>(q + step * 16 + 2 * c + 8);
      }
    }
    return query;
  }

  __device__ void Reset() {
#pragma unroll
    for (int i = 0; i < 2; ++i) max_[i] = -INFINITY, sum_[i] = 0;
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out_[step][i] = 0;
    }
  }

  // One page, of which the first `valid` tokens count; what lies behind them may be anything, NaN
  // too.
  __device__ void AddPage(uint32_t page, const Query& query, int valid, float scale_log2) {
    float logits[4] = {};
    Logits(page, query, logits);
    const int token = lane_ / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      logits[i] = token + i / 2 * 8 < valid ? logits[i] * scale_log2 : -INFINITY;
    }
    uint32_t weights[2];
    Softmax(logits, weights);
    // Tokens 2c, 2c+1 and 8 later of V, whose weight is 0, must be 0 themselves.
    const int first = 2 * (lane_ % 4);
    const uint32_t keep[2] = {Keep(first, valid), Keep(first + 8, valid)};
    Values(page + kPageTokens * kSwizzleBytes, weights, keep);
  }

  // Leaves the warp's sums of the first `heads` columns in shared memory, from column `first` on.
  __device__ void Store(float (*out)[S::kOutStride], float2* max_sum, int first, int heads) {
    ReduceSums();
    const int head = 2 * (lane_ % 4);
    if (head >= heads) return;
    if (lane_ < 4) {
      max_sum[first + head] = {max_[0], sum_[0]};
      max_sum[first + head + 1] = {max_[1], sum_[1]};
    }
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[first + head + i % 2][Dim(step, i)] = out_[step][i];
    }
  }

  // Writes the result of a segment that this warp did alone.
  __device__ void WriteSolo(const DecodeAttentionParams& p, const Segment& segment) {
    ReduceSums();
    const int group = p.num_q_heads / p.num_kv_heads;
    const bool whole = segment.partial_slot < 0;
    const int64_t first_row = int64_t{whole ? segment.entry : segment.partial_slot} * group;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = 2 * (lane_ % 4) + h;
      if (head >= group) continue;
      const int64_t row = first_row + head;
      if (!whole && lane_ < 4) p.partial_max_sum[row] = {max_[h], sum_[h]};
      const float inverse = 1 / sum_[h];
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
        for (int i = h; i < 4; i += 2) {
          if (whole) {
            p.out[row * kDim + Dim(step, i)] = __float2bfloat16(out_[step][i] * inverse);
          } else {
            p.partial_out[row * kDim + Dim(step, i)] = out_[step][i];
          }
        }
      }
    }
  }

 private:
  __device__ void ReduceSums() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int step = 4; step < 32; step *= 2) sum_[i] += __shfl_xor_sync(~0u, sum_[i], step);
    }
  }
  // The dimension that register i of a step holds.
  __device__ int Dim(int step, int i) const {
    const int row = lane_ / 4;
    return step * 16 + (kFp8 ? 2 * row + i / 2 : row + i / 2 * 8);
  }
  __device__ static uint32_t ToF16(uint32_t bf16_pair) {
    const __nv_bfloat162 pair = *reinterpret_cast<const __nv_bfloat162*>(&bf16_pair);
    return PackF16(__low2float(pair), __high2float(pair));
  }
  __device__ static uint32_t Keep(int token, int valid) {
    return (token < valid ? 0xffffu : 0) | (token + 1 < valid ? 0xffff0000u : 0);
  }
  // Address of the 16-byte chunk of a row under the copy engine's 128-byte swizzle.
  __device__ static uint32_t Chunk(uint32_t base, int row, int chunk) {
    return base + chunk / 8 * S::kHalfBytes + row * kSwizzleBytes + ((chunk % 8) ^ (row % 8)) * 16;
  }
  __device__ static void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kFp8) {
      ptx::MmaF16(c, a, b0, b1);
    } else {
      ptx::MmaBf16(c, a, b0, b1);
    }
  }

  __device__ void Logits(uint32_t keys, const Query& query, float (&logits)[4]) const {
    const int row = lane_ % 16, odd = lane_ / 16;
    float other[4] = {};  // two chains, half as long
    if constexpr (kFp8) {
#pragma unroll
      for (int step = 0; step < S::kSteps; step += 2) {
        uint32_t raw[4], a[4];
        ptx::LoadMatrices(raw, Chunk(keys, row, step + odd));
        WidenFp8(raw[0], a[0], a[2]);
        WidenFp8(raw[1], a[1], a[3]);
        Mma(logits, a, query.b[step][0], query.b[step][1]);
        WidenFp8(raw[2], a[0], a[2]);
        WidenFp8(raw[3], a[1], a[3]);
        Mma(other, a, query.b[step + 1][0], query.b[step + 1][1]);
      }
    } else {
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t a[4];
        ptx::LoadMatrices(a, Chunk(keys, row, 2 * step + odd));
        Mma(step % 2 ? other : logits, a, query.b[step][0], query.b[step][1]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) logits[i] += other[i];
  }

  // Turns the logits of two heads over 16 tokens into weights against the running maximum.
  __device__ void Softmax(const float (&logits)[4], uint32_t (&weights)[2]) {
    float p[4], rescale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float maximum = fmaxf(logits[i], logits[i + 2]);
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, step));
      }
      maximum = fmaxf(maximum, max_[i]);
      rescale[i] = exp2f(max_[i] - maximum);
      max_[i] = maximum;
      p[i] = exp2f(logits[i] - maximum);
      p[i + 2] = exp2f(logits[i + 2] - maximum);
      sum_[i] = sum_[i] * rescale[i] + p[i] + p[i + 2];
    }
    if (__any_sync(~0u, rescale[0] != 1 || rescale[1] != 1)) {
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out_[step][i] *= rescale[i % 2];
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = p[2 * i], high = p[2 * i + 1];
      weights[i] = ptx::TransposeMatrix(kFp8 ? PackF16(low, high) : PackBf16(low, high));
    }
  }

  __device__ void Values(uint32_t values, const uint32_t (&weights)[2], const uint32_t (&keep)[2]) {
    if constexpr (kFp8) {
      const int row = lane_ % 16, odd = lane_ / 16;
#pragma unroll
      for (int step = 0; step < S::kSteps; step += 2) {
        uint32_t raw[4], a[4];
        ptx::LoadMatricesTransposed(raw, Chunk(values, row, step + odd));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          // Bytes (token 0: dims 0, 1; token 1: dims 0, 1) to (dim 0: tokens 0, 1; dim 1: tokens 0,
          // 1).
          const uint32_t early = __byte_perm(raw[2 * half] & keep[0], 0, 0x3120);
          const uint32_t late = __byte_perm(raw[2 * half + 1] & keep[1], 0, 0x3120);
          WidenFp8(early, a[0], a[1]);
          WidenFp8(late, a[2], a[3]);
          Mma(out_[step + half], a, weights[0], weights[1]);
        }
      }
    } else {
      const int row = lane_ % 8 + lane_ / 16 * 8, odd = lane_ / 8 % 2;
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t a[4];
        ptx::LoadMatricesTransposed(a, Chunk(values, row, 2 * step + odd));
        a[0] &= keep[0], a[1] &= keep[0], a[2] &= keep[1], a[3] &= keep[1];
        Mma(out_[step], a, weights[0], weights[1]);
      }
    }
  }

  int lane_;
  float max_[2], sum_[2];
  float out_[S::kSteps][4];
};

// Adds up the warps' sums, in relative order, and writes the segment's result; all warps take a
// share.
template <class Kv, int kDim>
__device__ void MergeSegment(const DecodeAttentionParams& p, const Task& task, int first_column,
                             const Shared<Kv, kDim>& shared) {
  const int group = p.num_q_heads / p.num_kv_heads;
  const int slot = task.segment.partial_slot;
  const int64_t first_row = int64_t{slot < 0 ? task.segment.entry : slot} * group;
  for (int j = threadIdx.x; j < group * kDim / 2; j += kThreads) {
    const int head = j / (kDim / 2), dim = j % (kDim / 2) * 2;
    float maximum = -INFINITY, sum = 0;
    float2 result = {0, 0};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      maximum = fmaxf(maximum, shared.max_sum[w][first_column + head].x);
    }
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      const int w = (task.first_warp + i) & (kWarps - 1);
      const float2 max_sum = shared.max_sum[w][first_column + head];
      const float weight = exp2f(max_sum.x - maximum);  // 0 of a warp without pages
      const float2 out = *reinterpret_cast<const float2*>(&shared.out[w][first_column + head][dim]);
      sum += weight * max_sum.y;
      result.x += weight * out.x;
      result.y += weight * out.y;
    }
    const int64_t row = first_row + head;
    if (slot < 0) {
      *reinterpret_cast<uint32_t*>(p.out + row * kDim + dim) =
          PackBf16(result.x / sum, result.y / sum);
    } else {
      *reinterpret_cast<float2*>(p.partial_out + row * kDim + dim) = result;
      if (dim == 0) p.partial_max_sum[row] = {maximum, sum};
    }
  }
}

// The shared segment whose sums are stored but not added up yet. Two buffers suffice: who stores
// into one has merged the other, which needed all warps' sums, stored after each had merged the
// buffer's last use.
template <class Kv, int kDim>
class PendingMerge {
 public:
  __device__ PendingMerge(const DecodeAttentionParams& p, Shared<Kv, kDim>& shared)
      : p_(p), shared_(shared), buffers_(p.num_q_heads / p.num_kv_heads <= kHeads / 2 ? 2 : 1) {}

  __device__ void Finish() {
    if (!pending_) return;
    ptx::WaitBarrierToken(ptx::SharedAddress(&shared_.stored[buffer_]), token_);
    MergeSegment(p_, task_, buffer_ * (kHeads / 2), shared_);
    pending_ = false;
    if (buffers_ == 1)
      __syncthreads();  // large groups of query heads fill all columns: no second buffer
  }

  __device__ void Start(const Task& task, WarpAttention<Kv, kDim>& attention) {
    Finish();
    buffer_ = (buffer_ + 1) % buffers_;
    const int warp = threadIdx.x / 32;
    attention.Store(shared_.out[warp], shared_.max_sum[warp], buffer_ * (kHeads / 2),
                    kHeads / buffers_);
    token_ = ptx::ArriveToken(ptx::SharedAddress(&shared_.stored[buffer_]));
    task_ = task;
    pending_ = true;
  }

 private:
  const DecodeAttentionParams& p_;
  Shared<Kv, kDim>& shared_;
  Task task_;
  uint64_t token_;
  int buffers_;
  int buffer_ = 0;
  bool pending_ = false;
};

template <class Kv, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    DecodeSm90Kernel(const __grid_constant__ CUtensorMap map,
                     const __grid_constant__ DecodeAttentionParams p) {
  using S = Shape<Kv, kDim>;
  extern __shared__ __align__(1024) uint8_t raw_shared[];
  Shared<Kv, kDim>& shared = *reinterpret_cast<Shared<Kv, kDim>*>(raw_shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWarps * S::kStages; ++i) {
      ptx::InitBarrier(ptx::SharedAddress(&shared.full[0][0] + i), 1);
    }
    for (uint64_t& stored : shared.stored) ptx::InitBarrier(ptx::SharedAddress(&stored), kThreads);
    ptx::FenceBarrierInit();
    ptx::PrefetchTensorMap(&map);
  }
  __syncthreads();
  const uint32_t pages = ptx::SharedAddress(shared.pages[warp]);
  const uint32_t full = ptx::SharedAddress(shared.full[warp]);
  bool waited = !p.early_start;
  if (waited) cudaGridDependencySynchronize();
  const uint64_t policy = ptx::EvictFirstPolicy();
  PageFeed feed(p, blockIdx.x);
  auto start_copy = [&](int stage) {
    bool last;
    const int page = feed.Next(&last);
    if (last && !waited) {
      cudaGridDependencySynchronize();
      waited = true;
    }
    if (lane == 0 && page >= 0) {
      ptx::ArriveExpectBytes(full + 8 * stage, S::kPageBytes);
      ptx::CopyBox4(pages + stage * S::kPageBytes, &map, page, full + 8 * stage, policy);
    }
  };
  for (int stage = 0; stage < S::kStages; ++stage) start_copy(stage);
  if (!waited) cudaGridDependencySynchronize();
  waited = true;
  cudaTriggerProgrammaticLaunchCompletion();  // the combine may take its place

  WarpAttention<Kv, kDim> attention;
  TaskWalker walker(p.plan, blockIdx.x, warp);
  Task task, next;
  bool more = walker.Next(&task);
  typename WarpAttention<Kv, kDim>::Query query, next_query;
  if (more) query = attention.LoadQuery(p, task.segment.entry);
  const float scale_log2 = p.scale * kLog2E;
  int stage = 0;
  uint32_t parity = 0;
  PendingMerge<Kv, kDim> merge(p, shared);
  while (more) {
    more = walker.Next(&next);
    if (more) next_query = attention.LoadQuery(p, next.segment.entry);  // in flight meanwhile
    attention.Reset();
    for (int page = task.first_page; page < task.segment.end_page; page += task.step) {
      ptx::WaitBarrier(full + 8 * stage, parity);
      const int valid = task.segment.num_tokens - page * kPageTokens;
      attention.AddPage(pages + stage * S::kPageBytes, query, valid, scale_log2);
      __syncwarp();  // all lanes have read the page
      start_copy(stage);
      if (++stage == S::kStages) stage = 0, parity ^= 1;
    }
    if (task.solo) {
      attention.WriteSolo(p, task.segment);
    } else {
      merge.Start(task, attention);
    }
    task = next;
    query = next_query;
  }
  merge.Finish();
}

template <class Kv, int kDim>
void Launch(const DecodeAttentionParams& params, const KvTensorMap& map, cudaStream_t stream) {
  auto kernel = DecodeSm90Kernel<Kv, kDim>;
  constexpr int kShared = sizeof(Shared<Kv, kDim>);
  static const bool configured = [&] {
    TANGRAM_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    return true;
  }();
  (void)configured;
  cudaLaunchConfig_t config = {};
  config.gridDim = params.plan.num_ranges;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  TANGRAM_CUDA_CHECK(
      cudaLaunchKernelEx(&config, kernel, *reinterpret_cast<const CUtensorMap*>(&map), params));
}

}  // namespace

KvTensorMap MakeKvTensorMap(const KvView& kv) {
  static_assert(sizeof(CUtensorMap) == sizeof(KvTensorMap));
  void* encode = nullptr;
  cudaDriverEntryPointQueryResult found;
  TANGRAM_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000,
                                                      cudaEnableDefault, &found));
  const uint64_t row_bytes = kv.head_dim * BytesFor(kv.dtype, 1);
  const uint64_t page_bytes = 2 * kPageTokens * row_bytes;
  // Bytes of half a row, rows (K's tokens, then V's), halves, virtual pages.
  const cuuint64_t sizes[4] = {kSwizzleBytes, 2 * kPageTokens, row_bytes / kSwizzleBytes,
                               static_cast<uint64_t>(kv.num_pages) * kv.group_size};
  const cuuint64_t strides[3] = {row_bytes, kSwizzleBytes, page_bytes};
  const cuuint32_t box[4] = {kSwizzleBytes, 2 * kPageTokens,
                             static_cast<cuuint32_t>(row_bytes / kSwizzleBytes), 1};
  const cuuint32_t element_strides[4] = {1, 1, 1, 1};
  KvTensorMap map;
  const CUresult status = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode)(
      reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_UINT8, 4, kv.pool, sizes,
      strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    std::fprintf(stderr, "cuTensorMapEncodeTiled: error %d\n", static_cast<int>(status));
    std::abort();
  }
  return map;
}

bool DecodeAttentionSm90Supports(const DecodeAttentionParams& params) {
  const int row_bytes = params.kv.head_dim * static_cast<int>(BytesFor(params.kv.dtype, 1));
  return (row_bytes == 128 || row_bytes == 256) && params.kv.head_dim <= 128 &&
         params.num_q_heads / params.num_kv_heads <= kHeads;
}

void RunDecodeAttentionSm90(const DecodeAttentionParams& params, const KvTensorMap& map,
                            cudaStream_t stream) {
  if (params.kv.dtype == DType::kF8E4M3) {
    Launch<__nv_fp8_e4m3, 128>(params, map, stream);
  } else if (params.kv.head_dim == 128) {
    Launch<__nv_bfloat16, 128>(params, map, stream);
  } else {
    Launch<__nv_bfloat16, 64>(params, map, stream);
  }
}

}  // namespace tangram::ops::cuda
