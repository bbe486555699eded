#include <algorithm>

#include "ops/cuda/check.h"
#include "ops/cuda/compress/compress.h"
#include "ops/cuda/compress/compress_row.cuh"
#include "ops/cuda/compress/select.cuh"
#include "ops/cuda/device.h"
#include "ops/cuda/launch.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = kSelectThreads;
constexpr int kInFlight = 4;  // 16-byte vectors of a thread on their way

// Tokens on their way from where they were to where they stay: of their kVectors vectors of 16
// bytes, keys then values, the kOwn that the block moves.
template <int kOwn>
struct Tile {
  static constexpr int kTokens = kThreads * kInFlight / kOwn;
  uint4 data[kInFlight];
  float score;
};

struct RowMemory {
  uint4* pool;
  float* scores;
  const int32_t* pages;  // shared: virtual pages of the row from `first_page` on
  int first_page;

  template <int kVectors>
  __device__ uint4* Vector(int index, int vector) const {
    constexpr int kHalf = kVectors / 2;
    const int64_t page = pages[index / kPageTokens - first_page];
    const int row = vector / kHalf * kPageTokens + index % kPageTokens;
    return pool + (page * 2 * kPageTokens + row) * kHalf + vector % kHalf;
  }
  __device__ float* Score(int index) const {
    return scores + int64_t{pages[index / kPageTokens - first_page]} * kPageTokens +
           index % kPageTokens;
  }
};

struct Moves {
  const uint16_t* kept;
  int first, keep;
  int begin, end;     // destinations
  int window_source;  // index of the first token of the window, before

  __device__ int Source(int destination) const {
    const int i = destination - first;
    return i < keep ? first + kept[i] : window_source + i - keep;
  }
};

// Moves a row's tokens, tile by tile; the score goes with the first slice of vectors.
template <int kVectors, int kSlices>
struct Mover {
  static constexpr int kOwn = kVectors / kSlices;
  using OwnTile = Tile<kOwn>;
  const RowMemory& memory;
  const Moves& moves;
  int slice;

  __device__ bool MovesScore(int destination) const {
    return slice == 0 && threadIdx.x < OwnTile::kTokens && destination < moves.end;
  }
  __device__ void Load(int begin, OwnTile* tile) const {
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int j = i * kThreads + threadIdx.x;
      const int destination = begin + j / kOwn;
      if (destination < moves.end) {
        tile->data[i] =
            *memory.Vector<kVectors>(moves.Source(destination), slice * kOwn + j % kOwn);
      }
    }
    const int destination = begin + threadIdx.x;
    if (MovesScore(destination)) tile->score = *memory.Score(moves.Source(destination));
  }
  __device__ void Store(int begin, const OwnTile& tile) const {
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int j = i * kThreads + threadIdx.x;
      const int destination = begin + j / kOwn;
      if (destination < moves.end) {
        *memory.Vector<kVectors>(destination, slice * kOwn + j % kOwn) = tile.data[i];
      }
    }
    const int destination = begin + threadIdx.x;
    if (MovesScore(destination)) *memory.Score(destination) = tile.score;
  }
};

