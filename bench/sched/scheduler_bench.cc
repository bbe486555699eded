// Host work of a step, as the engine does it where the next step is queued before the last one's
// tokens are known: deciding it (Schedule), its arrays (StepBuilder), Advance, the tokens of the
// step before (Resolve), and the rows of sampling. At 256 running sequences of 64 groups; one
// sequence in 16 takes a page in each group at every step: 1024 pages a step. The goal is 100 us a
// step.
#include <benchmark/benchmark.h>

#include <array>
#include <chrono>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/live_request.h"
#include "kvcache/step_builder.h"
#include "sched/scheduler.h"

namespace tangram {
namespace {

constexpr int kSequences = 256, kGroups = 64, kPageSize = 16, kMaxLength = 8192;
constexpr int kVocabulary = 50000;

enum Part { kSchedule, kBuild, kAdvance, kResolve, kRows, kParts };
constexpr const char* kPartNames[] = {"schedule", "build", "advance", "resolve", "rows"};
using Times = std::array<double, kParts>;  // seconds

class Load {
 public:
  // Runs until all decode. The times of later steps are added to `times`.
  Load(int prompt, int max_tokens, bool all_at_once, bool shared_prefix, Times& times)
      : prompt_(prompt), max_tokens_(max_tokens), shared_prefix_(shared_prefix), times_(times) {
    const Times before = times;
    SchedulerConfig config{.max_num_seqs = kSequences,
                           .max_num_batched_tokens = 4096,
                           .max_model_len = kMaxLength,
                           .page_size = kPageSize,
                           .num_groups = kGroups};
    config.num_pages = int64_t{kSequences} * kGroups * (prompt + max_tokens) / kPageSize * 3 / 2;
    scheduler_ = std::make_unique<Scheduler>(config, tables_);
    for (int i = 0; i < kSequences; ++i) {
      Add(all_at_once ? max_tokens : 1 + max_tokens * i / kSequences);
    }
    while (Step() > kSequences) {
    }
    times = before;
  }

  // Returns the step's tokens.
  int Step() {
    const SchedulerOutput* scheduled = nullptr;
    Timed(kSchedule, [&] { scheduled = &scheduler_->Schedule(); });
    const SchedulerOutput& output = *scheduled;
    const int num_tokens = output.num_tokens();
    std::vector<Draw> draws = std::exchange(spare_, {});
    draws.clear();
    if (!output.empty()) {
      Timed(kBuild, [&] { Build(output); });
      for (const ScheduledSequence& s : output.sequences) {
        if (s.needs_sampling) draws.push_back({s.id, s.slot, s.num_computed + s.num_tokens});
      }
      Timed(kAdvance, [&] { scheduler_->Advance(); });
    }
    int num_finished = 0;
    if (in_flight_) Timed(kResolve, [&] { num_finished = Resolve(); });
    Timed(kRows, [&] { AddRows(draws); });
    in_flight_ = !output.empty();
    spare_ = std::exchange(draws_, std::move(draws));
    for (; num_finished > 0; --num_finished) Add(max_tokens_);
    return num_tokens;
  }
  SchedulerStats stats() const { return scheduler_->Stats(); }

 private:
  // A token that a step draws.
  struct Draw {
    RequestId id;
    int slot, position;
  };

