#pragma once

namespace tangram::ops::cuda {

// What kernels need to know of the current device; read once for each device.
struct DeviceInfo {
  int num_sms;
  int compute_major;  // 8: Ampere, Ada; 9: Hopper
  int shared_bytes;   // of shared memory that a block may have
};
const DeviceInfo& CurrentDevice();

// Whether the current device runs what was compiled for Hopper (sm_90a): clusters, programmatic
// launch, the copy engine. Every other one runs the code of sm_80, later ones by translating its
// PTX: what `__CUDA_ARCH__ >= 900` guards is not in it, so that the host may not ask for it there.
// A Hopper runs that code too where the portable kernels were compiled for nothing else
// (-DTANGRAM_CUDA_ARCHITECTURES=80-virtual), so that it can be tested without an older GPU.
bool RunsHopperCode();

}  // namespace tangram::ops::cuda
