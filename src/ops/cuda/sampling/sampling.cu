#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "ops/cuda/sampling/draw.cuh"
#include "ops/cuda/sampling/logprobs.cuh"
#include "ops/cuda/sampling/sampling.h"

namespace tangram::ops::cuda {
namespace sampling {
namespace {

// How a row is dealt out.
struct Shares {
  unsigned blocks;
  int tokens;      // of a block, a multiple of 4
  bool in_shared;  // they have room in shared memory
};

__global__ void __launch_bounds__(kThreads, 2)
    SamplingKernel(const SamplingArgs args, const Shares shares) {
  LaunchDependents();
  WaitForPriorKernels();
  extern __shared__ uint4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int index = blockIdx.x / shares.blocks;
  Team team{shares.blocks, blockIdx.x % shares.blocks, &shared.partials};
  if (threadIdx.x == 0) shared.row = args.rows[index];
  __syncthreads();
  const SamplingRow& row = shared.row;

  const int first = static_cast<int>(team.rank) * shares.tokens;
  const Slice came{args.logits + row.logit_row * args.stride + first, first,
                   min(shares.tokens, args.vocabulary - first)};
  float* room = nullptr;
  if (shares.in_shared) {
    room = reinterpret_cast<float*>(memory + sizeof(Shared) / sizeof(uint4));
  } else if (row.adjusted()) {
    room = args.scratch + index * args.stride + first;
  }
  const bool logprobs = args.logprobs != nullptr && row.num_logprobs >= 0;
  const Loaded loaded = Load(args, row, came, logprobs, room, team);
  const int token = Draw(team, row, loaded, args.vocabulary, shared);
  if (team.rank == 0 && threadIdx.x == 0) {
    args.tokens[index] = token;
    args.drawn[row.slot] = max(token, 0);
  }
  if (logprobs) {
    WriteLogprobs(args, index, team, row.adjusted() ? came : loaded.slice, loaded.largest_came,
                  token, shared);
  }
  if (team.size > 1) team.Sync();  // others may still read what this block has
}

// Few rows are dealt out to clusters, for at most two blocks a processor. A block keeps its share
// in shared memory where that leaves room for as many blocks as there are.
Shares DealOut(int num_rows, int vocabulary) {
  const DeviceInfo& device = CurrentDevice();
  unsigned blocks = RunsHopperCode() ? kMostBlocks : 1;
  while (blocks > 1 && num_rows * blocks > 2u * device.num_sms) blocks /= 2;
  const int tokens = (vocabulary + 4 * blocks - 1) / (4 * blocks) * 4;
  const bool alone = num_rows * blocks <= static_cast<unsigned>(device.num_sms);
  constexpr size_t kReserved = 1024;  // of each block, by the system
  const size_t room = alone ? device.shared_bytes : (device.shared_bytes - kReserved) / 2;
  return {blocks, tokens, sizeof(Shared) + tokens * sizeof(float) <= room};
}

}  // namespace
}  // namespace sampling

void RunSampling(const SamplingArgs& args, cudaStream_t stream) {
  using namespace sampling;
  if (args.num_rows == 0) return;
  if (args.stride % 4 != 0 || args.stride < args.vocabulary || args.num_top > kMostTop) {
    std::fprintf(stderr, "RunSampling: a stride of %lld for a vocabulary of %d, %d likeliest\n",
                 static_cast<long long>(args.stride), args.vocabulary, args.num_top);
    std::abort();
  }
  const Shares shares = DealOut(args.num_rows, args.vocabulary);
  const size_t bytes = sizeof(Shared) + (shares.in_shared ? shares.tokens * sizeof(float) : 0);
  TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(
      SamplingKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, CurrentDevice().shared_bytes));
  LaunchChainedClusters(SamplingKernel, shares.blocks, dim3(args.num_rows * shares.blocks),
                        dim3(kThreads), bytes, stream, args, shares);
}

}  // namespace tangram::ops::cuda
