#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// A tile of queries of one KV head, or its part over some of its keys: `num_tokens` adjacent tokens
// of one sequence, each with the g query heads that share the head. The unit of work of a thread
// block.
struct PrefillItem {
  int32_t first_token;  // index into the step's T tokens
  int32_t num_tokens;
  int32_t kv_head;
  int32_t column;       // of the head in its pages
  int32_t num_keys;     // that the first token sees; each further token sees one more
  int32_t expanded;     // first page of the row among the expanded ones
  int64_t page_table;   // index of the row's first page id in KvView::page_table
  int32_t first_block;  // blocks of kPrefillBlockKeys keys that this part reads
  int32_t num_blocks;
  int32_t slot;  // where a part leaves its sums; -1 for a whole tile
  int32_t tile;  // its number among the plan's tiles
};

// A row whose pages items read: num_keys of them in all.
struct PrefillRow {
  int32_t column, num_keys, expanded, reserved = 0;
  int64_t page_table;
};

// A tile that was cut: its parts have the slots from `first_slot` on.
struct PrefillMerge {
  int32_t item;  // one of its parts
  int32_t first_slot, num_slots;
};

struct PrefillPlan {
  std::vector<PrefillItem> items;  // in the order of the blocks that take them
  std::vector<int32_t> ranges;     // block b takes items [ranges[b], ranges[b + 1])
  std::vector<PrefillMerge> merges;
  std::vector<PrefillRow> rows;  // needed for fp8 pages only
  int64_t num_pages = 0;         // of all rows
  int num_slots = 0;
};

// Tokens of one sequence in the step. Before them, row r of the sequence holds `row_history[r]`
// tokens; the step's own have been appended behind those. Host memory.
struct PrefillSequence {
  int slot;
  int first_token;
  int num_tokens;
  const int32_t* row_history;  // [G]
};

struct PrefillShape {
  int num_q_heads;
  int num_kv_heads;            // Hq a multiple of Hkv, Hq / Hkv <= 16
  const int32_t* head_row;     // [Hkv] of the layer, host memory
  const int32_t* head_column;  // [Hkv]
  int num_rows;                // G
  int max_pages_per_row;
};

// Packed rows (token, query head) of a tile, and keys of a block.
inline constexpr int kPrefillTileRows = 128;
inline constexpr int kPrefillBlockKeys = 128;

// Deals one layer's prefill attention out to `num_blocks` thread blocks, equally. Lengths are known
// to the host, so this runs ahead of the step, and the plan goes to the device with the rest of the
// step's input. Where there are too few tiles for an equal deal they are cut along their keys,
// unless `invariant`: then every tile is summed in one order.
PrefillPlan PlanPrefill(const PrefillShape& shape, std::span<const PrefillSequence> sequences,
                        int num_blocks, bool invariant);

// Bytes of a plan's partial sums.
size_t PrefillScratchBytes(const PrefillPlan& plan, int head_dim);

// Causal attention of each token over its row: history, then the step's tokens up to itself. K and
// V are read from the pages, in blocks of keys from the row's start, in order: under an invariant
// plan one kernel gives a token the same bits however the tokens are cut into steps. Not the bits
// of the other kernel, nor of decode attention, which sums in an order of its own: to keep a
// sequence's bits, whoever builds the steps must send the same tokens to prefill every time, a last
// step of one token too.
struct PrefillArgs {
  const __nv_bfloat16* qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated; the rest is not read
  __nv_bfloat16* out;        // [T, Hq * d]
  int num_tokens;            // T
  int num_q_heads;
  int num_kv_heads;
  float scale;  // of q.k
  KvView kv;    // head_row and head_column are not read
  // The plan's arrays in device memory, and their sizes. They are read ahead, while kernels before
  // still run, so they must have been there before any of those was launched.
  const PrefillItem* items;
  int num_items;
  const int32_t* ranges;
  int num_blocks;
  const PrefillMerge* merges;
  int num_merges;
  float* scratch;  // PrefillScratchBytes, if there are merges
  // For fp8 pages on Hopper, else unused: the plan's rows, and room for their pages in bf16.
  const PrefillRow* rows;
  int num_rows;
  __nv_bfloat16* expanded;  // [num_pages][K|V][16, d]
  int64_t num_expanded;
};

// The fastest kernel for the device: RunPrefillSm90 on Hopper, else RunPrefillSimple. The latter
// ignores cuts, and would compute a cut tile whole for each of its parts, with the right result:
// off Hopper, make invariant plans.
void RunPrefill(const PrefillArgs& args, cudaStream_t stream);

// Every GPU from sm_80 on; bf16 or fp8 pages; d = 64 or 128. For invariant plans (see RunPrefill).
void RunPrefillSimple(const PrefillArgs& args, cudaStream_t stream);

// sm_90a, d = 64 or 128. Tensor cores take no transposed fp8 operand, so fp8 pages are first
// expanded to bf16, exactly.
void RunPrefillSm90(const PrefillArgs& args, cudaStream_t stream);

}  // namespace tangram::ops::cuda
