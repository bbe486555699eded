#include "ops/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <string>

#include "base/check.h"

namespace tangram::ops::cuda {
namespace {

// The driver's function, found through the runtime: nothing links against the driver itself.
PFN_cuTensorMapEncodeTiled_v12000 EncodeFunction() {
  static const auto function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult status{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &status);
    TANGRAM_CHECK(error == cudaSuccess && status == cudaDriverEntryPointSuccess,
                  "the CUDA driver has no cuTensorMapEncodeTiled ({}): it must be 525 or later",
                  cudaGetErrorString(error));
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry);
  }();
  return function;
}

// "a b c": the first of them.
template <class Values>
std::string First(const Values& values, int count) {
  return fmt::format("{}", fmt::join(values.begin(), values.begin() + count, " "));
}

}  // namespace

CUtensorMap EncodeTensorMap(const TensorMapSpec& spec) {
  CUtensorMap map;
  const std::array<cuuint32_t, 5> unit_strides{1, 1, 1, 1, 1};
  const CUresult result = EncodeFunction()(
      &map, spec.type, spec.rank, const_cast<void*>(spec.base), spec.dims.data(),
      spec.strides.data(), spec.box.data(), unit_strides.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
      spec.swizzle, spec.promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  TANGRAM_CHECK(result == CUDA_SUCCESS, "tensor map refused ({}): dims {}, strides {}, box {}",
                static_cast<int>(result), First(spec.dims, spec.rank),
                First(spec.strides, spec.rank - 1), First(spec.box, spec.rank));
  return map;
}

}  // namespace tangram::ops::cuda
