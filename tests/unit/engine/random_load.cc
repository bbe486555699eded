#include "random_load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <thread>

namespace tangram {
namespace {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int Uniform(int low, int high) { return low + int(engine_() % uint32_t(high - low + 1)); }
  bool Chance(int percent) { return Uniform(0, 99) < percent; }
  float Real(float low, float high) { return low + (high - low) * float(Uniform(0, 1000)) / 1000; }

 private:
  std::mt19937 engine_;
};

SamplingParams RandomSampling(Random& random, int vocab_size) {
  SamplingParams s;
  s.temperature = random.Chance(40) ? 0 : random.Real(0.3f, 1.5f);
  s.seed = random.Uniform(0, 1000);
  if (random.Chance(30)) s.top_k = random.Uniform(1, 20);
  if (random.Chance(30)) s.top_p = random.Real(0.3f, 1);
  if (random.Chance(20)) s.min_p = random.Real(0, 0.2f);
  if (random.Chance(25)) s.presence_penalty = random.Real(-1, 2);
  if (random.Chance(25)) s.frequency_penalty = random.Real(-1, 2);
  if (random.Chance(25)) s.repetition_penalty = random.Real(0.7f, 1.8f);
  s.num_logprobs = random.Uniform(-1, 3);
  for (int i = random.Chance(25) ? 8 : 0; i > 0; --i) {
    s.logit_bias.emplace_back(random.Uniform(0, vocab_size - 1), random.Real(-8, 8));
  }
  if (random.Chance(20)) {
    for (TokenId t = 0; t < vocab_size; ++t) {
      if (random.Chance(30)) s.allowed_token_ids.push_back(t);
    }
  }
  return s;
}

std::vector<TokenId> RandomPrompt(Random& random, const std::vector<Ask>& before, int length,
                                  int vocab_size) {
  std::vector<TokenId> prompt;
  if (!before.empty() && random.Chance(70)) {
    prompt = before[size_t(random.Uniform(0, int(before.size()) - 1))].request.prompt;
    prompt.resize(std::min(prompt.size(), size_t(random.Uniform(1, length))));
  }
  while (int(prompt.size()) < length && (prompt.empty() || !random.Chance(5))) {
    prompt.push_back(random.Uniform(0, vocab_size - 1));
  }
  return prompt;
}

// Where it would have gone on, something may end it, forbid it, or leave nothing to draw.
void ChooseEnds(Random& random, const std::vector<TokenId>& answer, Ask& ask) {
  if (answer.empty()) return;
  const auto any = [&] { return answer[size_t(random.Uniform(0, int(answer.size()) - 1))]; };
  Request& request = ask.request;
  if (random.Chance(30)) {
    request.stop.stop_token_ids = {any(), any()};
    request.stop.min_tokens = random.Uniform(0, 6);
  }
  if (random.Chance(20)) request.sampling.bad_words = {{any(), any()}, {any()}};
  if (random.Chance(15)) {
    const int first = random.Uniform(0, int(answer.size()) - 1);
    ask.text.assign(answer.begin() + first,
                    answer.begin() + std::min(first + 2, int(answer.size())));
  }
  if (random.Chance(20)) ask.patience = random.Uniform(0, 20000);
  if (random.Chance(4)) {
    request.sampling.allowed_token_ids = {any()};
    const TokenId token = request.sampling.allowed_token_ids[0];
    request.sampling.bad_words = {std::vector(size_t(random.Uniform(1, 4)), token)};
  }
}

bool EndsWith(std::span<const TokenId> tokens, const std::vector<TokenId>& text) {
  return !text.empty() && tokens.size() >= text.size() &&
         std::ranges::equal(tokens.last(text.size()), text);
}

// Tokens up to the end of the text, if it comes before the last.
std::optional<size_t> FindEnd(std::span<const TokenId> tokens, const std::vector<TokenId>& text) {
  for (size_t end = 1; end < tokens.size(); ++end) {
    if (EndsWith(tokens.first(end), text)) return end;
  }
  return std::nullopt;
}

template <class T>
bool BeginsWith(const std::vector<T>& all, const std::vector<T>& beginning) {
  return all.size() >= beginning.size() &&
         std::equal(beginning.begin(), beginning.end(), all.begin());
}

void Compare(const Ask& ask, const Client& client, const Outcome& got, const Outcome& expected) {
  const auto end = FindEnd(expected.tokens, ask.text);
  if (got.reason != FinishReason::kAbort) {
    EXPECT_FALSE(end) << "not aborted behind " << *end << " tokens";
    EXPECT_EQ(got.tokens, expected.tokens);
    EXPECT_TRUE(got == expected);
    return;
  }
  EXPECT_TRUE(client.has_aborted());
  EXPECT_TRUE(BeginsWith(expected.tokens, got.tokens));
  EXPECT_TRUE(BeginsWith(expected.logprobs, got.logprobs));
  if (end && ask.patience < 0) {
    EXPECT_EQ(got.tokens.size(), *end);
  }
}

}  // namespace

