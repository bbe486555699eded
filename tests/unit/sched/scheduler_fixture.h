#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <vector>

#include "sched/scheduler.h"

// A scheduler of small pages, with a table that compresses, for cases that are small enough to
// follow by hand.
namespace tangram {

class SchedulerFixture : public testing::Test {
 protected:
  static constexpr int kPage = 4, kGroups = 2, kChunk = 16, kWindow = 4, kMaxPages = 80;

  // Group 0 keeps a quarter, group 1 a half.
  static RetentionTable Half() {
    std::vector<int32_t> retained;
    for (int i = 1; i <= 20; ++i) retained.insert(retained.end(), {4 * i, 8 * i});
    return RetentionTable(kGroups, kChunk, 38, std::move(retained));
  }
  static std::vector<TokenId> Tokens(int count, int first) {
    std::vector<TokenId> tokens(count);
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
  }
  static std::vector<TokenId> Join(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  SchedulerFixture() { Make({.max_num_batched_tokens = 64}); }

  void Make(SchedulerConfig config) {
    config.page_size = kPage;
    config.num_groups = kGroups;
    config.max_model_len = kMaxPages * kPage;
    config.max_pages = kMaxPages;
    config.window = kWindow;
    if (config.num_pages == 0) config.num_pages = 2000;
    scheduler_.emplace(config, std::vector{RetentionTable::Full(kGroups, kChunk), Half()});
  }
  void Ask(RequestId id, std::vector<TokenId> prompt, int max_tokens, float ratio = 0.38f,
           std::vector<TokenId> stop = {}) {
    Request request{.id = id, .prompt = std::move(prompt), .compression_ratio = ratio};
    request.stop.max_tokens = max_tokens;
    request.stop.stop_token_ids = std::move(stop);
    scheduler_->Add(std::move(request));
  }
  // Schedules a step, and queues it unless it is empty.
  SchedulerOutput Queue() {
    SchedulerOutput output = scheduler_->Schedule();
    if (!output.empty()) scheduler_->Advance();
    scheduler_->CheckInvariants();
    return output;
  }
  // Tells what the oldest step drew.
  std::vector<StepResult> Tell(std::vector<TokenId> drawn) {
    const std::vector<StepResult> results = scheduler_->Resolve(drawn);
    scheduler_->CheckInvariants();
    for (const StepResult& result : results) cached_[result.id] = result.num_cached_tokens;
    return results;
  }
  // One step alone; every sequence that samples gets `token`.
  SchedulerOutput Step(TokenId token = 7) {
    SchedulerOutput output = Queue();
    const auto draws =
        std::ranges::count(output.sequences, true, &ScheduledSequence::needs_sampling);
    Tell(std::vector<TokenId>(draws, token));
    return output;
  }
  void Finish() {
    while (scheduler_->HasWork()) Step();
  }
  int64_t Held() const { return scheduler_->Stats().pages_held; }
  // Page writes to a group of a slot.
  static int CountWrites(const SchedulerOutput& output, int slot, int group) {
    const int place = slot * kGroups + group;
    return static_cast<int>(std::ranges::count_if(
        output.page_writes, [&](const PageWrite& w) { return w.place / kMaxPages == place; }));
  }

  std::optional<Scheduler> scheduler_;
  std::map<RequestId, int> cached_;  // tokens that the cache gave, by results
};

}  // namespace tangram
