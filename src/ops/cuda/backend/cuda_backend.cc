#include "ops/cuda/backend/cuda_backend.h"

#include <algorithm>

#include "base/log.h"
#include "ops/cuda/chain.h"
#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/step/elementwise.h"
#include "ops/cuda/step/pages.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kMaxNumTokens = 8192, kMaxNumSeqs = 256;
constexpr int kMostProductRows = 1 << 20;  // of a weight: sizes the streaming product's counters
// Tokens of steps that are not recorded are rounded up to these, so that few shapes of products
// come up.
constexpr int kFewTokens = 64, kManyTokensUnit = 64, kFewTokensUnit = 8;

// 1, 2, 4, 8, by 8 to 32, by 16 to 256, then by 32.
std::vector<int> DefaultSizes(int most) {
  std::vector<int> sizes;
  const auto step = [](int n) { return n < 8 ? n : n < 32 ? 8 : n < 256 ? 16 : 32; };
  for (int n = 1; n < most; n += step(n)) sizes.push_back(n);
  sizes.push_back(most);
  return sizes;
}

std::unique_ptr<CublasLt> OpenLibrary() {
  std::string tried;
  for (const char* path : {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13"}) {
    auto opened = CublasLt::Open(path);
    if (opened) return std::move(*opened);
    tried = opened.error().message;
  }
  LogWarning("cuBLASLt is not used, and large matrix products are slower: {}", tried);
  return nullptr;
}

}  // namespace

CudaBackend::CudaBackend(const BackendOptions& options) : options_(options) {
  if (options_.max_num_tokens == 0) options_.max_num_tokens = kMaxNumTokens;
  if (options_.max_num_seqs == 0) options_.max_num_seqs = kMaxNumSeqs;
  TANGRAM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  // Decodes of a step: a token of each sequence.
  const int most = std::min(options_.max_num_seqs, options_.max_num_tokens);
  sizes_ = options.graph_sizes.empty() ? DefaultSizes(most) : options.graph_sizes;
  std::ranges::sort(sizes_);
  std::erase_if(sizes_, [&](int n) { return n < 1 || n > most; });
  if (sizes_.empty() || sizes_.back() < most) sizes_.push_back(most);
  const size_t stream_bytes = StreamWorkspaceBytes(kMostProductRows, CurrentDevice().num_sms);
  products_.emplace(
      OpenLibrary(), StreamWorkspace{stream_workspace_.Get<std::byte>(stream_bytes), stream_bytes},
      library_workspace_.Get<std::byte>(CublasLt::kWorkspaceBytes), options.batch_invariant);
  attention_.emplace(options_.max_num_seqs, options.batch_invariant);
  sampling_.emplace(options_.max_num_seqs);
  drawn_.Get<int32_t>(static_cast<size_t>(options_.max_num_seqs) + 1);
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  for (auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph.exec);
  cudaStreamDestroy(stream_);
}

Limits CudaBackend::limits() const {
  constexpr int kWindow = 32;
  return {.head_dims = {64, 128},
          .page_sizes = {kPageTokens},
          .kv_dtypes = {DType::kBF16},
          .max_chunk = MaxCompressChunk(kWindow),
          .fastkvzip = false,
          .vocabulary_multiple = 4,
          .max_num_tokens = kMaxNumTokens,
          .max_num_seqs = kMaxNumSeqs};
}

BackendMemory CudaBackend::memory() const {
  size_t available = 0, total = 0;
  TANGRAM_CUDA_CHECK(cudaMemGetInfo(&available, &total));
  return {static_cast<int64_t>(available), static_cast<int64_t>(total)};
}

Buffer CudaBackend::Allocate(size_t bytes) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, std::max<size_t>(bytes, 16)) != cudaSuccess) {
    cudaGetLastError();  // told to the caller; the next check must not see it
    return {};
  }
  TANGRAM_CUDA_CHECK(cudaMemsetAsync(memory, 0, bytes, stream_));
  return {std::shared_ptr<void>(memory, [](void* p) { cudaFree(p); }), bytes};
}

void CudaBackend::Write(void* to, const void* from, size_t bytes) {
  // From pageable memory the call has copied when it returns.
  TANGRAM_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_));
}

void CudaBackend::Read(void* to, const void* from, size_t bytes) {
  TANGRAM_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_));
  TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream_));
}

int CudaBackend::SizeFor(int count) const {
  return *std::ranges::lower_bound(sizes_, std::min(count, sizes_.back()));
}

// Of steps that give no logits (calibration, a pass that scores a chunk) whoever looks at the
// activations counts on the step's own tokens.
int CudaBackend::PaddedTokens(const StepInput& input) const {
  const int count = static_cast<int>(input.tokens.size());
  if (input.logit_rows.empty()) return count;
  const int unit = count > kFewTokens ? kManyTokensUnit : kFewTokensUnit;
  return std::min((count + unit - 1) / unit * unit, std::max(count, options_.max_num_tokens));
}

