#include "calibration/evaluation.h"

#include <algorithm>
#include <cmath>

#include "compression/reconstruction_pass.h"
#include "kvcache/compressor.h"
#include "ops/create_backend.h"

namespace tangram {
namespace {

constexpr int kScoredTokens = 64;  // whose logits are held at once

TokenId Likeliest(std::span<const float> logits) {
  return static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin());
}

float Loss(std::span<const float> logits, TokenId token) {
  const float most = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - most);
  return static_cast<float>(std::log(sum)) + most - logits[static_cast<size_t>(token)];
}

}  // namespace

int EvalLength(std::span<const EvalStep> steps) {
  int size = 0, longest = 0;
  for (const EvalStep& step : steps) {
    const int end = size + static_cast<int>(step.tokens.size()) + step.max_tokens;
    longest = std::max(longest, end);
    if (step.kind != EvalStep::Kind::kPeek) size = end;
  }
  return longest;
}

// One sequence on its way through the steps of a test.
class Evaluator::Reader {
 public:
  static Result<Reader> Create(Evaluator& evaluator) {
    Reader made(evaluator);
    const ModelConfig& model = evaluator.model_->config();
    const CompressionConfig& compression = evaluator.setting_.compression;
    const bool own_pass = compression.enabled() && compression.needs_reconstruction_pass();
    KvLayout layout{evaluator.backend_->limits().kv_dtypes.front(),
                    evaluator.setting_.page_size,
                    model.head_dim,
                    evaluator.plan_->heads,
                    compression.enabled(),
                    model.num_attention_heads};
    const int64_t pass_pages =
        own_pass ? ReconstructionPass::NumPages(layout, compression.chunk) : 0;
    TANGRAM_ASSIGN_OR_RETURN(
        made.sequence_,
        SingleSequence::Create(*evaluator.model_, *evaluator.backend_, std::move(layout),
                               *evaluator.table_, evaluator.max_tokens_, pass_pages));
    KvStorage& kv = made.sequence_->kv();
    if (own_pass) {
      made.reconstruction_pass_.emplace(*evaluator.model_, *evaluator.backend_, kv,
                                        evaluator.plan_->repeat_prompt, compression.chunk,
                                        kv.num_pages() - pass_pages);
    }
    if (compression.enabled()) {
      TANGRAM_ASSIGN_OR_RETURN(
          made.compressor_, Compressor::Create(*evaluator.backend_, kv.layout().heads,
                                               model.head_dim, compression, evaluator.plan_->gate,
                                               {.max_tokens = compression.chunk,
                                                .max_seqs = 1,
                                                .num_q_heads = model.num_attention_heads,
                                                .rope = evaluator.model_->rope()}));
      made.compressor_->Attach(kv);
    }
    return made;
  }

  void Take(const EvalStep& step) {
    switch (step.kind) {
      case EvalStep::Kind::kRead:
        return Read(step.tokens);
      case EvalStep::Kind::kScore:
        return Score(step.tokens);
      case EvalStep::Kind::kPeek:
        return Peek(step.tokens);
      case EvalStep::Kind::kAsk:
        return Ask(step.tokens, step.max_tokens);
    }
  }

  EvalOutcome&& outcome() && { return std::move(outcome_); }

 private:
  explicit Reader(Evaluator& evaluator)
      : evaluator_(&evaluator),
        vocab_(static_cast<size_t>(evaluator.model_->config().vocab_size)) {}

  // Appends `tokens` in steps that end where a chunk does, and at most `most` tokens long; tells
  // `each` the logits [rows, V] of every step and its tokens.
  template <class Each>
  void Append(std::span<const TokenId> tokens, int most, bool all_logits, const Each& each) {
    const int chunk = evaluator_->setting_.compression.chunk;
    while (!tokens.empty()) {
      const int room = std::min(most, chunk - sequence_->size() % chunk);
      const auto part = tokens.first(std::min<size_t>(tokens.size(), static_cast<size_t>(room)));
      rows_.clear();
      for (size_t i = all_logits ? 0 : part.size() - 1; i < part.size(); ++i) {
        rows_.push_back(static_cast<int32_t>(i));
      }
      if (reconstruction_pass_ && sequence_->at_boundary()) Repeat();
      const TensorView logits =
          sequence_->Append(part, compressor_ ? &*compressor_ : nullptr, rows_);
      history_.insert(history_.end(), part.begin(), part.end());
      logits_.resize(rows_.size() * vocab_);
      evaluator_->backend_->Read(logits_.data(), logits.data, logits_.size() * sizeof(float));
      each(part, logits_.data());
      last_.assign(logits_.end() - static_cast<ptrdiff_t>(vocab_), logits_.end());
      tokens = tokens.subspan(part.size());
    }
  }

  // Scores the chunk that ends here by having it repeated.
  void Repeat() {
    const auto chunk = static_cast<size_t>(evaluator_->setting_.compression.chunk);
    reconstruction_pass_->Run(
        {.boundary = sequence_->size(),
         .tokens = {history_.end() - static_cast<ptrdiff_t>(chunk), history_.end()}},
        [this](int layer) { return compressor_->ChunkScores(layer, 0); });
  }

