// Host work of a step (schedule, the arrays of its batch, completion) at 256 running sequences of
// 64 groups. One sequence in 16 takes a page in each group at every step: 1024 pages a step. The goal
// is 100 us a step.
#include <benchmark/benchmark.h>

#include <memory>
#include <random>

#include "engine/batch_builder.h"
#include "sched/scheduler.h"

namespace tangram {
namespace {

constexpr int kSequences = 256, kGroups = 64, kPageSize = 16, kMaxLength = 8192;

class Load {
 public:
  Load(int prompt, int max_tokens, bool all_at_once, bool shared_prefix)
      : prompt_(prompt), max_tokens_(max_tokens), shared_prefix_(shared_prefix) {
    SchedulerConfig config{.max_num_seqs = kSequences,
                           .max_num_batched_tokens = 4096,
                           .max_model_len = kMaxLength,
                           .page_size = kPageSize,
                           .num_groups = kGroups};
    config.num_pages = int64_t{kSequences} * kGroups * (prompt + max_tokens) / kPageSize * 3 / 2;
    std::vector<RetentionTable> tables;
    tables.push_back(RetentionTable::Full(kGroups, 256));
    scheduler_ = std::make_unique<Scheduler>(config, std::move(tables));
    for (int i = 0; i < kSequences; ++i) {
      Add(all_at_once ? max_tokens : 1 + max_tokens * i / kSequences);
    }
    while (Step() > kSequences) {
    }
  }

  // Returns the step's tokens.
  int Step() {
    const SchedulerOutput& output = scheduler_->Schedule();
    const int num_tokens = output.num_tokens;
    batch_.Build(output, *scheduler_);
    benchmark::DoNotOptimize(batch_.Input(scheduler_->page_table()));
    size_t num_samples = 0;
    for (const auto& seq : output.sequences) num_samples += seq.samples;
    sampled_.resize(num_samples, 1);
    size_t num_finished = 0;
    for (const StepResult& result : scheduler_->Complete(sampled_)) num_finished += result.finished;
    for (; num_finished > 0; --num_finished) Add(max_tokens_);
    return num_tokens;
  }
  SchedulerStats stats() const { return scheduler_->Stats(); }

 private:
  void Add(int max_tokens) {
    Request request{.id = next_id_++};
    request.stop.max_tokens = max_tokens;
    request.prompt.resize(prompt_ + next_id_ % kPageSize);
    for (size_t i = 0; i < request.prompt.size(); ++i) {
      const bool common = shared_prefix_ && i < request.prompt.size() * 3 / 4;
      request.prompt[i] = common ? TokenId(i) : TokenId(random_() % 50000);
    }
    scheduler_->Add(std::move(request));
  }

  int prompt_, max_tokens_;
  bool shared_prefix_;
  std::unique_ptr<Scheduler> scheduler_;
  StepBatch batch_{kGroups, CompressionConfig{}};
  std::mt19937 random_{1};
  std::vector<TokenId> sampled_;
  RequestId next_id_ = 1;
};

// Nothing begins or ends.
void BM_Decode(benchmark::State& state) {
  constexpr int kMeasured = 512;
  std::unique_ptr<Load> load;
  int left = 0;
  for (auto _ : state) {
    if (left-- == 0) {
      state.PauseTiming();
      load = std::make_unique<Load>(int(state.range(0)), kMeasured + 1500, true, false);
      left = kMeasured - 1;
      state.ResumeTiming();
    }
    load->Step();
  }
}
BENCHMARK(BM_Decode)->Arg(512)->Arg(4000)->Unit(benchmark::kMicrosecond);

// A request ends and another begins at every step: prompts of 512 tokens with an answer of 256,
// states kept and evicted.
void BM_DecodeWithArrivals(benchmark::State& state) {
  Load load(512, 256, false, state.range(0) != 0);
  for (auto _ : state) load.Step();
  const SchedulerStats stats = load.stats();
  state.counters["hit_rate"] = double(stats.prefix_cache_hits) / double(stats.prefix_cache_queries);
  state.counters["preemptions"] = double(stats.num_preemptions);
}
BENCHMARK(BM_DecodeWithArrivals)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tangram
