#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/cpu/thread_pool.h"
#include "tensor/tensor.h"

namespace tangram::ops {

// Matrices as the CPU's products read them: tiles of 16 rows, so that one output fills one vector
// lane and the sum over K of an output never depends on how many rows or outputs are computed
// together. A tile holds its blocks one after the other; in a block the 32-bit words of the 16 rows
// lie side by side, then their 16-bit values (scales). Same size as stored, but for rows padded to
// a whole group of tiles.
inline constexpr int kTileRows = 16;
inline constexpr int kGroupRows = 32;

// The 32-bit words of a block as stored, and its 16-bit values; `words_at`, `halves_at`: byte
// offsets.
struct BlockParts {
  int words, words_at, halves, halves_at;
};
constexpr BlockParts PartsOf(DType type) {
  switch (type) {
    case DType::kF32:
      return {1, 0, 0, 0};
    case DType::kF16:
    case DType::kBF16:
      return {0, 0, 1, 0};
    case DType::kQ8_0:
      return {8, 2, 1, 0};
    case DType::kQ4_0:
      return {4, 2, 1, 0};
    case DType::kQ4_1:
      return {4, 4, 2, 0};
    case DType::kQ4_K:
      return {35, 4, 2, 0};  // 3 of scales, 32 of nibbles
    case DType::kQ5_K:
      return {43, 4, 2, 0};  // 3 of scales, 8 of high bits, 32 of nibbles
    case DType::kQ6_K:
      return {52, 0, 1, 208};  // 32 of nibbles, 16 of high bits, 4 of scales
    default:
      return {};
  }
}

// Bytes of one block of one tile, and of a whole tile of rows of `depth` elements.
constexpr size_t TileBlockBytes(DType type) { return kTileRows * BlockBytes(type); }
constexpr size_t TileBytes(DType type, int64_t depth) { return kTileRows * BytesFor(type, depth); }
constexpr int64_t NumGroups(int64_t rows) { return (rows + kGroupRows - 1) / kGroupRows; }
constexpr size_t PackedBytes(DType type, int64_t rows, int64_t depth) {
  return NumGroups(rows) * kGroupRows / kTileRows * TileBytes(type, depth);
}

// Packs `stored` ([N, K]) into PackedBytes at `packed`, zeroed.
void PackWeight(const TensorView& stored, void* packed, ThreadPool& pool);

// Row `row` of a packed [N, K] matrix, widened to f32 [K].
void ReadPackedRow(const TensorView& packed, int64_t row, float* out);

}  // namespace tangram::ops
