#include <vector>

#include "base/cores.h"
#include "base/log.h"
#include "ops/backend.h"
#include "ops/cpu/attention.h"
#include "ops/cpu/compression.h"
#include "ops/cpu/elementwise.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/packed_weight.h"
#include "ops/cpu/thread_pool.h"
#include "ops/host/host_backend.h"

namespace tangram::ops {
namespace {

class CpuBackend final : public HostBackend {
 public:
  explicit CpuBackend(int num_threads)
      : pool_(num_threads > 0 ? num_threads : AvailableCores()),
        matmul_{pool_, {}, std::vector<Scratch>(pool_.num_threads())},
        attention_{pool_, std::vector<Scratch>(pool_.num_threads()), {}, {}} {}

  bool transposed_keys() const override { return true; }

  TensorView UploadRows(std::span<const TensorView> parts) override {
    const Joined joined = Join(parts);
    const TensorView& stored = joined.view;
    if (stored.empty() || stored.shape.rank() != 2) return stored;
    const size_t bytes = PackedBytes(stored.dtype, stored.shape[0], stored.shape[1]);
    Buffer packed = Buffer::AllocateHost(bytes);
    if (packed.data() == nullptr) return {};
    PackWeight(stored, packed.data(), pool_);
    packed_.push_back(packed);
    return {packed.data(), stored.dtype, stored.shape};
  }

  void Embedding(const EmbeddingParams& p) override {
    const int64_t width = p.table.shape[1];
    pool_.Run(static_cast<int>(p.out.shape[0]), [&](int t, int) {
      ReadPackedRow(p.table, p.step->tokens[t], p.out.as<float>() + t * width);
    });
  }

  void RmsNorm(const RmsNormParams& p) override { RmsNormCpu(p, pool_); }

  void MatMul(const MatMulParams& p) override {
    if (IsBlockQuantized(p.weight.dtype)) {
      MatMulQuantized(p, matmul_);
    } else {
      MatMulFloat(p, matmul_);
    }
  }

  void SiluMul(const SiluMulParams& p) override { SiluMulCpu(p, pool_); }
  // Scores are a few stores for each token: not worth waking a thread.
  void Append(const AppendParams& p) override {
    AppendCpu(p, rope_, pool_);
    if (p.new_scores.empty()) return;
    for (int i = 0; i < p.at.num_spans(); ++i) {
      for (int h = 0; h < p.at.kv().num_kv_heads; ++h) AppendScoresOf(p, p.at.span(i), h);
    }
  }
  void Attention(const AttentionParams& p) override { AttentionCpu(p, attention_); }

  void FastKvzip(const FastKvzipParams& p) override {
    pool_.Run(static_cast<int>(p.scores.shape[0]), [&](int t, int) { FastKvzipToken(p, t); });
  }
  void AppendScores(const AppendScoresParams& p) override {
    for (int head = 0; head < p.scores.shape[1]; ++head) AppendScoresOf(p, head);
  }
  size_t QueryStateBytes(ScoreMethod method, const QueryScoring& queries, int window,
                         const QueryStateShape& shape) const override {
    const int64_t heads = int64_t{shape.num_layers} * shape.num_slots * shape.num_kv_heads;
    return static_cast<size_t>(heads * QueryStateFloats(method, queries, shape.num_kv_heads, window,
                                                        shape.head_dim)) *
           sizeof(float);
  }
  void ObserveQueries(const ObserveQueriesParams& p) override {
    const int heads = p.at.kv().num_kv_heads;
    pool_.Run(p.at.num_spans() * heads,
              [&](int i, int) { ObserveQueriesOf(p, p.at.span(i / heads), i % heads); });
  }
  void Score(const ScoreParams& p) override {
    ForHeads(p.at,
             [&](const BoundarySpan& s, int layer, int head) { ScoreHead(p, s, layer, head); });
  }
  void Compact(const CompactParams& p) override {
    ForHeads(p.at,
             [&](const BoundarySpan& s, int layer, int head) { CompactHead(p, s, layer, head); });
  }

  void MaxAttention(const MaxAttentionParams& p) override {
    pool_.Run(p.step.at.kv().num_kv_heads, [&](int h, int) { MaxAttentionOf(p, h); });
  }
  void SumAttention(const SumAttentionParams& p) override {
    pool_.Run(p.step.at.kv().num_kv_heads, [&](int h, int) { SumAttentionOf(p, h); });
  }

 private:
  // Deals the heads of all layers and sequences to threads.
  template <class Body>
  void ForHeads(const BoundaryRange& at, const Body& body) {
    const int heads = at.kv().num_kv_heads;
    pool_.Run(at.num_layers * at.count * heads, [&](int i, int) {
      const int layer = at.first_layer + i / (at.count * heads);
      body(at.boundary(i / heads % at.count), layer, i % heads);
    });
  }

  ThreadPool pool_;
  std::vector<Buffer> packed_;  // of UploadRows
  MatMulContext matmul_;
  AttentionContext attention_;
  RopeTable rope_;
};

}  // namespace

std::unique_ptr<Backend> CreateCpuBackend(int num_threads) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    LogWarning("this processor has no AVX2: the slow reference operations are used");
    return CreateReferenceBackend();
  }
#endif
  return std::make_unique<CpuBackend>(num_threads);
}

}  // namespace tangram::ops
