// FlashInfer's batch decode over the same pages as ours, on CUDA cores and on tensor cores (which
// is its batch prefill of one token each): each (sequence, KV head) is a sequence of its own, of
// one KV head; a virtual page is a page of 16 tokens. Its plan is made on the host for each layer
// and step, and timed apart. The program is built with -DTANGRAM_FLASHINFER_INCLUDE=DIR, the
// headers (flashinfer/data/include) of the wheel flashinfer-python.
//   tangram_flashinfer_decode PROFILES [ROW...]    rows as snapkv:llama-3.1-8b:8x32k:bf16; else all
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/attention/variants.cuh>
#include <flashinfer/pos_enc.cuh>
#include <string>
#include <vector>

#include "bench/cuda/bench.h"
#include "bench/cuda/decode_case.h"
#include "bench/cuda/decode_study.h"
#include "ops/cuda/device.h"

namespace tangram::bench {
namespace {

using ops::cuda::DeviceArray;
using ops::cuda::kPageTokens;

constexpr int kDim = 128, kGroup = 4;
constexpr auto kNoRope = flashinfer::PosEncodingMode::kNone;
using Variant = flashinfer::DefaultAttention<false, false, false, false>;
constexpr size_t kFloatBytes = size_t{256} << 20, kIntBytes = size_t{8} << 20;

using flashinfer::GetPtrFromBaseOffset;

// How FlashInfer plans and runs a layer, by kernel. What both need is in Layer.
template <class Kv>
struct OnCudaCores {
  using Params = flashinfer::BatchDecodeParams<__nv_bfloat16, Kv, __nv_bfloat16, int32_t>;
  using Plan = flashinfer::DecodePlanInfo;

  template <class Layer>
  static cudaError_t MakePlan(Layer& layer, void* floats, void* pinned) {
    auto estimate =
        flashinfer::BatchDecodeWithPagedKVCacheWorkEstimationDispatched<kGroup, kDim, kNoRope,
                                                                        Variant, Params>;
    return flashinfer::DecodePlan<kDim, kNoRope, Variant, Params>(
        floats, kFloatBytes, layer.workspace.data(), pinned, kIntBytes, layer.plan,
        layer.host_indptr.data(), layer.size(), kGroup, kPageTokens, false, nullptr, estimate);
  }
  template <class Layer>
  static void SetParams(const Layer&, Params&) {}
  template <class Layer>
  static cudaError_t Run(const Layer&, Params& params, __nv_bfloat16* values, float* sums,
                         cudaStream_t stream) {
    return flashinfer::BatchDecodeWithPagedKVCacheDispatched<kDim, kNoRope, Variant>(
        params, values, sums, true, stream);
  }
};

template <class Kv>
struct OnTensorCores {
  using Params = flashinfer::BatchPrefillPagedParams<__nv_bfloat16, Kv, __nv_bfloat16, int32_t>;
  using Plan = flashinfer::PrefillPlanInfo;
  static constexpr int kTile = 16;  // query rows, of which a group fills four

