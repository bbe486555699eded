#include "eval/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/puzzles.h"

namespace tangram::apps::eval {
namespace {

using Tokens = std::vector<TokenId>;

// Facts lie at random places of equal strata of this part of the context. In dialogues they wait
// for the user's next turn.
constexpr double kFirstDepth = 0.02, kLastDepth = 0.92, kLastDepthOfDialogue = 0.75;

// Context i begins at the fractional part of i golden ratios: spread evenly for any number of them.
double StartOf(uint64_t seed, int context) {
  const double at = 0.6180339887498949 * (context + 1) + 0.7548776662466927 * (seed % 1024);
  return at - std::floor(at);
}

class SampleMaker {
 public:
  SampleMaker(const TaskConfig& config, const Passages& passages, const ChatFormat& format,
              const Tokenizer& tokenizer)
      : config_(config), passages_(passages), format_(format), tokenizer_(tokenizer) {}

  Result<EvalSample> Make(const std::string& task, int context) {
    auto random = RandomOf(config_.seed, task, context);
    puzzle_ = MakePuzzle(task, random);
    const bool dialogue = task == "dialogue";
    ChooseDepths(dialogue ? kLastDepthOfDialogue : kLastDepth, random);
    const double start = StartOf(config_.seed, context);
    EvalSample sample{task, context, {}, {}};
    in_users_turn_ = true;
    TANGRAM_ASSIGN_OR_RETURN(const Tokens text, dialogue ? Conversation(start) : Document(start));
    if (config_.later || puzzle_.questions.empty()) {
      TANGRAM_RETURN_IF_ERROR(AddLater(text, sample));
    } else {
      TANGRAM_RETURN_IF_ERROR(AddInPrompt(text, sample));
    }
    return sample;
  }

 private:
  int wanted() const { return config_.length + config_.continuation; }

  Result<Tokens> Encode(const std::string& text) const { return tokenizer_.Encode(text, false); }

  Status Append(const std::string& text, Tokens& to) const {
    TANGRAM_ASSIGN_OR_RETURN(const Tokens tokens, Encode(text));
    to.insert(to.end(), tokens.begin(), tokens.end());
    return {};
  }

  void ChooseDepths(double last, std::mt19937_64& random) {
    const auto count = static_cast<double>(puzzle_.facts.size());
    depths_.clear();
    for (size_t i = 0; i < puzzle_.facts.size(); ++i) {
      const double within = static_cast<double>(random() >> 11) * 0x1p-53;
      depths_.push_back(kFirstDepth +
                        (last - kFirstDepth) * (static_cast<double>(i) + within) / count);
    }
  }

  // A user's turn of the bundled text, with the facts between its sentences.
  Result<Tokens> Document(double start) {
    TANGRAM_ASSIGN_OR_RETURN(const auto pieces, passages_.Document(start, wanted() + wanted() / 8));
    std::string text = format_.begin + puzzle_.intro;
    Tokens counted;  // as many as the text so far has, about
    TANGRAM_RETURN_IF_ERROR(Append(text, counted));
    size_t next = 0, told = 0;
    for (const Passages::Piece& piece : pieces) {
      for (; IsDue(next, counted); ++next) {
        text += puzzle_.facts[next] + " ";
        TANGRAM_RETURN_IF_ERROR(Append(puzzle_.facts[next], counted));
        if (static_cast<int>(counted.size()) <= config_.length) ++told;
      }
      text += piece.text;
      counted.resize(counted.size() + static_cast<size_t>(piece.tokens));
    }
    TANGRAM_ASSIGN_OR_RETURN(Tokens all, Encode(text));
    return Cut(std::move(all), told);
  }

  // Turns of the bundled dialogues; the facts are told by the user.
  Result<Tokens> Conversation(double start) {
    TANGRAM_ASSIGN_OR_RETURN(const auto turns, passages_.Dialogue(start, wanted() + wanted() / 8));
    Tokens all;
    size_t next = 0;
    bool user = true;
    for (const Passages::Piece& piece : turns) {
      std::string turn = all.empty() ? format_.begin
                         : user      ? format_.to_user
                                     : format_.to_assistant;
      const bool tells = user && IsDue(next, all);
      if (tells) turn += puzzle_.facts[next] + " ";
      TANGRAM_RETURN_IF_ERROR(Append(turn + piece.text, all));
      if (static_cast<int>(all.size()) <= config_.length) {
        in_users_turn_ = !user;
        if (tells) ++next;
      }
      user = !user;
    }
    return Cut(std::move(all), next);
  }

