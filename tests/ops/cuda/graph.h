#pragma once

#include <cuda_runtime.h>

#include <functional>

#include "ops/cuda/check.h"

namespace tangram {

// What was launched while it was captured, to be replayed.
class Graph {
 public:
  explicit Graph(const std::function<void(cudaStream_t)>& launch) {
    TANGRAM_CUDA_CHECK(cudaStreamCreate(&stream_));
    TANGRAM_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    launch(stream_);
    TANGRAM_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph_));
    TANGRAM_CUDA_CHECK(cudaGraphInstantiate(&exec_, graph_, 0));
  }
  ~Graph() {
    cudaGraphExecDestroy(exec_);
    cudaGraphDestroy(graph_);
    cudaStreamDestroy(stream_);
  }
  void Replay() {
    TANGRAM_CUDA_CHECK(cudaGraphLaunch(exec_, stream_));
    TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream_));
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace tangram