  void Read(std::span<const TokenId> tokens) {
    Append(tokens, evaluator_->setting_.compression.chunk, false,
           [](std::span<const TokenId>, const float*) {});
  }

  void Score(std::span<const TokenId> tokens) {
    Append(tokens, kScoredTokens, true, [&](std::span<const TokenId> part, const float* logits) {
      for (size_t i = 0; i < part.size(); ++i) {
        ScoreOne(i == 0 ? std::span<const float>(last_)
                        : std::span<const float>(logits + (i - 1) * vocab_, vocab_),
                 part[i]);
      }
    });
  }

  // The very first token of a sequence is predicted by nothing, and has no loss.
  void ScoreOne(std::span<const float> logits, TokenId token) {
    if (logits.empty()) return;
    outcome_.losses.push_back(Loss(logits, token));
    outcome_.predicted.push_back(Likeliest(logits));
  }

  void Peek(std::span<const TokenId> tokens) {
    const int size = sequence_->size();
    const std::vector<float> before = last_;
    Score(tokens);
    sequence_->Truncate(size);
    history_.resize(static_cast<size_t>(size));
    last_ = before;
  }

  void Ask(std::span<const TokenId> tokens, int max_tokens) {
    Read(tokens);
    const std::vector<TokenId>& ends = evaluator_->model_->config().eos_token_ids;
    std::vector<TokenId>& answer = outcome_.answers.emplace_back();
    while (static_cast<int>(answer.size()) < max_tokens) {
      const TokenId next = Likeliest(last_);
      if (std::ranges::find(ends, next) != ends.end()) break;
      answer.push_back(next);
      Read({&next, 1});
    }
  }

  Evaluator* evaluator_;
  size_t vocab_;
  std::unique_ptr<SingleSequence> sequence_;
  std::optional<Compressor> compressor_;
  std::optional<ReconstructionPass> reconstruction_pass_;
  std::vector<TokenId> history_;  // all tokens so far
  std::vector<int32_t> rows_;
  std::vector<float> logits_;  // [rows, V] of the last step
  std::vector<float> last_;    // [V], of the last token; empty before the first
  EvalOutcome outcome_;
};

Result<std::unique_ptr<Evaluator>> Evaluator::Create(const std::string& model_path,
                                                     const std::string& device, int num_threads,
                                                     int chunk) {
  std::unique_ptr<Evaluator> made(new Evaluator);
  TANGRAM_ASSIGN_OR_RETURN(
      made->backend_,
      ops::CreateBackend({.device = device,
                          .num_threads = num_threads,
                          .max_num_tokens = chunk + ReconstructionPass::kMaxPrompt}));
  LoadOptions load;
  load.max_num_tokens = chunk + ReconstructionPass::kMaxPrompt;
  load.max_logit_rows = kScoredTokens;
  TANGRAM_ASSIGN_OR_RETURN(made->model_, LoadModel(model_path, load, *made->backend_));
  return made;
}

Status Evaluator::Use(const CompressionOptions& config, int max_tokens) {
  setting_ = config;
  max_tokens_ = max_tokens;
  std::optional<FoundProfile> found;
  if (config.compression.enabled()) {
    TANGRAM_ASSIGN_OR_RETURN(found, FindProfile(config, *model_));
  }
  TANGRAM_ASSIGN_OR_RETURN(
      plan_, PlanCompression(config, *model_, max_tokens, *backend_, found ? &*found : nullptr));
  const long percent = std::lround(config.compression.ratio * 100);
  const auto it = std::ranges::find_if(
      plan_->tables, [&](const RetentionTable& table) { return table.percent() == percent; });
  if (it == plan_->tables.end()) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("no table for the ratio {:.2f}", config.compression.ratio),
                     "ratios");
  }
  table_ = &*it;
  return {};
}

Result<EvalOutcome> Evaluator::Run(std::span<const EvalStep> steps) {
  const int length = EvalLength(steps);
  if (length > max_tokens_) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("a test of {} tokens is longer than {}", length, max_tokens_),
                     "length");
  }
  TANGRAM_ASSIGN_OR_RETURN(Reader reader, Reader::Create(*this));
  for (const EvalStep& step : steps) reader.Take(step);
  return std::move(reader).outcome();
}

EvalMemory Evaluator::Memory(int num_tokens) const {
  const int chunk = setting_.compression.chunk;
  const int boundary = num_tokens / chunk * chunk;
  if (table_->full() || boundary == 0) return {};
  EvalMemory memory;
  const double rows = table_->num_groups();
  memory.at_boundary = static_cast<double>(table_->RetainedSum(boundary)) / rows / boundary;
  memory.mean = 0;
  for (int n = boundary - chunk + 1; n <= boundary; ++n) {
    memory.mean += table_->MeanLength(n) / n / chunk;
  }
  return memory;
}

}  // namespace tangram