  bool IsDue(size_t fact, const Tokens& before) const {
    return fact < depths_.size() &&
           static_cast<double>(before.size()) >= depths_[fact] * config_.length;
  }

  Result<Tokens> Cut(Tokens tokens, size_t facts_told) const {
    const auto length = static_cast<size_t>(wanted());
    if (tokens.size() < length || facts_told < puzzle_.facts.size()) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("a context of {} tokens is too short for its facts", config_.length),
          "length");
    }
    tokens.resize(length);
    return tokens;
  }

  Status AddLater(const Tokens& text, EvalSample& sample) const {
    const auto middle = text.begin() + config_.length;
    sample.steps.push_back({EvalStep::Kind::kRead, Tokens(text.begin(), middle)});
    if (config_.continuation > 0) {
      sample.steps.push_back({EvalStep::Kind::kPeek, Tokens(middle, text.end())});
    }
    for (size_t i = 0; i < puzzle_.questions.size(); ++i) {
      const Question& question = puzzle_.questions[i];
      std::string ask;
      if (i == 0 && in_users_turn_) ask = format_.to_assistant + "I shall remember it.";
      ask += format_.to_user + question.ask + format_.to_assistant + question.prefix;
      TANGRAM_ASSIGN_OR_RETURN(Tokens tokens, Encode(ask));
      sample.steps.push_back({EvalStep::Kind::kAsk, std::move(tokens), question.max_tokens});
      sample.expected.push_back(question.expected);
    }
    return {};
  }

  // The question's tokens end the context; what is put into the model's mouth follows it.
  Status AddInPrompt(const Tokens& text, EvalSample& sample) const {
    const Question& question = puzzle_.questions.front();
    const std::string before = in_users_turn_ ? "\n\n" : format_.to_user;
    TANGRAM_ASSIGN_OR_RETURN(const Tokens ask,
                             Encode(before + question.ask + format_.to_assistant));
    TANGRAM_ASSIGN_OR_RETURN(Tokens prefix, Encode(question.prefix));
    const auto keep = config_.length - static_cast<ptrdiff_t>(ask.size());
    if (keep < static_cast<ptrdiff_t>(kLastDepth * config_.length)) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("a question of {} tokens leaves no room for a text in contexts "
                                   "of {}",
                                   ask.size(), config_.length),
                       "length");
    }
    Tokens context(text.begin(), text.begin() + keep);
    context.insert(context.end(), ask.begin(), ask.end());
    sample.steps.push_back({EvalStep::Kind::kRead, std::move(context)});
    sample.steps.push_back({EvalStep::Kind::kAsk, std::move(prefix), question.max_tokens});
    sample.expected.push_back(question.expected);
    return {};
  }

  const TaskConfig& config_;
  const Passages& passages_;
  const ChatFormat& format_;
  const Tokenizer& tokenizer_;
  Puzzle puzzle_;
  std::vector<double> depths_;  // of the facts, as shares of the length
  bool in_users_turn_ = true;   // whose turn the context's end cuts
};

}  // namespace

const std::vector<std::string>& BundledTasks() {
  static const std::vector<std::string> kTasks = {"document",   "needle",   "multikey",
                                                  "multivalue", "tracking", "dialogue"};
  return kTasks;
}

Result<std::vector<EvalSample>> MakeSamples(const TaskConfig& config, const Passages& passages,
                                            const ChatFormat& format, const Tokenizer& tokenizer) {
  SampleMaker maker(config, passages, format, tokenizer);
  std::vector<EvalSample> samples;
  for (const std::string& task : config.tasks) {
    if (std::ranges::find(BundledTasks(), task) == BundledTasks().end()) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("--tasks: '{}' is not one of {}", task, fmt::join(BundledTasks(), ", ")),
          "tasks");
    }
    for (int i = config.skip; i < config.samples; ++i) {
      TANGRAM_ASSIGN_OR_RETURN(auto sample, maker.Make(task, i));
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

}  // namespace tangram::apps::eval