  template <class Body>
  void Timed(Part part, const Body& body) {
    const auto start = std::chrono::steady_clock::now();
    body();
    times_[part] += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  // As ModelRunner does.
  void Build(const SchedulerOutput& output) {
    builder_.Clear();
    std::span<const TokenId> tokens = output.tokens;
    for (const ScheduledSequence& s : output.sequences) {
      builder_.Add({.tokens = tokens.first(s.num_tokens),
                    .slot = s.slot,
                    .retention = s.retention,
                    .num_computed = s.num_computed,
                    .boundary = s.boundary,
                    .decode = s.decode,
                    .last_logits = s.needs_sampling},
                   tables_[s.retention]);
      tokens = tokens.subspan(s.num_tokens);
    }
    ops::StepInput& input = builder_.Finish();
    for (const PageWrite& write : output.page_writes) {
      input.page_writes.push_back({write.place, write.page});
    }
    for (const PageCopy& copy : output.page_copies) {
      input.page_copies.push_back({copy.from, copy.to});
    }
    benchmark::DoNotOptimize(input);
  }
  // Of the step before; returns how many requests it ended.
  int Resolve() {
    int num_finished = 0;
    drawn_.assign(draws_.size(), 1);
    for (const StepResult& result : scheduler_->Resolve(drawn_)) {
      TokenEvent event;
      event.token = result.token;
      live_.at(result.id).Take(event);
      if (!result.finished) continue;
      live_.erase(result.id);
      ++num_finished;
    }
    return num_finished;
  }
  void AddRows(const std::vector<Draw>& draws) {
    sampling_.Clear();
    int logit_row = 0;
    for (const Draw& draw : draws) {
      if (const auto it = live_.find(draw.id); it != live_.end()) {
        it->second.AddSamplingRow(logit_row, draw.slot, draw.position, kVocabulary, sampling_);
      }
      ++logit_row;
    }
    benchmark::DoNotOptimize(sampling_);
  }
  void Add(int max_tokens) {
    Request request{.id = next_id_++};
    request.stop.max_tokens = max_tokens;
    request.prompt.resize(prompt_ + next_id_ % kPageSize);
    for (size_t i = 0; i < request.prompt.size(); ++i) {
      const bool common = shared_prefix_ && i < request.prompt.size() * 3 / 4;
      request.prompt[i] = common ? TokenId(i) : TokenId(random_() % kVocabulary);
    }
    live_.emplace(request.id, LiveRequest(request, {}, request.id, LiveRequest::Clock::now()));
    scheduler_->Add(std::move(request));
  }

  int prompt_, max_tokens_;
  bool shared_prefix_;
  Times& times_;
  std::unique_ptr<Scheduler> scheduler_;
  const std::vector<RetentionTable> tables_ = {RetentionTable::Full(kGroups, 256)};
  std::unordered_map<RequestId, LiveRequest> live_;
  StepBuilder builder_;
  ops::SamplingInput sampling_;
  bool in_flight_ = false;
  std::vector<Draw> draws_, spare_;  // of the step in flight; memory for the next
  std::mt19937 random_{1};
  std::vector<TokenId> drawn_;
  RequestId next_id_ = 1;
};

void Report(const Times& times, benchmark::State& state) {
  for (int i = 0; i < kParts; ++i) {
    state.counters[std::string(kPartNames[i]) + "_us"] =
        1e6 * times[i] / static_cast<double>(state.iterations());
  }
}

// Nothing begins or ends.
void BM_Decode(benchmark::State& state) {
  constexpr int kMeasured = 512;
  Times times{};
  std::unique_ptr<Load> load;
  int left = 0;
  for (auto _ : state) {
    if (left-- == 0) {
      state.PauseTiming();
      load = std::make_unique<Load>(int(state.range(0)), kMeasured + 1500, true, false, times);
      left = kMeasured - 1;
      state.ResumeTiming();
    }
    load->Step();
  }
  Report(times, state);
}
BENCHMARK(BM_Decode)->Arg(512)->Arg(4000)->Unit(benchmark::kMicrosecond);

// A request ends and another begins at every step: prompts of 512 tokens with an answer of 256,
// states kept and evicted.
void BM_DecodeWithArrivals(benchmark::State& state) {
  Times times{};
  Load load(512, 256, false, state.range(0) != 0, times);
  for (auto _ : state) load.Step();
  const SchedulerStats stats = load.stats();
  state.counters["hit_rate"] = double(stats.prefix_cache_hits) / double(stats.prefix_cache_queries);
  state.counters["preemptions"] = double(stats.num_preemptions);
  Report(times, state);
}
BENCHMARK(BM_DecodeWithArrivals)->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tangram