void CudaBackend::StageBoundaries(const StepInput& input, int chunk, size_t (&offsets)[3]) {
  std::vector<int32_t> slots, indices, retentions;
  for (const BoundarySpan& boundary : input.boundaries) {
    slots.push_back(boundary.slot);
    indices.push_back(boundary.boundary / chunk);
    retentions.push_back(boundary.retention);
  }
  offsets[0] = staging_.Add(std::span<const int32_t>(slots));
  offsets[1] = staging_.Add(std::span<const int32_t>(indices));
  offsets[2] = staging_.Add(std::span<const int32_t>(retentions));
}

const Step& CudaBackend::Begin(const StepInput& input, const ops::KvView& kv, float* pool_scores) {
  TANGRAM_CUDA_CHECK(cudaSetDevice(0));  // for the driver's own calls, in whatever thread
  CudaStep& step = steps_[next_step_];
  next_step_ = (next_step_ + 1) % steps_.size();
  const int count = static_cast<int>(input.tokens.size());
  step.kv = kv;
  step.input = &input;
  step.recorded = input.num_decodes == count && !options_.enforce_eager;
  step.num_tokens = step.recorded ? SizeFor(count) : PaddedTokens(input);
  step.padded_decodes = step.recorded ? step.num_tokens : input.num_decodes;
  step.num_logit_rows = static_cast<int>(input.logit_rows.size());
  if (step.recorded) step.num_logit_rows = step.num_tokens;
  if (!step.recorded && input.num_decodes > 0) {
    step.num_logit_rows = std::max(step.num_logit_rows, SizeFor(step.num_logit_rows));
    step.num_logit_rows = std::min(step.num_logit_rows, step.num_tokens);
  }
  attention_->Prepare(kv);

  const auto capacity =
      static_cast<size_t>(std::max(options_.max_num_tokens, step.num_tokens) + kManyTokensUnit);
  auto* arrays = step_arrays_.Get<int32_t>(5 * capacity);
  step.arrays = {arrays, arrays + capacity, arrays + 2 * capacity, arrays + 3 * capacity,
                 arrays + 4 * capacity};
  step.tokens = step.arrays.tokens;

  std::vector<int32_t> from, to, history, rows = input.logit_rows;
  for (const PageCopy& copy : input.page_copies) from.push_back(copy.from), to.push_back(copy.to);
  rows.resize(static_cast<size_t>(step.num_logit_rows), 0);
  if (input.spans.size() == 1) {
    const SequenceSpan& s = input.spans.front();
    for (int g = 0; g < kv.num_groups; ++g) {
      history.push_back(RowLength(kv.host_retention, s.retention, g, s.position + 1) - 1);
    }
  }
  staging_.Begin();
  const size_t tokens = staging_.Add(std::span<const int32_t>(input.tokens));
  const size_t positions = staging_.Add(std::span<const int32_t>(input.positions));
  const size_t slots = staging_.Add(std::span<const int32_t>(input.slots));
  const size_t retentions = staging_.Add(std::span<const int32_t>(input.retentions));
  const size_t page_writes = staging_.Add(std::span<const PageWrite>(input.page_writes));
  const size_t copies_from = staging_.Add(std::span<const int32_t>(from));
  const size_t copies_to = staging_.Add(std::span<const int32_t>(to));
  const size_t logit_rows = staging_.Add(std::span<const int32_t>(rows));
  const size_t row_history = staging_.Add(std::span<const int32_t>(history));
  size_t boundaries[3];
  StageBoundaries(input, kv.retention.chunk, boundaries);
  attention_->StagePrefills(input, kv, staging_);
  staging_.Copy(stream_);

  RunBeginStep({.tokens = staging_.device<int32_t>(tokens),
                .positions = staging_.device<int32_t>(positions),
                .slots = staging_.device<int32_t>(slots),
                .retentions = staging_.device<int32_t>(retentions),
                .count = count,
                .padded = step.num_tokens,
                .num_decodes = input.num_decodes,
                .page_writes = staging_.device<PageWrite>(page_writes),
                .num_page_writes = static_cast<int>(input.page_writes.size()),
                .page_table = kv.page_table,
                .drawn = drawn_.Get<int32_t>(0),
                .arrays = step.arrays},
               stream_);
  const auto copy = [&](void* pool, int64_t bytes) {
    RunCopyPages({pool, bytes, staging_.device<int32_t>(copies_from),
                  staging_.device<int32_t>(copies_to), static_cast<int>(from.size())},
                 stream_);
  };
  copy(kv.pool, kv.page_bytes());
  if (pool_scores != nullptr) copy(pool_scores, int64_t{kv.group_size} * kv.page_size * 4);
  step.logit_rows = staging_.device<int32_t>(logit_rows);
  step.row_history = staging_.device<int32_t>(row_history);
  step.boundary_slots = staging_.device<int32_t>(boundaries[0]);
  step.boundary_indices = staging_.device<int32_t>(boundaries[1]);
  step.boundary_retentions = staging_.device<int32_t>(boundaries[2]);
  return step;
}

