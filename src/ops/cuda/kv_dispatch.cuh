#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdio>
#include <cstdlib>
#include <type_traits>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

template <class T>
struct TypeTag {
  using Type = T;
};

// Calls run(TypeTag<Kv>, std::integral_constant<int, d>) for the pool's type and head_dim, 64 or
// 128: what the models served have, and all kernels of attention.
template <class Run>
void DispatchKv(const KvView& kv, const char* op, const Run& run) {
  const auto of_dim = [&](auto dim) {
    if (kv.head_dim != dim.value) return false;
    kv.dtype == DType::kF8E4M3 ? run(TypeTag<__nv_fp8_e4m3>{}, dim)
                               : run(TypeTag<__nv_bfloat16>{}, dim);
    return true;
  };
  if (of_dim(std::integral_constant<int, 64>{}) || of_dim(std::integral_constant<int, 128>{})) {
    return;
  }
  std::fprintf(stderr, "%s: head_dim %d is neither 64 nor 128\n", op, kv.head_dim);
  std::abort();
}

}  // namespace tangram::ops::cuda
