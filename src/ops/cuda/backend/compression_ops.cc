#include <algorithm>

#include "ops/cuda/backend/cuda_backend.h"
#include "ops/cuda/compress/received_attention.h"
#include "ops/cuda/compress/score_queries.h"
#include "ops/cuda/step/append.h"
#include "ops/cuda/step/pages.h"

// Append, and what compression adds to a step.

namespace tangram::ops::cuda {
namespace {

const CudaStep& StepOf(const LayerRound& at) { return static_cast<const CudaStep&>(*at.step); }

// Of the queries that are kept until their chunk's boundary.
int KeptQueriesOf(ScoreMethod method, const QueryScoring& queries) {
  if (!LooksAtQueries(method)) return 0;
  return method == ScoreMethod::kExpectedAttention ? queries.chunk : queries.query_window;
}

KeptQueries Kept(ScoreMethod method, const QueryScoring& queries, const void* state,
                 const QueryStateShape& shape) {
  return {static_cast<__nv_bfloat16*>(const_cast<void*>(state)), shape.num_layers,
          queries.num_q_heads, KeptQueriesOf(method, queries)};
}

CudaStepQueries QueriesOf(const StepQueries& step) {
  const ops::KvView& kv = step.at.kv();
  return {.qkv = step.qkv.as<__nv_bfloat16>(),
          .num_tokens = step.at.span(0).num_tokens,
          .num_q_heads = step.num_q_heads,
          .num_kv_heads = kv.num_kv_heads,
          .scale = step.scale,
          .kv = KernelView(kv),
          .layer = step.at.layer,
          .slot = step.at.span(0).slot,
          .row_history = StepOf(step.at).row_history,
          .scratch = nullptr};
}

}  // namespace

// All tokens at once where one round has them all, padding included.
template <class Body>
void CudaBackend::ForTokenRuns(const LayerRound& at, int num_tokens, const Body& body) const {
  if (at.step->num_rounds() == 1) return body(0, num_tokens);
  for (int i = 0; i < at.num_spans(); ++i) body(at.span(i).first_token, at.span(i).num_tokens);
}

void CudaBackend::Append(const AppendParams& p) {
  const CudaStep& step = StepOf(p.at);
  const ops::KvView& kv = p.at.kv();
  const int64_t width = int64_t{p.num_q_heads + 2 * kv.num_kv_heads} * kv.head_dim;
  ForTokenRuns(p.at, step.num_tokens, [&](int first, int count) {
    const float* scores = p.new_scores.as<float>();
    RunAppend(
        {.qkv = p.qkv.as<__nv_bfloat16>() + first * width,
         .num_tokens = count,
         .num_q_heads = p.num_q_heads,
         .num_kv_heads = kv.num_kv_heads,
         .q_norm = p.q_norm.as<float>(),
         .k_norm = p.k_norm.as<float>(),
         .epsilon = p.epsilon,
         .position = step.arrays.positions + first,
         .slot = step.arrays.slots + first,
         .table = step.arrays.retentions + first,
         .inv_freq = p.rope.inv_freq,
         .rope_scale = p.rope.scale,
         .rope_interleaved = p.rope.style == RopeStyle::kInterleaved,
         .kv = KernelView(kv),
         .tables = KernelTables(kv.retention),
         .layer = p.at.layer,
         .new_scores = scores == nullptr ? nullptr : scores + int64_t{first} * kv.num_kv_heads,
         .scores = p.pool_scores,
         .early_start = true},
        stream_);
  });
}

void CudaBackend::FastKvzip(const ops::FastKvzipParams& p) {
  const int dim = static_cast<int>(p.gate.q_norm.shape[0]);
  const int kv_heads = static_cast<int>(p.scores.shape[1]);
  RunFastKvzip({.projected = p.queries.as<float>(),
                .num_tokens = static_cast<int>(p.scores.shape[0]),
                .num_kv_heads = kv_heads,
                .group = static_cast<int>(p.queries.shape[1]) / dim / kv_heads - 1,
                .dim = dim,
                .num_sinks = static_cast<int>(p.gate.base.shape[2]),
                .q_norm = p.gate.q_norm.as<float>(),
                .k_norm = p.gate.k_norm.as<float>(),
                .base = p.gate.base.as<float>(),
                .bias = p.gate.bias.as<float>(),
                .epsilon = 1e-6f,
                .scores = p.scores.as<float>()},
               stream_);
}

void CudaBackend::AppendScores(const AppendScoresParams& p) {
  const ops::KvView& kv = p.step->kv;
  RunAppendChunkScores({.new_scores = p.scores.as<float>(),
                        .num_kv_heads = kv.num_kv_heads,
                        .slot = p.boundary.slot,
                        .table = p.boundary.retention,
                        .boundary = p.boundary.boundary,
                        .kv = KernelView(kv),
                        .tables = KernelTables(kv.retention),
                        .layer = p.layer,
                        .scores = p.pool_scores},
                       stream_);
}

size_t CudaBackend::QueryStateBytes(ScoreMethod method, const QueryScoring& queries, int,
                                    const QueryStateShape& shape) const {
  return static_cast<size_t>(shape.num_slots) * static_cast<size_t>(shape.num_layers) *
         static_cast<size_t>(KeptQueriesOf(method, queries)) *
         static_cast<size_t>(queries.num_q_heads * shape.head_dim) * sizeof(__nv_bfloat16);
}

void CudaBackend::ObserveQueries(const ObserveQueriesParams& p) {
  const CudaStep& step = StepOf(p.at);
  const ops::KvView& kv = p.at.kv();
  const int64_t width = int64_t{p.queries.num_q_heads + 2 * kv.num_kv_heads} * kv.head_dim;
  ForTokenRuns(p.at, step.num_tokens, [&](int first, int count) {
    RunKeepQueries({.qkv = p.qkv.as<__nv_bfloat16>() + first * width,
                    .num_tokens = count,
                    .num_kv_heads = kv.num_kv_heads,
                    .head_dim = kv.head_dim,
                    .position = step.arrays.positions + first,
                    .slot = step.arrays.slots + first,
                    .chunk = p.queries.chunk,
                    .layer = p.at.layer,
                    .kept = Kept(p.method, p.queries, p.state, p.shape)},
                   stream_);
  });
}

void CudaBackend::Score(const ScoreParams& p) {
  const CompressParams rows = RowsOf(p.at, p.pool_scores, p.window, p.sinks);
  const ops::KvView& kv = p.at.kv();
  if (p.method == ScoreMethod::kKeyDiff) return RunScoreKeyDiff(rows, stream_);
  if (p.method == ScoreMethod::kStreamingLlm) return RunScoreStreamingLlm(rows, stream_);
  const KeptQueries queries = Kept(p.method, p.queries, p.state, p.shape);
  if (p.method == ScoreMethod::kExpectedAttention) {
    ExpectedAttentionParams params{.rows = rows,
                                   .queries = queries,
                                   .inv_freq = p.rope.inv_freq,
                                   .rope_scale = p.rope.scale,
                                   .rope_interleaved = p.rope.style == RopeStyle::kInterleaved,
                                   .use_covariance = p.queries.use_covariance,
                                   .use_value_norm = p.queries.use_value_norm,
                                   .future_positions = p.queries.future_positions,
                                   .epsilon = p.queries.epsilon,
                                   .scratch = nullptr};
    params.scratch = scores_scratch_.Get<std::byte>(ExpectedAttentionScratchBytes(params));
    return RunScoreExpectedAttention(params, stream_);
  }
  int longest = 0;
  for (int i = 0; i < p.at.count; ++i) {
    const BoundarySpan& b = p.at.boundary(i);
    for (int g = 0; g < kv.num_groups; ++g) {
      longest = std::max(longest, RowLength(kv.host_retention, b.retention, g, b.boundary));
    }
  }
  const bool snapkv = p.method == ScoreMethod::kSnapKv;
  AttentionScoreParams params{.rows = rows,
                              .queries = queries,
                              .scale = 1.0f / std::sqrt(static_cast<float>(kv.head_dim)),
                              .pool = !snapkv               ? AttentionPool::kNone
                                      : p.queries.pool_mean ? AttentionPool::kMean
                                                            : AttentionPool::kMax,
                              .pool_kernel = p.queries.pool_kernel,
                              .mean_over_layer = !snapkv,
                              .max_tokens = longest,
                              .scratch = nullptr};
  params.scratch = scores_scratch_.Get<std::byte>(AttentionScoreScratchBytes(params));
  RunScoreAttention(params, stream_);
}

void CudaBackend::Compact(const CompactParams& p) {
  RunSelectAndCompact(RowsOf(p.at, p.pool_scores, p.window, p.sinks), stream_);
}

void CudaBackend::MaxAttention(const MaxAttentionParams& p) {
  CudaStepQueries step = QueriesOf(p.step);
  step.scratch = queries_scratch_.Get<float>(StepQueriesScratchBytes(step) / sizeof(float));
  RunMaxAttention({step, p.count, p.out}, stream_);
}

void CudaBackend::SumAttention(const SumAttentionParams& p) {
  const ops::KvView& kv = p.step.at.kv();
  const SequenceSpan& span = p.step.at.span(0);
  CudaStepQueries step = QueriesOf(p.step);
  step.scratch = queries_scratch_.Get<float>(StepQueriesScratchBytes(step) / sizeof(float));
  int longest = 0;
  for (int g = 0; g < kv.num_groups; ++g) {
    longest =
        std::max(longest, RowLength(kv.host_retention, span.retention, g, span.position + 1) - 1);
  }
  RunSumAttention({step, p.window, longest, p.out}, stream_);
}

}  // namespace tangram::ops::cuda
