#pragma once

#include "ops/compression.h"

namespace tangram::ops {

// The compression ops on host memory, one head of one sequence, or one token, at a time: backends
// loop over heads
// and sequences, or deal them to threads. `transposed_keys`: Backend::transposed_keys().

void CompactHead(const CompactParams& params, const BoundarySpan& sequence, int head,
                 bool transposed_keys);
void ScoreHead(const ScoreParams& params, const BoundarySpan& sequence, int head,
               bool transposed_keys);
void FastKvzipToken(const FastKvzipParams& params, int64_t token);
void ObserveQueriesOf(const ObserveQueriesParams& params, const SequenceSpan& sequence, int head,
                      bool transposed_keys);
void MaxAttentionOf(const MaxAttentionParams& params, int head, bool transposed_keys);
void SumAttentionOf(const SumAttentionParams& params, int head, bool transposed_keys);
void AppendScoresOf(const AppendScoresParams& params, const SequenceSpan& sequence, int head);

}  // namespace tangram::ops
