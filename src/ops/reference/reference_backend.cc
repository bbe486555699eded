#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/backend.h"
#include "ops/host/host_backend.h"
#include "ops/reference/compression.h"
#include "ops/reference/dequantize.h"
#include "ops/reference/head_row.h"

namespace tangram::ops {
namespace {

using reference::FastKvzipScore;
using reference::HeadRow;
using reference::QueryIndex;
using reference::Vector;

// Every op in the plainest form that is right, on one thread, sums in double: what all other
// backends are compared with. Nothing here is for speed.
class ReferenceBackend final : public HostBackend {
 public:
  TensorView UploadRows(std::span<const TensorView> parts) override {
    joined_.push_back(Join(parts));
    return joined_.back().view;
  }
  void Embedding(const EmbeddingParams& p) override;
  void RmsNorm(const RmsNormParams& p) override;
  void MatMul(const MatMulParams& p) override;
  void SiluMul(const SiluMulParams& p) override;
  void Append(const AppendParams& p) override;
  void Attention(const AttentionParams& p) override;
  void FastKvzip(const FastKvzipParams& p) override;
  void AppendScores(const AppendScoresParams& p) override;
  size_t QueryStateBytes(ScoreMethod method, const QueryScoring& queries, int window,
                         const QueryStateShape& shape) const override;
  void ObserveQueries(const ObserveQueriesParams& p) override;
  void Score(const ScoreParams& p) override;
  void Compact(const CompactParams& p) override;
  void MaxAttention(const MaxAttentionParams& p) override;
  void SumAttention(const SumAttentionParams& p) override;

