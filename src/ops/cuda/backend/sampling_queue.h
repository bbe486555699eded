#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <vector>

#include "ops/backend.h"
#include "ops/cuda/backend/scratch.h"
#include "ops/cuda/backend/staging.h"
#include "ops/host/sampler.h"

namespace tangram::ops::cuda {

// Sampling that is queued behind a step, and what it drew, once that is back.
class SamplingQueue {
 public:
  explicit SamplingQueue(int max_rows);
  ~SamplingQueue();
  SamplingQueue(const SamplingQueue&) = delete;

  // `drawn` [slots] gets the tokens too.
  Ticket Sample(const TensorView& logits, const SamplingInput& input, int32_t* drawn,
                cudaStream_t stream);
  const SamplingOutput& Wait(Ticket ticket);

 private:
  // What comes back of a step. In pinned memory: tokens, logprobs, ranks [S] each, then tokens and
  // logprobs [S, num_top].
  struct Draw {
    cudaEvent_t done = nullptr;
    int32_t* host = nullptr;
    size_t capacity = 0;  // of `host`, elements
    std::vector<SamplingRow> rows;
    int num_top = 0;
    std::vector<std::vector<float>> raw;  // logits of rows that want more than the kernel gives
    SamplingOutput output;
  };

  void Reserve(Draw& draw, size_t elements);
  void FetchWholeRows(Draw& draw, const TensorView& logits, cudaStream_t stream);
  void Unpack(Draw& draw);

  Staging staging_;
  Scratch results_, adjusted_;
  std::array<Draw, 2> draws_;  // in turn
  Ticket next_ = 0;
  Sampler sampler_;
};

}  // namespace tangram::ops::cuda
