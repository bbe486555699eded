#include "ops/cpu/packed_weight.h"

#include <algorithm>
#include <cstring>

#include "ops/reference/dequantize.h"

namespace tangram::ops {
namespace {

// Rows `rows` of `stored` from `first` on into lanes 0, 1, ... of one tile.
void PackTile(const TensorView& stored, int64_t first, int rows, std::byte* tile) {
  const BlockParts parts = PartsOf(stored.dtype);
  const int64_t depth = stored.shape[1], num_blocks = depth / BlockSize(stored.dtype);
  const size_t row_bytes = BytesFor(stored.dtype, depth);
  for (int64_t b = 0; b < num_blocks; ++b, tile += TileBlockBytes(stored.dtype)) {
    const std::byte* block =
        stored.as<std::byte>() + first * row_bytes + b * BlockBytes(stored.dtype);
    std::byte* halves = tile + parts.words * kTileRows * 4;
    for (int lane = 0; lane < rows; ++lane, block += row_bytes) {
      for (int i = 0; i < parts.words; ++i) {
        std::memcpy(tile + (i * kTileRows + lane) * 4, block + parts.words_at + i * 4, 4);
      }
      for (int i = 0; i < parts.halves; ++i) {
        std::memcpy(halves + (i * kTileRows + lane) * 2, block + parts.halves_at + i * 2, 2);
      }
    }
  }
}

}  // namespace

void PackWeight(const TensorView& stored, void* packed, ThreadPool& pool) {
  const int64_t rows = stored.shape[0];
  const auto num_tiles = static_cast<int>((rows + kTileRows - 1) / kTileRows);
  const int tiles_a_task = std::max(1, num_tiles / (8 * pool.num_threads()));
  const size_t tile_bytes = TileBytes(stored.dtype, stored.shape[1]);
  pool.Run((num_tiles + tiles_a_task - 1) / tiles_a_task, [&](int task, int) {
    const int end = std::min(num_tiles, (task + 1) * tiles_a_task);
    for (int tile = task * tiles_a_task; tile < end; ++tile) {
      const int64_t first = int64_t{tile} * kTileRows;
      PackTile(stored, first, static_cast<int>(std::min<int64_t>(kTileRows, rows - first)),
               static_cast<std::byte*>(packed) + tile * tile_bytes);
    }
  });
}

void ReadPackedRow(const TensorView& packed, int64_t row, float* out) {
  const DType type = packed.dtype;
  const BlockParts parts = PartsOf(type);
  const int64_t depth = packed.shape[1], block_size = BlockSize(type);
  const int64_t lane = row % kTileRows;
  const std::byte* tile = packed.as<std::byte>() + row / kTileRows * TileBytes(type, depth);
  std::byte block[256];
  for (int64_t k = 0; k < depth; k += block_size, tile += TileBlockBytes(type)) {
    const std::byte* halves = tile + parts.words * kTileRows * 4;
    for (int i = 0; i < parts.words; ++i) {
      std::memcpy(block + parts.words_at + i * 4, tile + (i * kTileRows + lane) * 4, 4);
    }
    for (int i = 0; i < parts.halves; ++i) {
      std::memcpy(block + parts.halves_at + i * 2, halves + (i * kTileRows + lane) * 2, 2);
    }
    Dequantize(type, block, block_size, out + k);
  }
}

}  // namespace tangram::ops