  template <class Layer>
  static cudaError_t MakePlan(Layer& layer, void* floats, void* pinned) {
    const cudaError_t status = flashinfer::PrefillPlan<int32_t>(
        floats, kFloatBytes, layer.workspace.data(), pinned, kIntBytes, layer.plan,
        layer.host_queries.data(), layer.host_indptr.data(), layer.size(), layer.size(), kGroup, 1,
        kDim, kDim, kPageTokens, false, sizeof(__nv_bfloat16), -1, -1, false, 0, 0, nullptr,
        sizeof(Kv));
    if (layer.plan.cta_tile_q != kTile) std::abort();
    return status;
  }
  template <class Layer>
  static void SetParams(const Layer& layer, Params& params) {
    void* ints = layer.workspace.data();
    params.group_size = flashinfer::uint_fastdiv(kGroup);
    params.q_indptr = layer.queries.data();
    params.qo_tile_indices = GetPtrFromBaseOffset<int32_t>(ints, layer.plan.qo_tile_indices_offset);
    params.max_total_num_rows = layer.plan.total_num_rows;
    params.partition_kv = layer.plan.split_kv;
    if (layer.plan.split_kv) {
      params.merge_indptr = GetPtrFromBaseOffset<int32_t>(ints, layer.plan.merge_indptr_offset);
    }
  }
  template <class Layer>
  static cudaError_t Run(const Layer&, Params& params, __nv_bfloat16* values, float* sums,
                         cudaStream_t stream) {
    return flashinfer::BatchPrefillWithPagedKVCacheDispatched<
        true, kTile, kDim, kDim, kNoRope, false, flashinfer::MaskMode::kNone, Variant>(
        params, values, sums, true, stream);
  }
};

template <class Kernel>
struct Layer {
  std::vector<int32_t> host_indptr, host_queries;
  DeviceArray<int32_t> indices, indptr, last, queries;
  DeviceArray<uint8_t> workspace;
  typename Kernel::Plan plan;
  typename Kernel::Params params;
  int size() const { return static_cast<int>(host_indptr.size()) - 1; }
};

template <class Kernel>
void RunLayer(Layer<Kernel>& layer, void* floats, cudaStream_t stream) {
  auto params = layer.params;
  void* ints = layer.workspace.data();
  params.request_indices = GetPtrFromBaseOffset<int32_t>(ints, layer.plan.request_indices_offset);
  params.kv_tile_indices = GetPtrFromBaseOffset<int32_t>(ints, layer.plan.kv_tile_indices_offset);
  params.o_indptr = GetPtrFromBaseOffset<int32_t>(ints, layer.plan.o_indptr_offset);
  params.kv_chunk_size_ptr =
      GetPtrFromBaseOffset<int32_t>(ints, layer.plan.kv_chunk_size_ptr_offset);
  params.padded_batch_size = layer.plan.padded_batch_size;
  Kernel::SetParams(layer, params);
  __nv_bfloat16* values = nullptr;
  float* sums = nullptr;
  if (layer.plan.split_kv) {
    values = GetPtrFromBaseOffset<__nv_bfloat16>(floats, layer.plan.v_offset);
    sums = GetPtrFromBaseOffset<float>(floats, layer.plan.s_offset);
  }
  TANGRAM_CUDA_CHECK(Kernel::Run(layer, params, values, sums, stream));
}

template <class Kernel, class Kv>
Layer<Kernel> MakeLayer(const DecodeCase& c, int index, __nv_bfloat16* out) {
  Layer<Kernel> layer;
  layer.host_indptr = {0};
  std::vector<int32_t> indices, last;
  for (int t = 0; t < c.size(); ++t) {
    for (int head = 0; head < c.shape().kv_heads; ++head) {
      for (int64_t page : c.VirtualPages(index, t, head)) indices.push_back(static_cast<int>(page));
      layer.host_indptr.push_back(static_cast<int>(indices.size()));
      last.push_back((c.EntryTokens(index, t, head) - 1) % kPageTokens + 1);
    }
  }
  for (int i = 0; i <= layer.size(); ++i) layer.host_queries.push_back(i);
  layer.queries = DeviceArray<int32_t>(layer.host_queries);
  layer.indices = DeviceArray<int32_t>(indices);
  layer.indptr = DeviceArray<int32_t>(layer.host_indptr);
  layer.last = DeviceArray<int32_t>(last);
  layer.workspace = DeviceArray<uint8_t>(kIntBytes);
  const auto ours = c.attention_params(index);
  Kv* pool = static_cast<Kv*>(ours.kv.pool);
  const int64_t strides[3] = {2 * kPageTokens * kDim, kDim, kDim};
  auto& params = layer.params;
  params.paged_kv = flashinfer::paged_kv_t<Kv, int32_t>(
      1, kPageTokens, kDim, static_cast<uint32_t>(last.size()), flashinfer::QKVLayout::kNHD, pool,
      pool + kPageTokens * kDim, strides, layer.indices.data(), layer.indptr.data(),
      layer.last.data());
  params.q = const_cast<__nv_bfloat16*>(ours.q);
  params.o = out;
  params.num_qo_heads = kGroup;
  params.q_stride_n = kGroup * kDim;
  params.q_stride_h = kDim;
  params.window_left = -1;
  params.sm_scale = ours.scale;
  params.rope_rcp_scale = params.rope_rcp_theta = 1;
  return layer;
}

// Microseconds a layer of planning; the least of five, since the host does it.
template <class Kernel>
double PlanMicroseconds(std::vector<Layer<Kernel>>& layers, void* floats) {
  void* pinned = nullptr;
  TANGRAM_CUDA_CHECK(cudaMallocHost(&pinned, kIntBytes));
  double best = 1e9;
  for (int repeat = 0; repeat < 5; ++repeat) {
    TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
    const auto start = std::chrono::steady_clock::now();
    for (auto& layer : layers) {
      TANGRAM_CUDA_CHECK(Kernel::MakePlan(layer, floats, pinned));
      TANGRAM_CUDA_CHECK(
          cudaStreamSynchronize(nullptr));  // before the pinned buffer is filled again
    }
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    best = std::min(best, time.count() / static_cast<double>(layers.size()));
  }
  cudaFreeHost(pinned);
  return best;
}

// What a batch is measured beside: ours, of the same data.
struct Ours {
  float us;                   // a layer's attention and combine
  std::vector<float> output;  // of layer 0
  double bytes;               // of a layer
};

Ours MeasureOurs(const DecodeCase& c) {
  Ours ours{0, {}, 0};
  c.Plan(nullptr);
  c.Attend(0, false, nullptr);
  ours.output = c.Output();
  for (int i = 0; i < c.shape().layers; ++i) ours.bytes += c.LayerBytes(i) / c.shape().layers;
  ours.us = GraphMicroseconds(
      c.shape().layers, 5, [&](int i, cudaStream_t stream) { c.Attend(i, false, stream, i > 0); });
  return ours;
}

template <class Kernel, class Kv>
void Measure(const char* kernel, const char* row, const DecodeCase& c, const Ours& ours) {
  const int num_layers = c.shape().layers;
  DeviceArray<__nv_bfloat16> out(size_t{1} * c.size() * c.shape().q_heads * kDim);
  DeviceArray<uint8_t> floats(kFloatBytes);
  std::vector<Layer<Kernel>> layers;
  for (int i = 0; i < num_layers; ++i) layers.push_back(MakeLayer<Kernel, Kv>(c, i, out.data()));
  const double plan_us = PlanMicroseconds(layers, floats.data());
  const float run = GraphMicroseconds(num_layers, 5, [&](int i, cudaStream_t stream) {
    RunLayer(layers[i], floats.data(), stream);
  });
  RunLayer(layers[0], floats.data(), nullptr);
  const auto theirs = out.Download();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < theirs.size(); ++i) {
    difference += std::pow(ours.output[i] - static_cast<float>(theirs[i]), 2);
    norm += std::pow(ours.output[i], 2);
  }
  std::printf(
      "%-40s %8.1f MB/layer: FlashInfer on %s cores run %8.2f us + plan %7.2f us a layer; ours "
      "%8.2f us + plan; run %.3fx, with plan %.3fx; difference %.1e\n",
      row, 1e-6 * ours.bytes, kernel, run, plan_us, ours.us, run / ours.us,
      (run + plan_us) / ours.us, std::sqrt(difference / norm));
  std::fflush(stdout);
}

template <class Kv>
void MeasureBoth(const char* row, const DecodeShape& shape, const DecodeLoad& load,
                 const std::vector<int32_t>& places) {
  const DecodeCase c(shape, load, places, ops::cuda::SplitMode::kEqualRanges,
                     ops::cuda::CurrentDevice().num_sms, false, 1);
  const Ours ours = MeasureOurs(c);
  Measure<OnTensorCores<Kv>, Kv>("tensor", row, c, ours);
  Measure<OnCudaCores<Kv>, Kv>("CUDA", row, c, ours);
}

}  // namespace
}  // namespace tangram::bench

