#pragma once

#include "ops/compression.h"
#include "ops/reference/head_row.h"

namespace tangram::ops::reference {

// The compression ops in their plainest form, one head of one sequence at a time.

// A head's row when its sequence stands at a boundary: tokens [0, first) are protected, [first,
// last) the candidates, [last, length) the window. `before` were retained at the boundary before.
struct BoundaryRow {
  BoundaryRow(const KvView& kv, const BoundarySpan& span, int layer, int head, int window,
              int sinks);
  HeadRow row;
  int before, first, last, length;
};

void Compact(const CompactParams& params, const BoundarySpan& span, int layer, int head);
void Score(const ScoreParams& params, const BoundarySpan& span, int layer, int head);
void AppendScores(const AppendScoresParams& params, int head);
void MaxAttention(const MaxAttentionParams& params, int head);
void SumAttention(const SumAttentionParams& params, int head);
float FastKvzipScore(const FastKvzipParams& params, int64_t token, int64_t head);

// What is kept of queries until their chunk's boundary is the queries, rotated as they are:
// [L][slots][C][Hq * d]. The first element of a token's.
int64_t QueryIndex(const QueryScoring& queries, const QueryStateShape& shape, int layer, int slot,
                   int position);

}  // namespace tangram::ops::reference
