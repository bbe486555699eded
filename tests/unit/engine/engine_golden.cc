#include "engine_golden.h"

#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace tangram {
namespace {

constexpr const char* kHeader =
    "# Answers of the engine to the bit, made by engine_golden_test.cc, which says how.\n"
    "# A token, its log probability as the bits of an f32, the runner-up and its own.\n";

// What besides the sources decides about a bit.
std::string Environment() {
  const int64_t targets = hwy::SupportedTargets();
  return fmt::format("{} kernels, Highway {}.{}.{}, glibc {}", hwy::TargetName(targets & -targets),
                     HWY_MAJOR, HWY_MINOR, HWY_PATCH, gnu_get_libc_version());
}

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

bool SameBits(const GoldenToken& a, const GoldenToken& b) {
  return a.token == b.token && a.runner_up == b.runner_up && Bits(a.logprob) == Bits(b.logprob) &&
         Bits(a.runner_up_logprob) == Bits(b.runner_up_logprob);
}

std::string Describe(const GoldenAnswer& answer, size_t i) {
  if (i >= answer.tokens.size()) return "none";
  const GoldenToken& t = answer.tokens[i];
  return fmt::format("{} at {:.9g} ({:08x}), before {} at {:.9g} ({:08x})", t.token, t.logprob,
                     Bits(t.logprob), t.runner_up, t.runner_up_logprob, Bits(t.runner_up_logprob));
}

// The first difference; empty if there is none.
std::string Difference(const GoldenAnswer& expected, const GoldenAnswer& actual) {
  if (expected.cached != actual.cached) {
    return fmt::format("{} tokens of the prompt were cached; golden: {}", actual.cached,
                       expected.cached);
  }
  const size_t count = std::max(expected.tokens.size(), actual.tokens.size());
  for (size_t i = 0; i < count; ++i) {
    if (i < expected.tokens.size() && i < actual.tokens.size() &&
        SameBits(expected.tokens[i], actual.tokens[i])) {
      continue;
    }
    return fmt::format("token {} of {} is the first that differs\n    now: {}\n golden: {}", i + 1,
                       expected.tokens.size(), Describe(actual, i), Describe(expected, i));
  }
  if (expected.resident == actual.resident) return "";
  return fmt::format("the tokens are the same, but {} stayed in the KV cache; golden: {}",
                     actual.resident, expected.resident);
}

// A line behind "case NAME".
void ReadLine(const std::string& line, GoldenAnswer& answer) {
  std::istringstream words(line);
  if (line.starts_with("cached ")) {
    std::string skipped;
    words >> skipped >> answer.cached >> skipped >> answer.resident;
    return;
  }
  GoldenToken& t = answer.tokens.emplace_back();
  uint32_t logprob = 0, runner_up_logprob = 0;
  words >> t.token >> std::hex >> logprob >> std::dec >> t.runner_up >> std::hex >>
      runner_up_logprob;
  EXPECT_FALSE(words.fail()) << "no line of a golden file: " << line;
  t.logprob = std::bit_cast<float>(logprob);
  t.runner_up_logprob = std::bit_cast<float>(runner_up_logprob);
}

}  // namespace

void GoldenAnswer::Add(const TokenEvent& event) {
  if (event.token < 0) return;  // an end without a token: the answer is too short, and differs
  if (tokens.empty()) cached = event.num_cached_tokens;
  resident = event.resident_tokens;
  ASSERT_EQ(event.top_logprobs.size(), 2u);
  // A token that was drawn may be neither of the two best.
  const bool is_best = event.top_logprobs[0].token == event.token;
  const TokenLogprob& other = event.top_logprobs[is_best ? 1 : 0];
  tokens.push_back({event.token, other.token, event.logprob.logprob, other.logprob});
}

EngineGolden::EngineGolden(std::string path)
    : path_(std::move(path)), regenerates_(std::getenv("TANGRAM_REGENERATE_GOLDEN") != nullptr) {
  if (regenerates_) return;
  std::ifstream file(path_);
  EXPECT_TRUE(file.good()) << path_;
  GoldenAnswer* answer = nullptr;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("made with ")) {
      environment_ = line.substr(10);
    } else if (line.starts_with("case ")) {
      answer = &answers_[line.substr(5)];
    } else if (answer != nullptr) {
      ReadLine(line, *answer);
    }
  }
}

std::string EngineGolden::WhyNotComparable() const {
  if (regenerates_ || environment_ == Environment()) return "";
  return fmt::format("{} was made with {}, and here are {}: make one at a commit that you trust",
                     path_, environment_, Environment());
}

void EngineGolden::Check(const std::string& name, const GoldenAnswer& answer) {
  const auto it = answers_.find(name);
  if (it != answers_.end()) {
    const std::string difference = Difference(it->second, answer);
    if (!difference.empty()) ADD_FAILURE() << name << ": " << difference;
  } else if (regenerates_) {
    answers_[name] = answer;
  } else {
    ADD_FAILURE() << name << ": " << path_ << " has no such case";
  }
}

void EngineGolden::Finish() const {
  if (!regenerates_) return;
  std::ofstream file(path_);
  file << kHeader << "made with " << Environment() << "\n";
  for (const auto& [name, answer] : answers_) {
    file << fmt::format("case {}\ncached {} resident {}\n", name, answer.cached, answer.resident);
    for (const GoldenToken& t : answer.tokens) {
      file << fmt::format("{} {:08x} {} {:08x}\n", t.token, Bits(t.logprob), t.runner_up,
                          Bits(t.runner_up_logprob));
    }
  }
  EXPECT_TRUE(file.flush().good()) << path_;
}

void UseGoldenKernels() {
#if HWY_ARCH_X86
  // On x86 the better a target, the lower its bit. Not DisableTargets: the next call of
  // SupportedTargets would dispatch to the best again.
  hwy::SetSupportedTargetsForTest(hwy::SupportedTargets() & ~(HWY_AVX2 - 1));
#endif
}

}  // namespace tangram
