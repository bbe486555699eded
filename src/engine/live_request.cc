#include "engine/live_request.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tangram {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

double SecondsBetween(LiveRequest::Clock::time_point from, LiveRequest::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

void AllowTokens(const std::vector<TokenId>& allowed, int vocab_size, std::vector<uint32_t>& bits) {
  const size_t first = bits.size();
  bits.resize(first + static_cast<size_t>(vocab_size + 31) / 32);
  for (const TokenId token : allowed) {
    if (token < 0 || token >= vocab_size) continue;
    bits[first + static_cast<size_t>(token) / 32] |= 1u << (token % 32);
  }
}

}  // namespace

LiveRequest::LiveRequest(const Request& request, TokenListener listener, uint64_t seed,
                         Clock::time_point submitted)
    : sampling_(request.sampling),
      stop_(request.stop),
      listener_(std::move(listener)),
      seed_(seed),
      submitted_(submitted) {
  if (!has_penalties()) return;
  for (const TokenId token : request.prompt) seen_.emplace(token, 0);
}

bool LiveRequest::has_penalties() const {
  return sampling_.presence_penalty != 0 || sampling_.frequency_penalty != 0 ||
         sampling_.repetition_penalty != 1;
}

void LiveRequest::Started(Clock::time_point now) {
  if (!std::exchange(started_, true)) first_scheduled_ = now;
}

void LiveRequest::AddSamplingRow(int logit_row, int slot, int position, int vocab_size,
                                 ops::SamplingInput& input) const {
  ops::SamplingRow& row = input.rows.emplace_back();
  row.logit_row = logit_row;
  row.slot = slot;
  row.temperature = sampling_.greedy() ? 0 : sampling_.temperature;
  row.top_p = sampling_.top_p;
  row.min_p = sampling_.min_p;
  row.top_k = sampling_.top_k;
  row.repetition_penalty = sampling_.repetition_penalty;
  row.presence_penalty = sampling_.presence_penalty;
  row.frequency_penalty = sampling_.frequency_penalty;
  row.seed = seed_;
  row.draw = static_cast<uint32_t>(position);
  row.num_logprobs = sampling_.num_logprobs == SamplingParams::kAllLogprobs
                         ? ops::SamplingRow::kAll
                         : sampling_.num_logprobs;
  row.first_seen = static_cast<int32_t>(input.seen.size());
  row.num_seen = static_cast<int32_t>(seen_.size());
  for (const auto& [token, times] : seen_) input.seen.push_back({token, times});
  row.first_bias = static_cast<int32_t>(input.biases.size());
  for (const auto& [token, bias] : sampling_.logit_bias) {
    if (token >= 0 && token < vocab_size) input.biases.push_back({token, bias});
  }
  BanTokens(input.biases);
  row.num_biases = static_cast<int32_t>(input.biases.size()) - row.first_bias;
  if (sampling_.allowed_token_ids.empty()) return;
  row.first_allowed = static_cast<int32_t>(input.allowed.size());
  AllowTokens(sampling_.allowed_token_ids, vocab_size, input.allowed);
}

void LiveRequest::BanTokens(std::vector<ops::TokenBias>& biases) const {
  if (static_cast<int>(generated_.size()) < stop_.min_tokens) {
    for (const TokenId token : stop_.stop_token_ids) biases.push_back({token, kBanned});
  }
  for (const std::vector<TokenId>& word : sampling_.bad_words) {
    const size_t head = word.size() - 1;
    if (generated_.size() >= head &&
        std::equal(word.begin(), word.end() - 1, generated_.end() - static_cast<ptrdiff_t>(head))) {
      biases.push_back({word.back(), kBanned});
    }
  }
}

void LiveRequest::Take(TokenEvent& event) {
  if (generated_.empty()) {
    event.queue_seconds = SecondsBetween(submitted_, first_scheduled_);
    event.prefill_seconds = SecondsBetween(first_scheduled_, Clock::now());
  }
  generated_.push_back(event.token);
  if (has_penalties()) ++seen_[event.token];
}

}  // namespace tangram
