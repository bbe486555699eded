// Conversations in turns, replayed on the scheduler alone: what each ratio costs in processed
// tokens when the pool is small. A step's time is a model's: `--step-ms` plus `--token-ms` for each
// of its tokens.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <random>
#include <vector>

#include "paging/budget.h"
#include "sched/scheduler.h"

namespace tangram {
namespace {

struct Workload {
  int conversations = 32, turns = 10;
  int first_prompt = 400, prompt = 60, answer = 120;  // tokens, mean
  int pool = 8;                                       // conversations of full length that it holds
  int groups = 30, page_size = 16, max_num_seqs = 8, max_num_batched_tokens = 256;
  bool drops_reasoning = false;  // the next prompt has only the last quarter of each answer
  double step_ms = 12, token_ms = 2;

  int length() const { return first_prompt + turns * answer + (turns - 1) * prompt; }
};

struct Report {
  double seconds = 0;
  int64_t processed = 0, steps = 0;
  SchedulerStats stats;
};

class Replay {
 public:
  Replay(const Workload& workload, int percent) : w_(workload), ratio_(float(percent) / 100) {
    SchedulerConfig config;
    config.max_num_seqs = w_.max_num_seqs;
    config.max_num_batched_tokens = w_.max_num_batched_tokens;
    config.max_model_len = 2 * w_.length();
    config.page_size = w_.page_size;
    config.num_groups = w_.groups;
    config.num_pages = int64_t{w_.pool} * w_.groups * w_.length() / w_.page_size;
    CompressionConfig compression{.ratio = ratio_};
    config.window = compression.window;
    std::vector<RetentionTable> tables = {RetentionTable::Full(w_.groups, compression.chunk)};
    if (percent < 100) {
      std::vector<double> demand(w_.groups);
      for (double& d : demand) d = 0.05 + double(random_() % 1000) / 1000;
      tables.push_back(
          BuildRetentionTable(compression, demand, w_.page_size, config.max_model_len));
    }
    scheduler_.emplace(config, std::move(tables));
  }

  // Every conversation asks its next question when it has the answer.
  Report Run() {
    tokens_.resize(w_.conversations);
    answers_.resize(w_.conversations);
    turns_left_.assign(w_.conversations, w_.turns);
    for (int c = 0; c < w_.conversations; ++c) Ask(c, Around(w_.first_prompt));
    Report report;
    while (scheduler_->HasWork()) {
      const SchedulerOutput& output = scheduler_->Schedule();
      report.processed += output.num_tokens();
      ++report.steps;
      report.seconds += (w_.step_ms + w_.token_ms * output.num_tokens()) / 1000;
      std::vector<TokenId> drawn;
      for (const auto& seq : output.sequences) {
        if (seq.needs_sampling) drawn.push_back(NewToken());
      }
      scheduler_->Advance();
      for (const StepResult& result : scheduler_->Resolve(drawn)) {
        const int c = int(result.id) % w_.conversations;
        answers_[c].push_back(result.token);
        if (!result.finished) continue;
        const size_t dropped = w_.drops_reasoning ? answers_[c].size() * 3 / 4 : 0;
        tokens_[c].insert(tokens_[c].end(), answers_[c].begin() + dropped, answers_[c].end());
        answers_[c].clear();
        if (--turns_left_[c] > 0) Ask(c, Around(w_.prompt));
      }
    }
    report.stats = scheduler_->Stats();
    return report;
  }

 private:
  int Around(int mean) { return mean / 2 + int(random_() % mean); }
  TokenId NewToken() { return TokenId(random_() % 50000); }
  void Ask(int c, int length) {
    for (int i = 0; i < length; ++i) tokens_[c].push_back(NewToken());
    Request request{.id = RequestId(w_.conversations) * num_asked_++ + c, .prompt = tokens_[c]};
    request.stop.max_tokens = Around(w_.answer);
    request.compression_ratio = ratio_;
    scheduler_->Add(std::move(request));
  }

  Workload w_;
  float ratio_;
  std::mt19937 random_{1};
  std::optional<Scheduler> scheduler_;
  std::vector<std::vector<TokenId>> tokens_, answers_;
  std::vector<int> turns_left_;
  RequestId num_asked_ = 0;
};

}  // namespace
}  // namespace tangram

int main(int argc, char** argv) {
  tangram::Workload w;
  std::vector<int> percents = {100, 75, 50, 30, 20};
  CLI::App app("Replays conversations on the scheduler, without a model");
  app.add_option("--conversations", w.conversations, "at the same time");
  app.add_option("--turns", w.turns, "of each");
  app.add_option("--first-prompt", w.first_prompt, "tokens of the first question, mean");
  app.add_option("--prompt", w.prompt, "tokens of a later question, mean");
  app.add_option("--answer", w.answer, "tokens of an answer, mean");
  app.add_option("--pool", w.pool, "whole conversations of full length that the pages hold");
  app.add_option("--max-num-seqs", w.max_num_seqs, "running at once");
  app.add_option("--step-ms", w.step_ms, "time of a step");
  app.add_option("--token-ms", w.token_ms, "time of each token of it");
  app.add_flag("--drops-reasoning", w.drops_reasoning, "prompts keep a quarter of each answer");
  app.add_option("--percent", percents, "ratios");
  CLI11_PARSE(app, argc, argv);
  fmt::print(
      "{} conversations of {} turns, about {} tokens each; the pool holds {} of them whole\n\n",
      w.conversations, w.turns, w.length(), w.pool);
  fmt::print(
      "| ratio | requests/s | against first | hit rate | processed tokens | preemptions "
      "|\n|---|---|---|---|---|---|\n");
  double first = 0;
  for (const int percent : percents) {
    const tangram::Report r = tangram::Replay(w, percent).Run();
    const double rate = w.conversations * w.turns / r.seconds;
    if (first == 0) first = rate;
    fmt::print("| {:.2f} | {:.3f} | {:.2f} | {:.3f} | {} | {} |\n", percent / 100.0, rate,
               rate / first,
               double(r.stats.prefix_cache_hits) / double(r.stats.prefix_cache_queries),
               r.processed, r.stats.num_preemptions);
  }
}
