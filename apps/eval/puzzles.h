#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace tangram::apps::eval {

// A question about planted facts. `prefix` is put into the model's mouth; the answer should hold
// all of `expected`.
struct Question {
  std::string ask, prefix;
  std::vector<std::string> expected;
  int max_tokens = 8;
};

// Facts to plant in a text, one at a time, and questions about them.
struct Puzzle {
  std::string intro;  // stands before the text
  std::vector<std::string> facts;
  std::vector<Question> questions;
};

// In RULER's manner (arXiv 2404.06654, section 3):
//   needle      4 numbers by city, each asked for
//   multikey    16 numbers by city, 4 of them asked for
//   multivalue  4 numbers of one city, all asked for at once
//   tracking    2 chains of 3 variables, assigned from each other; which ones hold a value
// and for conversations:
//   dialogue    3 numbers by city told in earlier turns and asked for, then once more the one
//               that was asked for first
// No facts for any other name.
Puzzle MakePuzzle(std::string_view task, std::mt19937_64& random);

// The same stream of numbers on every machine, for one context of one task.
std::mt19937_64 RandomOf(uint64_t seed, std::string_view task, int context);

}  // namespace tangram::apps::eval
