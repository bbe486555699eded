#pragma once

namespace tangram::ops::cuda {

// What kernels need to know of the current device; read once for each device.
struct DeviceInfo {
  int num_sms;
  int compute_major;  // 8: Ampere, Ada; 9: Hopper
  int compute_minor;
};
const DeviceInfo& CurrentDevice();

}  // namespace tangram::ops::cuda
