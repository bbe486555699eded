#include <cstring>
#include <vector>

#include "base/cores.h"
#include "base/log.h"
#include "ops/backend.h"
#include "ops/cpu/attention.h"
#include "ops/cpu/elementwise.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/packed_weight.h"
#include "ops/cpu/thread_pool.h"
#include "ops/host/compression.h"

namespace tangram::ops {
namespace {

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int num_threads)
      : pool_(num_threads > 0 ? num_threads : AvailableCores()),
        matmul_{pool_, {}, std::vector<Scratch>(pool_.num_threads())},
        attention_{pool_, std::vector<Scratch>(pool_.num_threads()), {}, {}} {}

  DType activation_dtype() const override { return DType::kF32; }
  bool transposed_keys() const override { return true; }
  Buffer Allocate(size_t bytes) override { return Buffer::AllocateHost(bytes); }

  TensorView Upload(const TensorView& stored) override {
    if (stored.shape.rank() != 2) return stored;
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
      ReadPackedRow(p.table, p.tokens[t], p.out.as<float>() + t * width);
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
  void Append(const AppendParams& p) override { AppendCpu(p, rope_, pool_); }
  void Attention(const AttentionParams& p) override { AttentionCpu(p, attention_); }

  void FastKvzip(const FastKvzipParams& p) override {
    pool_.Run(static_cast<int>(p.scores.shape[0]), [&](int t, int) { FastKvzipToken(p, t); });
  }
  // A few stores for each token: not worth waking a thread.
  void AppendScores(const AppendScoresParams& p) override {
    for (const SequenceSpan& s : p.sequences) {
      for (int head = 0; head < p.scores.shape[1]; ++head) AppendScoresOf(p, s, head);
    }
  }
  void ObserveQueries(const ObserveQueriesParams& p) override {
    ForHeads(p, p.num_kv_heads, [&](const SequenceSpan& s, int head) {
      ObserveQueriesOf(p, s, head, transposed_keys());
    });
  }
  void Score(const ScoreParams& p) override {
    ForHeads(p, p.num_kv_heads,
             [&](const BoundarySpan& s, int head) { ScoreHead(p, s, head, transposed_keys()); });
  }
  void Compact(const CompactParams& p) override {
    ForHeads(p, p.num_kv_heads,
             [&](const BoundarySpan& s, int head) { CompactHead(p, s, head, transposed_keys()); });
  }

  void MaxAttention(const MaxAttentionParams& p) override {
    pool_.Run(p.step.num_kv_heads, [&](int h, int) { MaxAttentionOf(p, h, transposed_keys()); });
  }
  void SumAttention(const SumAttentionParams& p) override {
    pool_.Run(p.step.num_kv_heads, [&](int h, int) { SumAttentionOf(p, h, transposed_keys()); });
  }

  void CopyPages(const CopyPagesParams& p) override {
    const size_t bytes =
        BytesFor(p.pool.dtype, int64_t{2} * p.pool.group_size * p.pool.page_size * p.pool.head_dim);
    auto* pool = static_cast<std::byte*>(p.pool.data);
    for (size_t i = 0; i < p.from.size(); ++i) {
      std::memcpy(pool + p.to[i] * bytes, pool + p.from[i] * bytes, bytes);
    }
  }

  void GatherRows(const GatherRowsParams& p) override {
    const size_t bytes = BytesFor(p.in.dtype, p.in.shape[1]);
    for (size_t i = 0; i < p.rows.size(); ++i) {
      std::memcpy(p.out.as<std::byte>() + i * bytes, p.in.as<std::byte>() + p.rows[i] * bytes,
                  bytes);
    }
  }

  void Synchronize() override {}

 private:
  // Deals the heads of all sequences to threads.
  template <class Params, class Body>
  void ForHeads(const Params& p, int num_heads, const Body& body) {
    pool_.Run(static_cast<int>(p.sequences.size()) * num_heads,
              [&](int i, int) { body(p.sequences[i / num_heads], i % num_heads); });
  }

  ThreadPool pool_;
  std::vector<Buffer> packed_;  // of Upload
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
