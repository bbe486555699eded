#include "ops/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

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

}  // namespace

CUtensorMap EncodeTensorMap(const TensorMapSpec& spec) {
  CUtensorMap map;
  const std::array<cuuint32_t, 5> unit_strides{1, 1, 1, 1, 1};
  const CUresult result = EncodeFunction()(
      &map, spec.type, spec.rank, const_cast<void*>(spec.base), spec.dims.data(),
      spec.strides.data(), spec.box.data(), unit_strides.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
      spec.swizzle, spec.promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  TANGRAM_CHECK(result == CUDA_SUCCESS,
                "tensor map refused ({}): rank {}, dims {} {} {}, strides {} {}, box {} {} {}",
                static_cast<int>(result), spec.rank, spec.dims[0], spec.dims[1], spec.dims[2],
                spec.strides[0], spec.strides[1], spec.box[0], spec.box[1], spec.box[2]);
  return map;
}

}  // namespace tangram::ops::cuda
