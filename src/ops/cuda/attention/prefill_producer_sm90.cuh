#pragma once

#include "ops/cuda/attention/prefill_layout_sm90.cuh"
#include "ops/cuda/ptx.cuh"

// Of prefill attention on Hopper (prefill_sm90.cuh): the warp that brings queries, keys and values.

namespace tangram::ops::cuda::prefill_sm90 {

// Brings the queries of one item after another; one thread.
template <int kDim>
__device__ void ProduceQueries(const CUtensorMap* q_map, const KernelArgs& args, uint8_t* shared,
                               Barriers& bars) {
  const int g = args.heads_per_kv, rows = kPrefillTileRows / g * g;
  uint32_t phase = 1;
  for (int i = args.ranges[blockIdx.x]; i < args.ranges[blockIdx.x + 1]; ++i, phase ^= 1) {
    const PrefillItem& item = args.items[i];
    ptx::BarrierWait(&bars.q_empty, phase);
    ptx::BarrierArriveExpect(&bars.q_full, rows * kDim * 2);
    for (int h = 0; h < Layout<kDim>::kHalves; ++h) {
      ptx::CopyTile3D(shared + h * kHalfBytes, q_map, &bars.q_full, h * 64, item.kv_head * g,
                      item.first_token, ptx::kEvictFirst);
    }
  }
}

// Brings the keys and values of one item after another; a warp, whose lane 2p + h copies half h of
// page p.
template <int kDim>
struct KeyProducer {
  static constexpr int kHalves = Layout<kDim>::kHalves, kTileBytes = Layout<kDim>::kTileBytes;
  const CUtensorMap* kv_map;
  const KernelArgs& args;
  uint8_t* shared;
  Barriers& bars;
  int stage = 0;
  uint32_t phase = 1;  // a fresh stage counts as released

  __device__ void Run(const PrefillItem& item) {
    const int lane = threadIdx.x % 32, page = lane / kHalves, half = lane % kHalves;
    const bool copies = page < kBlockPages;
    const int pages = (item.num_keys + item.num_tokens - 1 + kPageTokens - 1) / kPageTokens;
    const int column = args.expanded ? 0 : item.column;
    const auto page_id = [&](int p) {
      if (!copies || p >= pages) return -1;
      return args.expanded ? item.expanded + p : args.page_table[item.page_table + p];
    };
    uint8_t* keys = shared + kTileBytes + half * kHalfBytes + page * (kPageTokens * 128);
    uint8_t* values = keys + kStages * kTileBytes;
    const int end = item.first_block + item.num_blocks;
    int id = page_id(item.first_block * kBlockPages + page);
    for (int block = item.first_block; block < end; ++block) {
      // Beyond the row's end lie no pages: an index outside of the pool reads as zeros.
      const int at = id < 0 ? args.num_blocks : 2 * (id * args.group_size + column);
      if (block + 1 < end) id = page_id((block + 1) * kBlockPages + page);
      Copy(bars.k_full[stage], bars.k_empty[stage], keys + stage * kTileBytes, copies, half, at);
      Copy(bars.v_full[stage], bars.v_empty[stage], values + stage * kTileBytes, copies, half,
           at + 1);
      if (++stage == kStages) stage = 0, phase ^= 1;
    }
  }

  __device__ __forceinline__ void Copy(uint64_t& full, uint64_t& empty, uint8_t* to, bool copies,
                                       int half, int at) {
    ptx::BarrierWait(&empty, phase);
    if (threadIdx.x % 32 == 0) ptx::BarrierArriveExpect(&full, kTileBytes);
    __syncwarp();
    if (copies) ptx::CopyTile3D(to, kv_map, &full, half * 64, 0, at, ptx::kEvictNormal);
  }
};

}  // namespace tangram::ops::cuda::prefill_sm90
