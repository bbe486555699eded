#include "eval/run.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

#include "base/cores.h"
#include "base/memory.h"
#include "compression/profile.h"

namespace tangram::apps::eval {
namespace {

void CountEqual(std::span<const TokenId> a, std::span<const TokenId> b, size_t& equal, size_t& of) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) equal += a[i] == b[i] ? 1 : 0;
  of += std::max(a.size(), b.size());
}

// The whole run: all settings of all samples, the full cache's first.
class Run {
 public:
  Run(const RunConfig& config, std::span<const EvalSample> samples, const Tokenizer& tokenizer,
      const std::function<void(const EvalRecord&)>& tell)
      : config_(config), samples_(samples), tokenizer_(tokenizer), tell_(tell) {
    CompressionConfig full = config.engine.compression;
    full.ratio = 1;
    settings_.push_back(full);
    settings_.insert(settings_.end(), config.settings.begin(), config.settings.end());
    outcomes_.resize(settings_.size() * samples.size());
    for (const EvalSample& sample : samples) {
      max_tokens_ = std::max(max_tokens_, EvalLength(sample.steps));
    }
  }

  Status Go() {
    const int threads = config_.num_threads > 0 ? config_.num_threads : AvailableCores();
    TANGRAM_ASSIGN_OR_RETURN(auto first, NewEvaluator(threads));
    // A setting that cannot be is told before anything is measured.
    for (const CompressionConfig& setting : settings_) {
      TANGRAM_RETURN_IF_ERROR(first->Use(EngineSetting(setting), setting.chunk));
    }
    const int workers = NumWorkers(threads, first->weight_bytes());
    if (workers == 1) {
      Work(*first);
    } else {
      first.reset();
      std::vector<std::jthread> pool;
      for (int i = 0; i < workers; ++i) {
        pool.emplace_back([this, share = std::max(1, threads / workers)] {
          auto evaluator = NewEvaluator(share);
          evaluator ? Work(**evaluator) : Fail(evaluator.error());
        });
      }
    }
    if (failed_) return tl::unexpected(error_);
    return {};
  }

 private:
  struct Job {
    size_t setting, sample;
  };
  struct Kept {
    EvalOutcome outcome;
    EvalMemory memory;
  };

  Result<std::unique_ptr<Evaluator>> NewEvaluator(int threads) const {
    return Evaluator::Create(config_.engine.model_path, config_.device, threads,
                             config_.engine.compression.chunk);
  }

  EngineConfig EngineSetting(const CompressionConfig& compression) const {
    EngineConfig made = config_.engine;
    made.compression = compression;
    return made;
  }

  int NumWorkers(int threads, size_t weight_bytes) const {
    if (config_.num_workers > 0) return std::min(config_.num_workers, threads);
    // Weights, and about as much again for activations and the KV cache of one sequence.
    const auto each = static_cast<int64_t>(2 * weight_bytes + (size_t{256} << 20));
    return static_cast<int>(std::clamp<int64_t>(AvailableMemory() / 2 / each, 1, threads));
  }

  void Work(Evaluator& evaluator) {
    size_t current = settings_.size();
    while (!failed_) {
      const size_t number = next_++;
      if (number >= outcomes_.size()) return;
      const Job job{number / samples_.size(), number % samples_.size()};
      if (job.setting != std::exchange(current, job.setting)) {
        const EngineConfig setting = EngineSetting(settings_[job.setting]);
        if (auto status = evaluator.Use(setting, max_tokens_); !status) {
          return Fail(status.error());
        }
      }
      auto outcome = evaluator.Run(samples_[job.sample].steps);
      if (!outcome) return Fail(outcome.error());
      Keep(job, std::move(*outcome), evaluator.Memory(ContextTokens(samples_[job.sample])));
    }
  }

  int ContextTokens(const EvalSample& sample) const {
    if (config_.length > 0) return config_.length;
    size_t tokens = 0;
    for (const EvalStep& step : sample.steps) tokens += step.tokens.size();
    return static_cast<int>(tokens);
  }

  void Fail(const Error& error) {
    const std::lock_guard lock(mutex_);
    if (!failed_) error_ = error;
    failed_ = true;
  }

  // Tells the record, once the full cache's outcome of the sample is there to compare with.
  void Keep(const Job& job, EvalOutcome outcome, EvalMemory memory) {
    const std::lock_guard lock(mutex_);
    outcomes_[job.setting * samples_.size() + job.sample] =
        std::make_unique<Kept>(std::move(outcome), memory);
    waiting_.push_back(job);
    std::erase_if(waiting_, [this](const Job& w) {
      if (!outcomes_[w.sample]) return false;
      tell_(MakeRecord(w));
      return true;
    });
  }

  EvalRecord MakeRecord(const Job& job) const {
    const EvalSample& sample = samples_[job.sample];
    const CompressionConfig& c = settings_[job.setting];
    const auto& [outcome, memory] = *outcomes_[job.setting * samples_.size() + job.sample];
    EvalRecord record;
    if (c.enabled()) {
      record.setting.scorer = ScorerName(c.scorer);
      record.setting.level = LevelName(c.level);
      record.setting.ratio = static_cast<double>(std::lround(c.ratio * 100)) / 100;
    }
    record.setting.length = config_.length;
    record.setting.chunk = c.chunk;
    record.setting.window = c.window;
    record.setting.later = config_.later;
    record.task = sample.task;
    record.context = sample.context;
    record.num_scored = static_cast<int>(outcome.losses.size());
    record.loss = std::accumulate(outcome.losses.begin(), outcome.losses.end(), 0.0) /
                  std::max(1, record.num_scored);
    for (size_t i = 0; i < outcome.answers.size(); ++i) {
      record.answers.push_back(tokenizer_.Decode(outcome.answers[i], true));
      record.scores.push_back(ScoreAnswer(record.answers.back(), sample.expected[i]));
    }
    record.agreement = AgreementOf(outcome, outcomes_[job.sample]->outcome);
    record.memory = memory.at_boundary;
    record.memory_mean = memory.mean;
    return record;
  }

  const RunConfig& config_;
  std::span<const EvalSample> samples_;
  const Tokenizer& tokenizer_;
  const std::function<void(const EvalRecord&)>& tell_;
  std::vector<CompressionConfig> settings_;
  int max_tokens_ = 0;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> failed_ = false;

  std::mutex mutex_;  // guards what follows
  Error error_;
  std::vector<std::unique_ptr<Kept>> outcomes_;  // [settings, samples]
  std::vector<Job> waiting_;
};

}  // namespace

double ScoreAnswer(const std::string& answer, std::span<const std::string> expected) {
  double found = 0;
  for (const std::string& text : expected) found += answer.find(text) != std::string::npos ? 1 : 0;
  return expected.empty() ? 0 : found / static_cast<double>(expected.size());
}

double AgreementOf(const EvalOutcome& outcome, const EvalOutcome& full) {
  size_t equal = 0, of = 0;
  for (size_t i = 0; i < outcome.answers.size(); ++i) {
    CountEqual(outcome.answers[i], full.answers[i], equal, of);
  }
  if (outcome.answers.empty()) CountEqual(outcome.predicted, full.predicted, equal, of);
  return of == 0 ? 1 : static_cast<double>(equal) / static_cast<double>(of);
}

Status RunEvaluation(const RunConfig& config, std::span<const EvalSample> samples,
                     const Tokenizer& tokenizer,
                     const std::function<void(const EvalRecord&)>& tell) {
  return Run(config, samples, tokenizer, tell).Go();
}

}  // namespace tangram::apps::eval
