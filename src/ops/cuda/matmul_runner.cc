#include "ops/cuda/matmul_runner.h"

#include "ops/cuda/device.h"
#include "ops/cuda/gemm_stream.h"

namespace tangram::ops::cuda {
namespace {

// Where the streaming kernel is faster than cuBLASLt (docs/measurements.md).
bool Streams(const MatMulArgs& args) {
  const bool large = args.k >= 8192 || static_cast<int64_t>(args.n) * args.k >= int64_t{32} << 20;
  return args.m <= 16 ||
         (args.m <= 32 && (large || ChooseStreamConfig(args.m, args.n) == k32x256Whole));
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
  RunLibrary(args, stream);
}

void MatMulRunner::RunLibrary(const MatMulArgs& args, cudaStream_t stream) {
  MatMulArgs main = args;
  if (args.f32_columns > 0) {
    main.n -= args.f32_columns;
    main.f32_columns = 0;
    if (main.out_stride == 0) main.out_stride = main.n;
    MatMulArgs rest = args;  // a few columns: the plain kernel costs next to nothing
    rest.n = args.f32_columns;
    rest.weight += static_cast<int64_t>(main.n) * args.k;
    if (args.bias != nullptr) rest.bias += main.n;
    RunSimpleMatMul(rest, stream);
  }
  const std::array<int64_t, 5> key{main.m, main.n, main.k, main.out_stride, main.bias != nullptr};
  auto plan = plans_.find(key);
  if (plan == plans_.end()) {
    auto found = library_->Plans(main, 1);
    plan = plans_.emplace(key, found.empty() ? nullptr : found[0]).first;
  }
  if (plan->second == nullptr) return RunSimpleMatMul(main, stream);
  library_->Run(*plan->second, main, library_workspace_, stream);
}

}  // namespace tangram::ops::cuda