// A cluster of kSlices blocks a head: all of them select, and each moves its slice of every key and
// value. In place: kept tokens stay in order, so a token never moves up past its own place, and
// tiles written so far lie before whatever is still to be read; within a tile all reads come before
// all writes.
template <int kVectors, int kSlices>
__global__ void __launch_bounds__(kThreads)
    SelectAndCompactKernel(const __grid_constant__ CompressParams p) {
  extern __shared__ int4 shared[];
  const CompressRow row = LoadCompressRow(p, blockIdx.x / kSlices);
  if (row.keep >= row.candidates) return WaitForPriorKernels();
  uint32_t* keys = reinterpret_cast<uint32_t*>(shared);
  int* bins = reinterpret_cast<int*>(keys + p.tables.chunk);
  int32_t* pages = bins + kBins;
  uint16_t* kept =
      reinterpret_cast<uint16_t*>(pages + (p.tables.chunk + p.window) / kPageTokens + 2);
  __shared__ int first_moved;

  const int first_page = row.first / kPageTokens;
  const int num_pages = (row.old_length + kPageTokens - 1) / kPageTokens - first_page;
  for (int i = threadIdx.x; i < num_pages; i += kThreads) {
    pages[i] = row.pages[first_page + i] * row.group_size + row.column;
  }
  if (threadIdx.x == 0) first_moved = row.keep;
  WaitForPriorKernels();
  LaunchDependents();
  __syncthreads();
  const RowMemory memory = {static_cast<uint4*>(p.kv.pool), p.scores, pages, first_page};
  for (int i = threadIdx.x; i < row.candidates; i += kThreads) {
    keys[i] = OrderedKey(*memory.Score(row.first + i));
  }
  if constexpr (kSlices > 1) ArriveAtCluster();  // has read the scores that the first one moves
  __syncthreads();
  if (row.keep > 0) {
    const uint32_t threshold = row.candidates <= kThreads
                                   ? ThresholdOfFew(keys, row.candidates, row.keep)
                                   : Threshold(keys, row.candidates, row.keep, bins);
    ListKept(keys, row.candidates, row.keep, threshold, kept);
    __syncthreads();
    for (int i = threadIdx.x; i < row.keep; i += kThreads) {
      if (kept[i] != i) {
        atomicMin(&first_moved, i);
        break;  // the thread's later ones moved too
      }
    }
    __syncthreads();
  }
  if constexpr (kSlices > 1) WaitForCluster();

  const Moves moves = {kept,           row.first,
                       row.keep,       row.first + first_moved,
                       row.new_length, row.old_length - p.window};
  const Mover<kVectors, kSlices> mover{memory, moves, static_cast<int>(blockIdx.x) % kSlices};
  Tile<kVectors / kSlices> tile, next;
  mover.Load(moves.begin, &tile);
  for (int begin = moves.begin; begin < moves.end; begin += Tile<kVectors / kSlices>::kTokens) {
    mover.Load(begin + Tile<kVectors / kSlices>::kTokens, &next);
    __syncthreads();
    mover.Store(begin, tile);
    tile = next;
  }
}

// Of the dynamic shared memory: keys, bins, pages and kept candidates.
int SharedBytes(int chunk, int window) {
  return static_cast<int>(sizeof(uint32_t) * chunk + sizeof(int) * kBins +
                          sizeof(int32_t) * ((chunk + window) / kPageTokens + 2) +
                          sizeof(uint16_t) * chunk);
}

template <int kVectors, int kSlices>
void LaunchSlices(const CompressParams& params, int rows, cudaStream_t stream) {
  const int shared = SharedBytes(params.tables.chunk, params.window);
  const auto kernel = SelectAndCompactKernel<kVectors, kSlices>;
  TANGRAM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  LaunchChainedClusters(kernel, kSlices, rows * kSlices, kThreads, shared, stream, params);
}

template <int kVectors>
void Launch(const CompressParams& params, cudaStream_t stream) {
  constexpr int kSlices = kVectors / 4;
  const int rows = params.batch.size * params.num_layers * params.num_kv_heads;
  if (RunsHopperCode() && rows * kSlices <= CurrentDevice().num_sms) {  // few rows
    LaunchSlices<kVectors, kSlices>(params, rows, stream);
  } else {
    LaunchSlices<kVectors, 1>(params, rows, stream);
  }
}

}  // namespace

int MaxCompressChunk(int window) {
  constexpr int kStaticBytes = 1024;  // the kernel's own variables, and to spare
  const int bytes = CurrentDevice().shared_bytes - kStaticBytes;
  const int chunk = (bytes - SharedBytes(0, window)) * 4 / 25;  // 6.25 bytes of each token
  return std::min(chunk, 1 << 16) / kPageTokens * kPageTokens;  // candidates are listed in 16 bits
}

void RunSelectAndCompact(const CompressParams& params, cudaStream_t stream) {
  if (params.batch.size == 0) return;
  if (params.tables.chunk > MaxCompressChunk(params.window)) {
    std::fprintf(stderr, "compaction: chunks of %d tokens; this GPU's shared memory holds %d\n",
                 params.tables.chunk, MaxCompressChunk(params.window));
    std::abort();
  }
  const int row_bytes = params.kv.head_dim * static_cast<int>(BytesFor(params.kv.dtype, 1));
  switch (2 * row_bytes / 16) {
    case 8:
      return Launch<8>(params, stream);
    case 16:
      return Launch<16>(params, stream);
    case 32:
      return Launch<32>(params, stream);
    default:
      std::fprintf(stderr, "compaction: %d bytes of a key\n", row_bytes);
      std::abort();
  }
}

}  // namespace tangram::ops::cuda
