#pragma once

#include "ops/backend.h"

namespace tangram::ops {

// The CPU's compression ops, one head of one sequence, or one token, at a time: the backend deals
// heads and sequences to threads.

// The parts of a group's row when a sequence is compressed: candidates are tokens
// [first, length - window), and `kept` tokens stay.
struct RowAtBoundary {
  int first, length, kept;
};
RowAtBoundary RowOf(const KvView& kv, const BoundarySpan& boundary, int group, int window,
                    int sinks);

void CompactHead(const CompactParams& params, const BoundarySpan& sequence, int layer, int head);
void ScoreHead(const ScoreParams& params, const BoundarySpan& sequence, int layer, int head);
void FastKvzipToken(const FastKvzipParams& params, int64_t token);
void ObserveQueriesOf(const ObserveQueriesParams& params, const SequenceSpan& sequence, int head);
void MaxAttentionOf(const MaxAttentionParams& params, int head);
void SumAttentionOf(const SumAttentionParams& params, int head);
// Scores of tokens that are appended with their keys.
void AppendScoresOf(const AppendParams& params, const SequenceSpan& sequence, int head);
// Of a whole chunk.
void AppendScoresOf(const AppendScoresParams& params, int head);

// Floats that a slot has for each KV head of a layer, of what its chunk's queries left so far: for
// kSnapKv and kTova the sum of attention of each token from pool_kernel / 2 before the first
// candidate on; for kExpectedAttention, for each query head, the mean of the queries and the lower
// triangle of the sum of squares about it. 0: the method looks at no query.
int64_t QueryStateFloats(ScoreMethod method, const QueryScoring& queries, int num_kv_heads,
                         int window, int head_dim);

}  // namespace tangram::ops
