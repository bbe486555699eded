#pragma once

#include <cstdint>
#include <vector>

#include "ops/kv_view.h"

namespace tangram::ops {

// One forward step as a value: what the engine hands to a backend, once, before the step's ops.
// Symbols as in backend.h.

// An entry of the page table, as KvView::Place counts, gets a page.
struct PageWrite {
  int32_t place, page;
};

// All columns of a page, and what lies beside them, are copied.
struct PageCopy {
  int32_t from, to;
};

// Consecutive tokens of one sequence that no boundary divides.
struct SequenceSpan {
  int32_t slot;         // in the page table
  int32_t retention;    // which retention table gives the lengths
  int32_t first_token;  // index into the step's T tokens
  int32_t num_tokens;
  int32_t position;         // of the first token
  bool compressed = false;  // whether the sequence is ever compressed
};

// A sequence of `boundary` tokens that is compressed there.
struct BoundarySpan {
  int32_t slot;
  int32_t retention;
  int32_t boundary;  // b, a position
};

// A part of a step that no boundary of any sequence divides: first the sequences in `boundaries`
// are compressed, then the tokens of `spans` are appended and attend. A sequence that crosses
// boundaries has a span in several rounds.
struct Round {
  int32_t first_span, num_spans;
  int32_t first_boundary, num_boundaries;
};

// Host memory, reused from step to step.
struct StepInput {
  // In place of a token: what the slot drew last.
  static constexpr int32_t kLastDrawn = -1;

  std::vector<int32_t> tokens;      // [T], decodes first
  std::vector<int32_t> positions;   // [T], true positions
  std::vector<int32_t> slots;       // [T]
  std::vector<int32_t> retentions;  // [T]
  int num_decodes = 0;  // leading tokens, a span of round 0 each, that go on from a whole prompt
  std::vector<int32_t> logit_rows;  // tokens whose logits are wanted, ascending
  // Before the step, in this order; no place twice.
  std::vector<PageWrite> page_writes;
  std::vector<PageCopy> page_copies;
  std::vector<Round> rounds;
  std::vector<SequenceSpan> spans;       // round by round; decodes first
  std::vector<BoundarySpan> boundaries;  // round by round

  void Clear() {
    tokens.clear();
    positions.clear();
    slots.clear();
    retentions.clear();
    num_decodes = 0;
    logit_rows.clear();
    page_writes.clear();
    page_copies.clear();
    rounds.clear();
    spans.clear();
    boundaries.clear();
  }
};

// A step that a backend has taken up (Backend::Begin). Backends derive their own.
struct Step {
  KvView kv;
  int num_tokens = 0;               // T; more than were given where a graph is padded
  int num_logit_rows = 0;           // likewise
  const int32_t* tokens = nullptr;  // [T] in the backend's memory, none of them kLastDrawn
  // The step as it was given, in host memory.
  const StepInput* input = nullptr;

  int num_rounds() const { return static_cast<int>(input->rounds.size()); }
};

// What a layer's op works on: a round of a step.
struct LayerRound {
  const Step* step;
  int round;
  int layer;

  const KvView& kv() const { return step->kv; }
  const Round& of() const { return step->input->rounds[static_cast<size_t>(round)]; }
  int num_spans() const { return of().num_spans; }
  const SequenceSpan& span(int i) const {
    return step->input->spans[static_cast<size_t>(of().first_span + i)];
  }
  int num_boundaries() const { return of().num_boundaries; }
  const BoundarySpan& boundary(int i) const {
    return step->input->boundaries[static_cast<size_t>(of().first_boundary + i)];
  }
  // Of the layer's head `head`.
  int group(int head) const { return kv().heads.group[layer * kv().num_kv_heads + head]; }
  int column(int head) const { return kv().heads.column[layer * kv().num_kv_heads + head]; }
  // Tokens that the group holds before the span's.
  int History(const SequenceSpan& s, int group) const {
    return RowLength(kv().retention, s.retention, group, s.position + 1) - 1;
  }
};

}  // namespace tangram::ops
