#include <algorithm>
#include <iterator>
#include <vector>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"

namespace tangram::ops::cuda {

const DeviceInfo& CurrentDevice() {
  static const std::vector<DeviceInfo> devices = [] {
    int count = 0;
    TANGRAM_CUDA_CHECK(cudaGetDeviceCount(&count));
    std::vector<DeviceInfo> infos(count);
    for (int i = 0; i < count; ++i) {
      DeviceInfo& info = infos[i];
      auto read = [i](int* value, cudaDeviceAttr attribute) {
        TANGRAM_CUDA_CHECK(cudaDeviceGetAttribute(value, attribute, i));
      };
      read(&info.num_sms, cudaDevAttrMultiProcessorCount);
      read(&info.compute_major, cudaDevAttrComputeCapabilityMajor);
      read(&info.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    }
    return infos;
  }();
  int device = 0;
  TANGRAM_CUDA_CHECK(cudaGetDevice(&device));
  return devices[device];
}

bool RunsHopperCode() {
  constexpr int kCompiledFor[] = {__CUDA_ARCH_LIST__};  // nvcc's: 800 and 900, by default
  constexpr bool kForHopper = std::ranges::find(kCompiledFor, 900) != std::end(kCompiledFor);
  return kForHopper && CurrentDevice().compute_major == 9;
}

}  // namespace tangram::ops::cuda