 private:
  std::vector<Joined> joined_;  // of UploadRows
};

const void* StoredRow(const TensorView& table, int64_t row) {
  return table.as<std::byte>() + row * BytesFor(table.dtype, table.shape[1]);
}

void ReferenceBackend::Embedding(const EmbeddingParams& p) {
  const int64_t width = p.table.shape[1];
  for (int64_t t = 0; t < p.out.shape[0]; ++t) {
    Dequantize(p.table.dtype, StoredRow(p.table, p.step->tokens[t]), width,
               p.out.as<float>() + t * width);
  }
}

// out = in / sqrt(mean(in^2) + epsilon) * weight; out may be in.
void NormVector(const float* in, const float* weight, int64_t width, float epsilon, float* out) {
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(in[i]) * in[i];
  const double scale = 1 / std::sqrt(sum / static_cast<double>(width) + epsilon);
  for (int64_t i = 0; i < width; ++i) out[i] = static_cast<float>(in[i] * scale * weight[i]);
}

void ReferenceBackend::RmsNorm(const RmsNormParams& p) {
  const int64_t width = p.residual.shape[1];
  for (int64_t t = 0; t < p.residual.shape[0]; ++t) {
    float* residual = p.residual.as<float>() + t * width;
    if (!p.x.empty()) {
      for (int64_t i = 0; i < width; ++i) residual[i] += p.x.as<float>()[t * width + i];
    }
    NormVector(residual, p.weight.as<float>(), width, p.epsilon, p.out.as<float>() + t * width);
  }
}

void ReferenceBackend::MatMul(const MatMulParams& p) {
  const int64_t rows = p.x.shape[0], depth = p.weight.shape[1];
  const int64_t stride = p.out_stride != 0 ? p.out_stride : p.weight.shape[0];
  std::vector<float> weight(depth);
  for (int64_t n = 0; n < p.weight.shape[0]; ++n) {
    Dequantize(p.weight.dtype, StoredRow(p.weight, n), depth, weight.data());
    for (int64_t t = 0; t < rows; ++t) {
      double sum = p.bias.empty() ? 0 : p.bias.as<float>()[n];
      for (int64_t k = 0; k < depth; ++k) {
        sum += static_cast<double>(weight[k]) * p.x.as<float>()[t * depth + k];
      }
      p.out.as<float>()[t * stride + n] = static_cast<float>(sum);
    }
  }
}

void ReferenceBackend::SiluMul(const SiluMulParams& p) {
  const int64_t width = p.out.shape[1];
  for (int64_t t = 0; t < p.out.shape[0]; ++t) {
    const float* gate = p.gate_up.as<float>() + t * 2 * width;
    for (int64_t i = 0; i < width; ++i) {
      const double g = gate[i];
      p.out.as<float>()[t * width + i] =
          static_cast<float>(g / (1 + std::exp(-g)) * gate[width + i]);
    }
  }
}

// Rotates a head in place by the angles position * inv_freq (RoFormer, equation 34).
void Rotate(const AppendParams& p, int position, float* head) {
  const int half = p.at.kv().head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * p.rope.inv_freq[i];
    const double c = std::cos(angle) * p.rope.scale, s = std::sin(angle) * p.rope.scale;
    float& a = head[p.rope.style == RopeStyle::kHalf ? i : 2 * i];
    float& b = head[p.rope.style == RopeStyle::kHalf ? i + half : 2 * i + 1];
    const double x = a, y = b;
    a = static_cast<float>(x * c - y * s);
    b = static_cast<float>(x * s + y * c);
  }
}

void ReferenceBackend::Append(const AppendParams& p) {
  const KvView& kv = p.at.kv();
  const int d = kv.head_dim, kv_heads = kv.num_kv_heads;
  const int64_t stride = static_cast<int64_t>(p.num_q_heads + 2 * kv_heads) * d;
  for (int n = 0; n < p.at.num_spans(); ++n) {
    const SequenceSpan& s = p.at.span(n);
    for (int i = 0; i < s.num_tokens; ++i) {
      float* heads = p.qkv.as<float>() + (s.first_token + i) * stride;
      for (int h = 0; h < p.num_q_heads + kv_heads; ++h) {
        const TensorView& norm = h < p.num_q_heads ? p.q_norm : p.k_norm;
        float* head = heads + h * d;
        if (!norm.empty()) NormVector(head, norm.as<float>(), d, p.epsilon, head);
        Rotate(p, s.position + i, head);
      }
      for (int h = 0; h < kv_heads; ++h) {
        const HeadRow row(kv, p.at.layer, s.slot, h);
        const int at = p.at.History(s, row.group()) + i;
        const float* key = heads + (p.num_q_heads + h) * d;
        const float* value = key + kv_heads * d;
        row.Set(at, {key, key + d}, {value, value + d});
        if (p.new_scores.empty()) continue;
        p.pool_scores[row.ScoreIndex(at)] =
            p.new_scores.as<float>()[int64_t{s.first_token + i} * kv_heads + h];
      }
    }
  }
}

void ReferenceBackend::Attention(const AttentionParams& p) {
  const KvView& kv = p.at.kv();
  const int d = kv.head_dim;
  const int64_t stride = static_cast<int64_t>(p.num_q_heads + 2 * kv.num_kv_heads) * d;
  const int q_per_kv = p.num_q_heads / kv.num_kv_heads;
  for (int n = 0; n < p.at.num_spans(); ++n) {
    const SequenceSpan& s = p.at.span(n);
    for (int i = 0; i < s.num_tokens; ++i) {
      const int64_t token = s.first_token + i;
      for (int h = 0; h < p.num_q_heads; ++h) {
        const HeadRow row(kv, p.at.layer, s.slot, h / q_per_kv);
        const Vector weights = row.Attention(p.qkv.as<float>() + token * stride + h * d, p.scale,
                                             p.at.History(s, row.group()) + i + 1);
        Vector sum(static_cast<size_t>(d));
        for (int t = 0; t < static_cast<int>(weights.size()); ++t) {
          const Vector value = row.Value(t);
          for (int j = 0; j < d; ++j) sum[j] += weights[t] * value[j];
        }
        std::ranges::copy(sum, p.out.as<float>() + (token * p.num_q_heads + h) * d);
      }
    }
  }
}

void ReferenceBackend::FastKvzip(const FastKvzipParams& p) {
  const int64_t heads = p.scores.shape[1];
  for (int64_t i = 0; i < p.scores.shape.count(); ++i) {
    p.scores.as<float>()[i] = FastKvzipScore(p, i / heads, i % heads);
  }
}

void ReferenceBackend::AppendScores(const AppendScoresParams& p) {
  for (int h = 0; h < p.scores.shape[1]; ++h) reference::AppendScores(p, h);
}

size_t ReferenceBackend::QueryStateBytes(ScoreMethod method, const QueryScoring& queries, int,
                                         const QueryStateShape& shape) const {
  if (!LooksAtQueries(method)) return 0;
  return static_cast<size_t>(QueryIndex(queries, shape, shape.num_layers, 0, 0)) * sizeof(float);
}

void ReferenceBackend::ObserveQueries(const ObserveQueriesParams& p) {
  const int64_t width = p.qkv.shape[1], queries = int64_t{p.queries.num_q_heads} * p.shape.head_dim;
  for (int n = 0; n < p.at.num_spans(); ++n) {
    const SequenceSpan& s = p.at.span(n);
    for (int i = 0; s.compressed && i < s.num_tokens; ++i) {
      std::copy_n(p.qkv.as<float>() + (s.first_token + i) * width, queries,
                  static_cast<float*>(p.state) +
                      QueryIndex(p.queries, p.shape, p.at.layer, s.slot, s.position + i));
    }
  }
}

// body(boundary, layer, head)
template <class Body>
void ForHeads(const BoundaryRange& at, const Body& body) {
  for (int l = at.first_layer; l < at.first_layer + at.num_layers; ++l) {
    for (int i = 0; i < at.count; ++i) {
      for (int h = 0; h < at.kv().num_kv_heads; ++h) body(at.boundary(i), l, h);
    }
  }
}

void ReferenceBackend::Score(const ScoreParams& p) {
  ForHeads(p.at, [&](const BoundarySpan& s, int layer, int head) {
    reference::Score(p, s, layer, head);
  });
}

void ReferenceBackend::Compact(const CompactParams& p) {
  ForHeads(p.at, [&](const BoundarySpan& s, int layer, int head) {
    reference::Compact(p, s, layer, head);
  });
}

void ReferenceBackend::MaxAttention(const MaxAttentionParams& p) {
  for (int h = 0; h < p.step.at.kv().num_kv_heads; ++h) reference::MaxAttention(p, h);
}

void ReferenceBackend::SumAttention(const SumAttentionParams& p) {
  for (int h = 0; h < p.step.at.kv().num_kv_heads; ++h) reference::SumAttention(p, h);
}

}  // namespace

std::unique_ptr<Backend> CreateReferenceBackend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace tangram::ops
