#include "ops/cuda/attention/decode_attention.h"

#include "ops/cuda/device.h"

namespace tangram::ops::cuda {

void RunDecodeAttention(const DecodeAttentionParams& params, const KvTensorMap& map,
                        cudaStream_t stream) {
  if (RunsHopperCode() && DecodeAttentionSm90Supports(params)) {
    RunDecodeAttentionSm90(params, map, stream);
  } else {
    RunDecodeAttentionSimple(params, stream);
  }
}

}  // namespace tangram::ops::cuda
