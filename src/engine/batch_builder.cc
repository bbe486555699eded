#include "engine/batch_builder.h"

#include <algorithm>

namespace tangram {
namespace {

// Tokens that each row holds before the token at position n is processed. The length that this
// token reads counts the token itself (and has compression at n, if n is a boundary, behind it),
// hence the one less.
void FillHistory(const RetentionTable& table, int n, std::span<int32_t> history) {
  if (table.full()) {
    std::ranges::fill(history, n);
    return;
  }
  for (size_t row = 0; row < history.size(); ++row) {
    history[row] = table.Length(static_cast<int>(row), n + 1) - 1;
  }
}

}  // namespace

void BuildBatch(const SchedulerOutput& output, const Scheduler& scheduler, StepBatch& batch) {
  const size_t num_rows = static_cast<size_t>(scheduler.page_table().num_rows());
  batch.tokens.clear();
  batch.positions.clear();
  batch.spans.clear();
  batch.logit_rows.clear();
  batch.row_history.resize(output.sequences.size() * num_rows);
  for (const ScheduledSequence& s : output.sequences) {
    const std::span history(batch.row_history.data() + batch.spans.size() * num_rows, num_rows);
    FillHistory(scheduler.table(s.table), s.num_computed, history);
    const int first = static_cast<int>(batch.tokens.size());
    batch.spans.push_back({s.slot, first, s.num_tokens, history.data()});
    const auto tokens = scheduler.Tokens(s.id).subspan(s.num_computed, s.num_tokens);
    batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
    for (int i = 0; i < s.num_tokens; ++i) batch.positions.push_back(s.num_computed + i);
    if (s.samples) batch.logit_rows.push_back(first + s.num_tokens - 1);
  }
}

}  // namespace tangram
