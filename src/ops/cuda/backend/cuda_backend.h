#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>

#include "ops/create_backend.h"
#include "ops/cuda/backend/attention_runner.h"
#include "ops/cuda/backend/sampling_queue.h"
#include "ops/cuda/backend/scratch.h"
#include "ops/cuda/backend/staging.h"
#include "ops/cuda/backend/views.h"
#include "ops/cuda/backend/weights.h"
#include "ops/cuda/gemm/matmul_runner.h"

namespace tangram::ops::cuda {

// One NVIDIA GPU, one stream. Calls queue kernels and return; nothing comes back but what Wait and
// Read ask for. Steps of decodes alone are recorded once for each size and replayed.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options);
  ~CudaBackend() override;

  DType activation_dtype() const override { return DType::kBF16; }
  Limits limits() const override;
  int steps_in_flight() const override { return 2; }
  BackendMemory memory() const override;
  Buffer Allocate(size_t bytes) override;
  TensorView UploadRows(std::span<const TensorView> parts) override {
    return weights_.Upload(parts);
  }
  void Write(void* to, const void* from, size_t bytes) override;
  void Read(void* to, const void* from, size_t bytes) override;

  std::vector<int> recorded_sizes() const override {
    return options_.enforce_eager ? std::vector<int>() : sizes_;
  }
  const Step& Begin(const StepInput& input, const ops::KvView& kv, float* pool_scores) override;
  void Run(const Step& step, const std::function<void()>& forward) override;

  void Embedding(const EmbeddingParams& p) override;
  void RmsNorm(const RmsNormParams& p) override;
  void MatMul(const MatMulParams& p) override;
  void SiluMul(const SiluMulParams& p) override;
  void Append(const AppendParams& p) override;
  void Attention(const AttentionParams& p) override;
  void GatherRows(const GatherRowsParams& p) override;
  void FastKvzip(const ops::FastKvzipParams& p) override;
  void AppendScores(const AppendScoresParams& p) override;
  size_t QueryStateBytes(ScoreMethod method, const QueryScoring& queries, int window,
                         const QueryStateShape& shape) const override;
  void ObserveQueries(const ObserveQueriesParams& p) override;
  void Score(const ScoreParams& p) override;
  void Compact(const CompactParams& p) override;
  void MaxAttention(const MaxAttentionParams& p) override;
  void SumAttention(const SumAttentionParams& p) override;

  Ticket Sample(const TensorView& logits, const SamplingInput& input) override;
  const SamplingOutput& Wait(Ticket ticket) override;

 private:
  struct Graph {
    cudaGraphExec_t exec = nullptr;
  };

  int PaddedTokens(const StepInput& input) const;
  int SizeFor(int count) const;
  void StageBoundaries(const StepInput& input, int chunk, size_t (&offsets)[3]);
  // body(first token, count) for each run of tokens of the round.
  template <class Body>
  void ForTokenRuns(const LayerRound& at, int num_tokens, const Body& body) const;

  BackendOptions options_;
  cudaStream_t stream_ = nullptr;
  std::vector<int> sizes_;  // of recorded steps, ascending
  WeightUploader weights_;
  Staging staging_;
  Scratch step_arrays_, drawn_, stream_workspace_, library_workspace_, scores_scratch_,
      queries_scratch_;
  std::optional<MatMulRunner> products_;
  std::optional<AttentionRunner> attention_;
  std::optional<SamplingQueue> sampling_;
  std::array<CudaStep, 4> steps_;  // in turn
  size_t next_step_ = 0;
  std::map<std::pair<int, const void*>, Graph> graphs_;  // by tokens and pool
};

}  // namespace tangram::ops::cuda
