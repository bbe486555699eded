#pragma once

#include "ops/cuda/compress/compress.h"

namespace tangram::ops::cuda {

// The row of one head at its boundary, as every block of compression sees it.
struct CompressRow {
  const int32_t* pages;  // ids of the row's pages
  int column;
  int group_size;
  int first;       // of the candidates
  int candidates;  // N
  int keep;        // of them
  int old_length, new_length;

  __device__ int64_t VirtualPage(int index) const {
    return int64_t{pages[index / kPageTokens]} * group_size + column;
  }
};

// `block`: (sequence, layer, head), head innermost.
__device__ inline CompressRow LoadCompressRow(const CompressParams& p, int block) {
  const int head = block % p.num_kv_heads;
  const int layer = p.first_layer + block / p.num_kv_heads % p.num_layers;
  const int sequence = block / (p.num_kv_heads * p.num_layers);
  const int place = layer * p.num_kv_heads + head;
  const int row = p.kv.head_row[place];
  const int boundary = p.batch.boundary[sequence];
  const int32_t* retained =
      p.tables.retained +
      (int64_t{p.batch.table[sequence]} * p.tables.num_boundaries + boundary) * p.tables.num_rows +
      row;
  const int before = retained[-p.tables.num_rows];
  CompressRow r;
  r.pages = p.kv.page_table +
            (int64_t{p.batch.slot[sequence]} * p.kv.num_rows + row) * p.kv.max_pages_per_row;
  r.column = p.kv.head_column[place];
  r.group_size = p.kv.group_size;
  r.old_length = before + p.tables.chunk;
  r.new_length = *retained;
  r.first = max(p.sinks, before - p.window);
  r.candidates = r.old_length - p.window - r.first;
  r.keep = r.new_length - p.window - r.first;
  return r;
}

}  // namespace tangram::ops::cuda
