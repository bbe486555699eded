#include "calibration/hooks.h"

#include "tensor/float16.h"

namespace tangram {

void InputRecorder::OnInput(int layer, const TensorView& input) {
  auto& kept = inputs_[static_cast<size_t>(layer)];
  const auto count = static_cast<size_t>(input.shape.count()), begin = kept.size();
  kept.resize(begin + count);
  if (input.dtype == DType::kF32) {
    return backend_.Read(kept.data() + begin, input.data, input.bytes());
  }
  TANGRAM_CHECK(input.dtype == DType::kBF16, "activations of type {}", DTypeName(input.dtype));
  std::vector<uint16_t> bits(count);
  backend_.Read(bits.data(), input.data, input.bytes());
  for (size_t i = 0; i < count; ++i) kept[begin + i] = BFloatToFloat(bits[i]);
}

Result<ReadingHook> ReadingHook::Create(ops::Backend& backend, int num_layers, int num_kv_heads,
                                        int length, int window) {
  ReadingHook made(backend, num_kv_heads, length, window);
  made.sums_.resize(static_cast<size_t>(num_layers) * made.LayerFloats());
  made.memory_ = backend.Allocate(made.sums_.size() * sizeof(float));
  if (made.memory_.data() != nullptr) return made;
  return MakeError(ErrorKind::kOutOfMemory, "not enough memory for the attention of a text");
}

void ReadingHook::AfterAppend(const ops::AppendParams& appended) {
  q_heads_per_kv_ = appended.num_q_heads / heads_;
  auto* sums =
      static_cast<float*>(memory_.data()) + static_cast<size_t>(appended.at.layer) * LayerFloats();
  backend_->SumAttention({StepQueriesOf(appended), window_, sums});
}

void ReadingHook::Finish() { backend_->Read(sums_.data(), memory_.data(), memory_.bytes()); }

float ReadingHook::Mean(int layer, int token, int head) const {
  const int queries = (length_ - token - window_) * q_heads_per_kv_;
  if (queries <= 0) return 0;
  const auto at =
      static_cast<size_t>(layer) * LayerFloats() + static_cast<size_t>(token * heads_ + head);
  return sums_[at] / static_cast<float>(queries);
}

Result<DynamicScoreHook> DynamicScoreHook::Create(ops::Backend& backend,
                                                  const std::vector<Scorer>& scorers,
                                                  const CompressionConfig& config,
                                                  const Model& model, const KvStorage& kv) {
  DynamicScoreHook made(backend, kv);
  const ModelConfig& m = model.config();
  for (const Scorer scorer : scorers) {
    CompressionConfig c = config;
    c.scorer = scorer;
    TANGRAM_ASSIGN_OR_RETURN(
        DynamicScorer calls,
        DynamicScorer::Create(backend, c, model.rope(), m.num_attention_heads,
                              {1, m.num_layers, m.num_key_value_heads, m.head_dim}));
    Buffer scores = backend.Allocate(static_cast<size_t>(kv.num_pages() * kv.layout().page_size) *
                                     sizeof(float));
    if (scores.data() == nullptr) {
      return MakeError(ErrorKind::kOutOfMemory, "not enough memory for the scores of a text");
    }
    made.scorers_.push_back({scorer, std::move(calls), std::move(scores)});
  }
  return made;
}

// The step, which is a chunk, stands for one that begins at the boundary behind it.
void DynamicScoreHook::AfterAppend(const ops::AppendParams& appended) {
  ops::StepInput input = *appended.at.step->input;
  for (ops::SequenceSpan& span : input.spans) span.compressed = true;
  const ops::SequenceSpan& chunk = input.spans.front();
  input.boundaries = {{chunk.slot, chunk.retention, chunk.position + chunk.num_tokens}};
  input.rounds.front().num_boundaries = 1;
  ops::AppendParams observed = appended;
  ops::Step step = *appended.at.step;
  step.input = &input;
  observed.at.step = &step;
  for (One& one : scorers_) {
    one.calls.Observe(observed);
    one.calls.Score({&step, 0, 0, 1, appended.at.layer, 1}, static_cast<float*>(one.scores.data()));
  }
}

void DynamicScoreHook::ForScores(
    size_t heads, size_t length,
    const std::function<void(Scorer, const TextScores&)>& visit) const {
  // The scores of a head lie side by side.
  for (const One& one : scorers_) {
    std::vector<float> all(one.scores.bytes() / sizeof(float));
    backend_->Read(all.data(), one.scores.data(), one.scores.bytes());
    TextScores scores(heads);
    const size_t stride = all.size() / heads;
    for (size_t h = 0; h < heads; ++h) {
      const auto first = all.begin() + static_cast<ptrdiff_t>(h * stride);
      scores[h].assign(first, first + static_cast<ptrdiff_t>(length));
    }
    visit(one.scorer, scores);
  }
}

}  // namespace tangram