void CudaBackend::Run(const Step& base, const std::function<void()>& forward) {
  const auto& step = static_cast<const CudaStep&>(base);
  const auto run = [&] {
    if (step.padded_decodes > 0) attention_->PlanDecodes(step, stream_);
    forward();
  };
  if (!step.recorded) return run();
  Graph& graph = graphs_[{step.num_tokens, step.kv.pool}];
  if (graph.exec == nullptr) {
    run();  // loads the kernels and sizes the scratch memory, which cannot be done in a recording
    TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream_));
    cudaGraph_t recorded = nullptr;
    TANGRAM_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    BreakChain();
    run();
    TANGRAM_CUDA_CHECK(cudaStreamEndCapture(stream_, &recorded));
    TANGRAM_CUDA_CHECK(cudaGraphInstantiate(&graph.exec, recorded, 0));
    cudaGraphDestroy(recorded);
    return;  // the step has run
  }
  chain_broken = false;  // a graph begins when all before it is done
  TANGRAM_CUDA_CHECK(cudaGraphLaunch(graph.exec, stream_));
}

void CudaBackend::Embedding(const EmbeddingParams& p) {
  RunGatherRows({p.step->tokens, p.table.as<__nv_bfloat16>(), p.out.as<__nv_bfloat16>(),
                 static_cast<int>(p.out.shape[0]), static_cast<int>(p.out.shape[1])},
                stream_);
}

void CudaBackend::GatherRows(const GatherRowsParams& p) {
  const auto& step = static_cast<const CudaStep&>(*p.step);
  RunGatherRows({step.logit_rows, p.in.as<__nv_bfloat16>(), p.out.as<__nv_bfloat16>(),
                 static_cast<int>(p.out.shape[0]), static_cast<int>(p.out.shape[1])},
                stream_);
}

void CudaBackend::RmsNorm(const RmsNormParams& p) {
  RunRmsNorm({.x = p.x.as<__nv_bfloat16>(),
              .residual = p.residual.as<__nv_bfloat16>(),
              .weight = p.weight.as<float>(),
              .out = p.out.as<__nv_bfloat16>(),
              .tokens = static_cast<int>(p.residual.shape[0]),
              .width = static_cast<int>(p.residual.shape[1]),
              .epsilon = p.epsilon},
             stream_);
}

void CudaBackend::MatMul(const MatMulParams& p) {
  const int n = static_cast<int>(p.weight.shape[0]);
  const bool f32 = p.out.dtype == DType::kF32;
  MatMulArgs args{.x = p.x.as<__nv_bfloat16>(),
                  .weight = p.weight.as<__nv_bfloat16>(),
                  .bias = nullptr,
                  .out = f32 ? nullptr : p.out.as<__nv_bfloat16>(),
                  .out_f32 = f32 ? p.out.as<float>() : nullptr,
                  .m = static_cast<int>(p.x.shape[0]),
                  .n = n,
                  .k = static_cast<int>(p.weight.shape[1]),
                  .f32_columns = f32 ? n : 0,
                  .out_stride = p.out_stride};
  if (!p.bias.empty()) {
    args.bias = static_cast<const __nv_bfloat16*>(WeightUploader::Bf16Of(p.bias));
  }
  products_->Run(args, stream_);
}

void CudaBackend::SiluMul(const SiluMulParams& p) {
  RunSiluMul({p.gate_up.as<__nv_bfloat16>(), p.out.as<__nv_bfloat16>(),
              static_cast<int>(p.out.shape[0]), static_cast<int>(p.out.shape[1])},
             stream_);
}

void CudaBackend::Attention(const AttentionParams& p) { attention_->Run(p, staging_, stream_); }

Ticket CudaBackend::Sample(const TensorView& logits, const SamplingInput& input) {
  return sampling_->Sample(logits, input, drawn_.Get<int32_t>(0), stream_);
}

const SamplingOutput& CudaBackend::Wait(Ticket ticket) { return sampling_->Wait(ticket); }

}  // namespace tangram::ops::cuda

namespace tangram::ops {

Result<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  const auto unusable = [](std::string why) {
    return MakeError(ErrorKind::kUnsupported, std::move(why), "device");
  };
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0) {
    return unusable(fmt::format("no NVIDIA GPU can be used: {}", cudaGetErrorString(status)));
  }
  cudaDeviceProp device{};
  if (const cudaError_t status = cudaGetDeviceProperties(&device, 0); status != cudaSuccess) {
    return unusable(fmt::format("the GPU cannot be used: {}", cudaGetErrorString(status)));
  }
  if (device.major < 8) {
    return unusable(
        fmt::format("the {} is too old: compute capability 8.0 or newer is needed, it "
                    "has {}.{}",
                    device.name, device.major, device.minor));
  }
  try {
    auto backend = std::make_unique<cuda::CudaBackend>(options);
    LogInfo("Device: {}, {:.1f} GiB", device.name,
            static_cast<double>(device.totalGlobalMem) / (1 << 30));
    return backend;
  } catch (const std::exception& error) {
    return unusable(fmt::format("the {} cannot be used: {}", device.name, error.what()));
  }
}

}  // namespace tangram::ops
