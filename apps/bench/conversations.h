#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace tangram::apps::bench {

// A scripted conversation: user and assistant texts in turn. Only the lengths of the assistant's
// texts count: a server's own answers take their place.
struct Conversation {
  struct Turn {
    std::string question;
    int answer_len = 0;  // tokens
  };
  std::string id;
  std::vector<Turn> turns;
};

// A whole number drawn as a generator file says: a plain number, or {"distribution": "constant"
// (value) | "uniform" (min, max) | "lognormal" (average, median_ratio) | "poisson" (alpha) |
// "zipf" (alpha), "max": bound}. At least 1.
Result<int> DrawLength(const nlohmann::json& spec, std::mt19937_64& random);

// Conversations of a file in vLLM's forms: a list of {id, messages}, or a generator
// (`"filetype": "generate_conversations"`). Without a path: 24 generated ones of 6 to 9 turns, with
// 500 shared and about 1000 private tokens before the first question, 120 to 160 tokens a question
// and 80 to 120 an answer. kInvalidArgument for files of another form.
Result<std::vector<Conversation>> LoadConversations(const std::string& path, uint64_t seed,
                                                    const Tokenizer& tokenizer);

}  // namespace tangram::apps::bench
