#include "engine/batch_builder.h"

#include <algorithm>

namespace tangram {

void StepBatch::Build(const SchedulerOutput& output, const Scheduler& scheduler) {
  Clear();
  for (const ScheduledSequence& s : output.sequences) {
    const auto tokens = scheduler.Tokens(s.id).subspan(s.num_computed, s.num_tokens);
    Add(s, tokens, scheduler.table(s.table));
  }
  Finish();
}

void StepBatch::Build(const ScheduledSequence& sequence, std::span<const TokenId> tokens,
                      const RetentionTable& table) {
  Clear();
  Add(sequence, tokens, table);
  Finish();
}

void StepBatch::Clear() {
  tokens_.clear();
  positions_.clear();
  logit_rows_.clear();
  num_rounds_ = num_row_arrays_ = 0;
}

void StepBatch::Add(const ScheduledSequence& s, std::span<const TokenId> tokens,
                    const RetentionTable& table) {
  const int first = static_cast<int>(tokens_.size());
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  for (int i = 0; i < s.num_tokens; ++i) positions_.push_back(s.num_computed + i);
  if (s.samples) logit_rows_.push_back(first + s.num_tokens - 1);
  AddSpans(s, table, first);
}

void StepBatch::Finish() {
  views_.clear();
  for (size_t i = 0; i < num_rounds_; ++i) {
    views_.push_back({rounds_[i].boundaries, rounds_[i].sequences});
  }
}

ForwardInput StepBatch::Input(const PageTable& pages) const {
  ForwardInput input;
  input.tokens = tokens_;
  input.positions = positions_;
  input.rounds = views_;
  input.pages = {pages.data(), pages.num_rows(), pages.max_pages_per_row()};
  input.logit_rows = logit_rows_;
  return input;
}

// Cuts the sequence's tokens at its boundaries, one part for each round. Compression at b comes
// just before token b, so a part that begins at b begins with it.
void StepBatch::AddSpans(const ScheduledSequence& s, const RetentionTable& table, int first_token) {
  const int end = s.num_computed + s.num_tokens;
  size_t round_index = 0;
  for (int n = s.num_computed; n < end;) {
    Round& round = RoundAt(round_index++);
    const int next_boundary = table.full() ? end : (n / table.chunk() + 1) * table.chunk();
    const int count = std::min(end, next_boundary) - n;
    if (!table.full() && n > s.boundary && n % table.chunk() == 0)
      AddBoundary(table, s.slot, n, round);
    int32_t* history = NewRowArray();
    // The length that token n reads counts the token itself, and has compression at n behind it.
    for (size_t row = 0; row < num_rows_; ++row) {
      history[row] = table.Length(static_cast<int>(row), n + 1) - 1;
    }
    const int since_boundary = table.full() ? -1 : n % table.chunk();
    round.sequences.push_back(
        {s.slot, first_token + n - s.num_computed, count, history, since_boundary});
    n += count;
  }
}

void StepBatch::AddBoundary(const RetentionTable& table, int slot, int boundary, Round& round) {
  int32_t *locked = NewRowArray(), *length = NewRowArray(), *kept = NewRowArray();
  const int before = boundary - table.chunk();
  for (size_t i = 0; i < num_rows_; ++i) {
    const int row = static_cast<int>(i);
    const int held = table.Retained(row, before);
    locked[i] = before == 0 ? compression_.sinks : held - compression_.window;
    length[i] = held + table.chunk();
    kept[i] = table.Retained(row, boundary);
  }
  round.boundaries.push_back({slot, boundary, locked, length, kept});
}

StepBatch::Round& StepBatch::RoundAt(size_t index) {
  if (index == rounds_.size()) rounds_.emplace_back();
  if (index == num_rounds_) {
    rounds_[index].boundaries.clear();
    rounds_[index].sequences.clear();
    ++num_rounds_;
  }
  return rounds_[index];
}

int32_t* StepBatch::NewRowArray() {
  if (num_row_arrays_ == row_arrays_.size()) row_arrays_.emplace_back(num_rows_);
  return row_arrays_[num_row_arrays_++].data();
}

}  // namespace tangram
