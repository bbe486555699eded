#include <algorithm>

#include "ops/cuda/check.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/step/begin_step.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    BeginStepKernel(const __grid_constant__ BeginStepParams p) {
  const int thread = blockIdx.x * kThreads + threadIdx.x, threads = gridDim.x * kThreads;
  for (int i = thread; i < p.num_page_writes; i += threads) {
    const PageWrite write = p.page_writes[i];
    p.page_table[write.place] = write.page;
  }
  for (int i = thread; i < p.padded; i += threads) {
    const bool ours = i < p.count;
    const int position = ours ? p.positions[i] : -1, slot = ours ? p.slots[i] : 0;
    int token = ours ? p.tokens[i] : 0;
    if (token == StepInput::kLastDrawn) token = p.drawn[slot];
    p.arrays.tokens[i] = max(token, 0);  // a draw that failed: its sequence ends
    p.arrays.positions[i] = position;
    p.arrays.slots[i] = slot;
    p.arrays.retentions[i] = ours ? p.retentions[i] : 0;
    p.arrays.num_tokens[i] = i < p.num_decodes ? position + 1 : 0;
  }
}

}  // namespace

void RunBeginStep(const BeginStepParams& params, cudaStream_t stream) {
  const int work = std::max(params.padded, params.num_page_writes);
  const int blocks = std::clamp((work + kThreads - 1) / kThreads, 1, 1024);
  BeginStepKernel<<<blocks, kThreads, 0, stream>>>(params);
  TANGRAM_CUDA_CHECK_LAUNCH();
  BreakChain();
}

}  // namespace tangram::ops::cuda
