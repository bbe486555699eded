#include "ops/cuda/attention/prefill.h"

#include "base/check.h"
#include "ops/cuda/device.h"

namespace tangram::ops::cuda {

void RunPrefill(const PrefillArgs& args, cudaStream_t stream) {
  TANGRAM_CHECK(args.kv.head_dim == 64 || args.kv.head_dim == 128, "head_dim {}", args.kv.head_dim);
  if (RunsHopperCode()) return RunPrefillSm90(args, stream);
  RunPrefillSimple(args, stream);
}

}  // namespace tangram::ops::cuda