int main(int argc, char** argv) {
  using namespace tangram;
  using namespace tangram::bench;
  const std::string profiles = argc > 1 ? argv[1] : ".";
  const std::vector<std::string> wanted(argv + std::min(argc, 2), argv + argc);
  std::printf("# FlashInfer decode: %s\n", DescribeDevice().c_str());
  for (const char* scorer : {"snapkv", "keydiff"}) {
    for (const StudyModel& model : kStudyModels) {
      for (const DecodeContexts& batch : StudyBatches()) {
        for (DType dtype : {DType::kBF16, DType::kF8E4M3}) {
          auto contexts = batch.contexts;
          if (dtype == DType::kBF16 && contexts.size() == 64) contexts.resize(40);
          const std::string row = std::string(scorer) + ":" + model.name + ":" + batch.name +
                                  (dtype == DType::kBF16 ? ":bf16" : ":fp8");
          if (!wanted.empty() && std::count(wanted.begin(), wanted.end(), row) == 0) continue;
          const DecodeShape shape{model.layers, 32, 8, kDim, 4, dtype};
          std::vector<int32_t> places;
          const auto load =
              ProfileLoad(shape, ReadRatios(profiles + "/" + scorer + "-" + model.name + ".txt"),
                          kStudyRatio, contexts, kStudyChunk, &places);
          if (dtype == DType::kBF16) {
            MeasureBoth<__nv_bfloat16>(row.c_str(), shape, load, places);
          } else {
            MeasureBoth<__nv_fp8_e4m3>(row.c_str(), shape, load, places);
          }
        }
      }
    }
  }
}
