#include "ops/cuda/gemm/matmul_runner.h"

#include <algorithm>
#include <cmath>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/gemm/gemm_stream.h"

namespace tangram::ops::cuda {
namespace {

// Whether the streaming kernel is at least as fast as cuBLASLt (docs/measurements.md): but for the
// model's head.
bool Streams(const MatMulArgs& args) { return args.m <= 16 || (args.m <= 32 && args.n < 65536); }
// f32 columns that the product with few columns takes.
constexpr int kMostNarrow = 64;
// Shapes to remember a plan for that was not measured. Prompts may have any length.
constexpr size_t kMostExpected = 4096;

// What is left for the library: of the columns, those in bf16, or else those in f32.
struct Columns {
  MatMulArgs bf16, f32;
};
Columns Split(const MatMulArgs& args) {
  Columns c{args, args};
  c.bf16.n -= args.f32_columns;
  c.bf16.f32_columns = 0;
  if (c.bf16.out_stride == 0) c.bf16.out_stride = c.bf16.n;
  c.f32.n = args.f32_columns;
  c.f32.weight += static_cast<int64_t>(c.bf16.n) * args.k;
  if (args.bias != nullptr) c.f32.bias += c.bf16.n;
  return c;
}

}  // namespace

MatMulRunner::MatMulRunner(std::unique_ptr<CublasLt> library,
                           const StreamWorkspace& stream_workspace, void* library_workspace,
                           bool invariant)
    : library_(std::move(library)),
      stream_workspace_(stream_workspace),
      library_workspace_(library_workspace),
      invariant_(invariant) {}

void MatMulRunner::Run(const MatMulArgs& args, cudaStream_t stream) {
  if (args.m == 0) return;
  const bool streams = RunsHopperCode();
  if (invariant_) {
    // One tile and one order of K, which each kernel has for every M.
    if (!streams) return RunSimpleMatMul(args, stream);
    return RunStreamMatMul(args, stream_workspace_, {.invariant = true}, stream);
  }
  if (streams && (Streams(args) || library_ == nullptr)) {
    return RunStreamMatMul(args, stream_workspace_, {}, stream);
  }
  if (library_ == nullptr) return RunSimpleMatMul(args, stream);
  const Columns columns = Split(args);
  if (columns.bf16.n > 0) RunLibrary(columns.bf16, stream);
  if (columns.f32.n > kMostNarrow) {
    RunLibrary(columns.f32, stream);
  } else if (columns.f32.n > 0) {
    RunNarrowMatMul(columns.f32, stream);
  }
}

MatMulRunner::Key MatMulRunner::KeyOf(const MatMulArgs& a) {
  return {a.m, a.n, a.k, a.out_stride, a.bias != nullptr, a.f32_columns > 0};
}

void MatMulRunner::RunLibrary(const MatMulArgs& args, cudaStream_t stream) {
  const Key key = KeyOf(args);
  auto plan = tuned_.find(key);
  if (plan == tuned_.end()) {
    plan = expected_.find(key);
    if (plan == expected_.end()) {
      if (expected_.size() == kMostExpected) expected_.clear();
      auto found = library_->Plans(args, 1);
      plan = expected_.emplace(key, found.empty() ? nullptr : found[0]).first;
    }
  }
  if (plan->second == nullptr) return RunSimpleMatMul(args, stream);
  library_->Run(*plan->second, args, library_workspace_, stream);
}

float MatMulRunner::Microseconds(const CublasLt::Plan& plan, std::span<const MatMulArgs> products,
                                 int rounds, cudaStream_t stream) {
  cudaEvent_t begin, end;
  TANGRAM_CUDA_CHECK(cudaEventCreate(&begin));
  TANGRAM_CUDA_CHECK(cudaEventCreate(&end));
  float least = INFINITY;
  for (int round = 0; round < rounds; ++round) {
    TANGRAM_CUDA_CHECK(cudaEventRecord(begin, stream));
    for (const MatMulArgs& args : products) library_->Run(plan, args, library_workspace_, stream);
    TANGRAM_CUDA_CHECK(cudaEventRecord(end, stream));
    TANGRAM_CUDA_CHECK(cudaEventSynchronize(end));
    float milliseconds;
    TANGRAM_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    least = std::min(least, milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return 1000 * least / static_cast<float>(products.size());
}

void MatMulRunner::Tune(std::span<const MatMulArgs> products, cudaStream_t stream) {
  const bool streams = CurrentDevice().compute_major == 9;
  if (library_ == nullptr || invariant_ || (streams && Streams(products[0]))) return;
  for (auto part : {&Columns::bf16, &Columns::f32}) {
    std::vector<MatMulArgs> parts;
    for (const MatMulArgs& args : products) parts.push_back(Split(args).*part);
    if (parts[0].n == 0 || (part == &Columns::f32 && parts[0].n <= kMostNarrow)) continue;
    // The first look also lets the clocks rise; then the best few more closely.
    std::vector<std::pair<float, Plan>> plans;
    for (const Plan& plan : library_->Plans(parts[0], 24)) {
      plans.emplace_back(Microseconds(*plan, parts, 3, stream), plan);
    }
    std::stable_sort(plans.begin(), plans.end(),
                     [](auto& a, auto& b) { return a.first < b.first; });
    Plan best;
    float least = INFINITY;
    for (size_t i = 0; i < std::min<size_t>(plans.size(), 5); ++i) {
      const float us = Microseconds(*plans[i].second, parts, 10, stream);
      if (us < least) best = plans[i].second, least = us;
    }
    tuned_[KeyOf(parts[0])] = best;
  }
}

}  // namespace tangram::ops::cuda
