#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "ops/backend.h"

namespace tangram::ops {

struct BackendOptions {
  // cpu, cuda, reference; auto: an NVIDIA GPU that can be used, else the CPU.
  std::string device = "auto";
  int num_threads = 0;  // of the CPU backend; 0: one for each core this process may use
  // Of a CUDA device:
  int max_num_tokens = 0;        // of the largest step; 0: Limits::max_num_tokens
  int max_num_seqs = 0;          // likewise
  bool batch_invariant = false;  // a request's bits do not depend on what runs beside it
  bool enforce_eager = false;    // no step is recorded as a graph
  std::vector<int> graph_sizes;  // sequences of recorded decode steps; empty: chosen
};

// The one place that knows all backends. kUnsupported, saying why, if a device that was asked for
// cannot be used.
Result<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

// In a build with CUDA: the backend, or why it cannot be used here. In others: that it is not
// built.
Result<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options);

}  // namespace tangram::ops
