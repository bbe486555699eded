#include <algorithm>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/gemm/gemm_stream.cuh"
#include "ops/cuda/gemm/gemm_stream.h"
#include "ops/cuda/tensor_map.h"

namespace tangram::ops::cuda {
namespace {

// A row-major matrix [rows, depth], depth a multiple of 64, read in boxes of `subtiles` times 64
// columns of `box_rows` rows, one behind the other.
CUtensorMap UnitMap(const void* base, int64_t rows, int64_t depth, int box_rows, int subtiles) {
  TensorMapSpec spec;
  spec.base = base;
  spec.rank = 3;
  spec.dims = {64, cuuint64_t(rows), cuuint64_t(depth / 64)};
  spec.strides = {cuuint64_t(depth * 2), 128};
  spec.box = {64, cuuint32_t(box_rows), cuuint32_t(subtiles)};
  return EncodeTensorMap(spec);
}

template <class Tile, int kTokens>
void LaunchStream(const StreamLaunch& l) {
  using Layout = StreamLayout<Tile, kTokens>;
  const auto kernel = StreamKernel<Tile, kTokens>;
  [[maybe_unused]] static const bool raised = [&] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            (Tile::kSharedKib + 1) * 1024));
    return true;
  }();

  const MatMulArgs& a = l.args;
  const Layout layout(l.even_rows, a.m);
  const int tiles = (a.n + layout.rows - 1) / layout.rows;
  const int units_per_tile = (a.k + Tile::kDepth - 1) / Tile::kDepth;
  char* workspace = static_cast<char*>(l.workspace.data);
  const StreamArgs args{
      .bias = a.bias,
      .out = a.out,
      .out_f32 = a.out_f32,
      .partials = reinterpret_cast<float*>(workspace),
      .counters = reinterpret_cast<int*>(workspace + StreamPartialBytes(CurrentDevice().num_sms)),
      .m = a.m,
      .n = a.n,
      .f32_columns = a.f32_columns,
      .out_stride = a.out_stride,
      .even_rows = l.even_rows,
      .units_per_tile = units_per_tile,
      .units = tiles * units_per_tile};

  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(std::min(CurrentDevice().num_sms, args.units));
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = layout.bytes();
  config.stream = l.stream;
  config.attrs = &attribute;
  config.numAttrs = l.dependent_launch ? 1 : 0;
  TANGRAM_CUDA_CHECK(cudaLaunchKernelEx(
      &config, kernel, UnitMap(a.weight, a.n, a.k, layout.rows, Layout::kSubtiles),
      UnitMap(a.x, a.m, a.k, layout.tokens, Layout::kSubtiles), args));
}

template <class Tile, int kTokens = 8>
bool LaunchTile(const StreamLaunch& l, bool dry) {
  if constexpr (kTokens > kStreamMaxTokens) {
    return false;
  } else {
    if (l.args.m > kTokens) return LaunchTile<Tile, kTokens * 2>(l, dry);
    if (l.even_rows > Tile::kRows || !StreamLayout<Tile, kTokens>(l.even_rows, l.args.m).fits())
      return false;
    if (!dry) LaunchStream<Tile, kTokens>(l);
    return true;
  }
}

// As StreamConfigId numbers them.
constexpr StreamConfig kConfigs[] = {
    {"64x128", LaunchTile<StreamTile<64, 128, 4, 1, 96>>},
    {"16x512 even", LaunchTile<StreamTile<16, 512, 1, 4, 110, true>>, 16},
    {"32x256 even", LaunchTile<StreamTile<32, 256, 2, 2, 110, true>>, 32},
    {"48x256 even", LaunchTile<StreamTile<48, 256, 3, 2, 110, true>>, 48},
    {"48x128 even", LaunchTile<StreamTile<48, 128, 3, 2, 110, true>>, 48},
};

}  // namespace

std::span<const StreamConfig> StreamConfigs() { return kConfigs; }

}  // namespace tangram::ops::cuda
