#pragma once

#include "ops/compression.h"
#include "ops/cuda/compress/compress.h"
#include "ops/cuda/kv_view.h"
#include "ops/cuda/step/begin_step.h"

namespace tangram::ops::cuda {

// A step on the device. Arrays of tokens are where StepArrays has them.
struct CudaStep : Step {
  bool recorded = false;  // decodes alone: one graph runs it
  int padded_decodes = 0;
  StepArrays arrays{};
  const int32_t* logit_rows = nullptr;   // [num_logit_rows]
  const int32_t* row_history = nullptr;  // [G] of the one span of a step that has one
  // Of all boundaries, round by round.
  const int32_t *boundary_slots = nullptr, *boundary_indices = nullptr,
                *boundary_retentions = nullptr;
};

// How kernels see what ops see.
inline cuda::KvView KernelView(const ops::KvView& kv) {
  return {kv.pool,       kv.dtype,      kv.head_dim,  kv.group_size,  kv.num_pages,
          kv.page_table, kv.num_groups, kv.max_pages, kv.heads.group, kv.heads.column};
}
inline RetainedTables KernelTables(const RetentionView& retention) {
  return {retention.retained, retention.num_boundaries, retention.num_groups, retention.chunk};
}

inline CompressBatch BatchOf(const BoundaryRange& at) {
  const auto& step = static_cast<const CudaStep&>(*at.step);
  const int first = step.input->rounds[static_cast<size_t>(at.round)].first_boundary + at.first;
  return {at.count, step.boundary_slots + first, step.boundary_indices + first,
          step.boundary_retentions + first};
}

inline CompressParams RowsOf(const BoundaryRange& at, float* scores, int window, int sinks) {
  const ops::KvView& kv = at.kv();
  return {BatchOf(at),
          KernelTables(kv.retention),
          KernelView(kv),
          scores,
          kv.num_kv_heads,
          at.first_layer,
          at.num_layers,
          window,
          sinks};
}

}  // namespace tangram::ops::cuda
