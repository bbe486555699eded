#include "kvcache/step_builder.h"

#include <algorithm>

namespace tangram {

void StepBuilder::Clear() {
  input_.Clear();
  num_rounds_ = 0;
}

StepBuilder::RoundParts& StepBuilder::RoundAt(size_t index) {
  if (index == rounds_.size()) rounds_.emplace_back();
  if (index == num_rounds_) {
    rounds_[index].spans.clear();
    rounds_[index].boundaries.clear();
    ++num_rounds_;
  }
  return rounds_[index];
}

// Compression at b comes just before token b, so a part that begins at b begins with it.
void StepBuilder::Add(const StepTokens& part, const RetentionTable& table) {
  const int first = static_cast<int>(input_.tokens.size());
  const int count = static_cast<int>(part.tokens.size());
  input_.tokens.insert(input_.tokens.end(), part.tokens.begin(), part.tokens.end());
  for (int i = 0; i < count; ++i) input_.positions.push_back(part.num_computed + i);
  input_.slots.insert(input_.slots.end(), part.tokens.size(), part.slot);
  input_.retentions.insert(input_.retentions.end(), part.tokens.size(), part.retention);
  if (part.decode) ++input_.num_decodes;
  if (part.last_logits) input_.logit_rows.push_back(first + count - 1);
  const int end = part.num_computed + count, chunk = table.chunk();
  size_t round_index = 0;
  for (int n = part.num_computed; n < end;) {
    RoundParts& round = RoundAt(round_index++);
    const int next = table.full() ? end : std::min(end, (n / chunk + 1) * chunk);
    if (!table.full() && n > part.boundary && n % chunk == 0) {
      round.boundaries.push_back({part.slot, part.retention, n});
    }
    round.spans.push_back(
        {part.slot, part.retention, first + n - part.num_computed, next - n, n, !table.full()});
    n = next;
  }
}

ops::StepInput& StepBuilder::Finish() {
  for (size_t i = 0; i < num_rounds_; ++i) {
    const RoundParts& round = rounds_[i];
    input_.rounds.push_back({static_cast<int32_t>(input_.spans.size()),
                             static_cast<int32_t>(round.spans.size()),
                             static_cast<int32_t>(input_.boundaries.size()),
                             static_cast<int32_t>(round.boundaries.size())});
    input_.spans.insert(input_.spans.end(), round.spans.begin(), round.spans.end());
    input_.boundaries.insert(input_.boundaries.end(), round.boundaries.begin(),
                             round.boundaries.end());
  }
  return input_;
}

}  // namespace tangram