std::vector<Ask> RandomAsks(const EngineInfo& info, uint32_t seed, int count,
                            const std::vector<Outcome>& answers) {
  Random random(seed), ends(seed + 1000);
  std::vector<Ask> asks;
  for (int i = 0; i < count; ++i) {
    Ask ask;
    Request& request = ask.request;
    request.stop.ignore_eos = true;
    request.stop.max_tokens = random.Uniform(1, 40);
    const int longest = std::min(60, info.max_model_len - request.stop.max_tokens);
    request.prompt = RandomPrompt(random, asks, random.Uniform(1, longest), info.vocab_size);
    request.sampling = RandomSampling(random, info.vocab_size);
    request.cache_salt = random.Chance(90) ? 0 : 1;
    request.compression_ratio = random.Chance(75) ? info.compression.ratio : 1;
    if (!answers.empty()) ChooseEnds(ends, answers[size_t(i)].tokens, ask);
    asks.push_back(std::move(ask));
  }
  return asks;
}

void Client::Submit() {
  const auto id = engine_.Submit(ask_.request, [this](const TokenEvent& e) { Listen(e); });
  ASSERT_TRUE(id) << id.error().message;
  id_ = *id;
}

void Client::Abort() {
  has_aborted_ = true;
  engine_.Abort(id_);
}

void Client::Listen(const TokenEvent& event) {
  std::lock_guard lock(mutex_);
  EXPECT_FALSE(finished_) << "an event after the last one";
  if (event.token >= 0) {
    outcome_.tokens.push_back(event.token);
    if (ask_.request.sampling.num_logprobs >= 0) {
      outcome_.logprobs.emplace_back(event.logprob.token, event.logprob.logprob);
      for (const TokenLogprob& top : event.top_logprobs) {
        outcome_.logprobs.emplace_back(top.token, top.logprob);
      }
    }
    if (!patient_ && !event.finished && EndsWith(outcome_.tokens, ask_.text)) {
      while (id_ == 0) std::this_thread::yield();
      Abort();
    }
  }
  outcome_.reason = event.reason;
  outcome_.stop_token = event.stop_token;
  finished_ = event.finished;
  changed_.notify_all();
}

const Outcome& Client::Wait() {
  std::unique_lock lock(mutex_);
  EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(120), [&] { return finished_.load(); }))
      << "no end in 120 s";
  return outcome_;
}

std::vector<Outcome> RunPatiently(Engine& engine, const std::vector<Ask>& asks) {
  std::vector<std::unique_ptr<Client>> clients;
  for (const Ask& ask : asks) {
    clients.push_back(std::make_unique<Client>(engine, ask, /*patient=*/true));
    clients.back()->Submit();
  }
  std::vector<Outcome> outcomes;
  for (const auto& client : clients) outcomes.push_back(client->Wait());
  return outcomes;
}

int RunImpatiently(Engine& engine, const std::vector<Ask>& asks,
                   const std::vector<Outcome>& expected) {
  using Clock = std::chrono::steady_clock;
  constexpr int kMostAtOnce = 16;
  Random random(1);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Clock::time_point> deadlines;
  const auto live = [&] {
    return std::ranges::count(clients, false, [](const auto& c) { return c->finished(); });
  };
  while (clients.size() < asks.size() || live() > 0) {
    if (clients.size() < asks.size() && live() < kMostAtOnce && random.Chance(30)) {
      const Ask& ask = asks[clients.size()];
      clients.push_back(std::make_unique<Client>(engine, ask, /*patient=*/false));
      deadlines.push_back(ask.patience < 0
                              ? Clock::time_point::max()
                              : Clock::now() + std::chrono::microseconds(ask.patience));
      clients.back()->Submit();
    }
    for (size_t i = 0; i < clients.size(); ++i) {
      if (Clock::now() < deadlines[i] || clients[i]->finished()) continue;
      clients[i]->Abort();
      deadlines[i] = Clock::time_point::max();
    }
    if (random.Uniform(0, 499) == 0) engine.ClearPrefixCache();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  int num_aborted = 0;
  for (size_t i = 0; i < asks.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "request " << i);
    const Outcome& got = clients[i]->Wait();
    Compare(asks[i], *clients[i], got, expected[i]);
    num_aborted += got.reason == FinishReason::kAbort;
  }
  return num_aborted;
}

}  // namespace tangram
