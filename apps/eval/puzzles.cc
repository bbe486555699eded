#include "eval/puzzles.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tangram::apps::eval {
namespace {

using Random = std::mt19937_64;

constexpr const char* kCities[] = {
    "Paris",   "Tokyo",  "Berlin", "Lima",    "Cairo",   "Oslo",     "Madrid",    "Quito",
    "Rome",    "Delhi",  "Athens", "Dublin",  "Havana",  "Nairobi",  "Lisbon",    "Vienna",
    "Prague",  "Warsaw", "Moscow", "Beijing", "Seoul",   "Bangkok",  "Jakarta",   "Manila",
    "Sydney",  "Boston", "Denver", "Chicago", "Dallas",  "Seattle",  "Toronto",   "Montreal",
    "Chennai", "Mumbai", "Kabul",  "Tehran",  "Baghdad", "Damascus", "Jerusalem", "Istanbul"};

// Distributions of the standard library differ between libraries; this does not.
size_t Below(Random& random, size_t bound) { return static_cast<size_t>(random() % bound); }

template <class T>
void Shuffle(std::vector<T>& values, Random& random) {
  for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(random, i)]);
}

std::string Number(Random& random) { return std::to_string(10000 + Below(random, 90000)); }

std::vector<std::string> Cities(size_t count, Random& random) {
  std::vector<std::string> cities(std::begin(kCities), std::end(kCities));
  Shuffle(cities, random);
  cities.resize(count);
  return cities;
}

std::string Fact(const std::string& city, const std::string& number) {
  return fmt::format("The special magic number for {} is: {}.", city, number);
}

constexpr const char* kNumbersIntro =
    "Some special magic numbers are hidden in the following text. Remember them: they will be "
    "asked for later.\n\n";

Puzzle Numbers(size_t facts, size_t questions, Random& random) {
  Puzzle puzzle{.intro = kNumbersIntro, .facts = {}, .questions = {}};
  for (const std::string& city : Cities(facts, random)) {
    const std::string number = Number(random);
    puzzle.facts.push_back(Fact(city, number));
    puzzle.questions.push_back(
        {fmt::format("What is the special magic number for {} mentioned in the text?", city),
         fmt::format("The special magic number for {} mentioned in the text is:", city),
         {number}});
  }
  Shuffle(puzzle.questions, random);
  puzzle.questions.resize(questions);
  return puzzle;
}

Puzzle MultiValue(Random& random) {
  constexpr size_t kValues = 4;
  Puzzle puzzle{.intro = kNumbersIntro, .facts = {}, .questions = {}};
  const std::string city = Cities(1, random).front();
  Question question{
      fmt::format("What are all the special magic numbers for {} mentioned in the text?", city),
      fmt::format("The special magic numbers for {} mentioned in the text are:", city),
      {},
      48};
  for (size_t i = 0; i < kValues; ++i) {
    question.expected.push_back(Number(random));
    puzzle.facts.push_back(
        fmt::format("One of the special magic numbers for {} is: {}.", city, question.expected[i]));
  }
  puzzle.questions.push_back(std::move(question));
  return puzzle;
}

Puzzle Tracking(Random& random) {
  constexpr size_t kChains = 2, kVariables = 3;
  Puzzle puzzle{.intro = "Memorise the variable assignments hidden in the following text.\n\n",
                .facts = {},
                .questions = {}};
  std::vector<std::string> names;
  while (names.size() < kChains * kVariables) {
    std::string name;
    for (int i = 0; i < 3; ++i) name += static_cast<char>('A' + Below(random, 26));
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  for (size_t step = 0; step < kVariables; ++step) {
    for (size_t chain = 0; chain < kChains; ++chain) {
      const size_t i = chain * kVariables + step;
      if (step == 0) {
        const std::string value = Number(random);
        puzzle.facts.push_back(fmt::format("VAR {} = {}.", names[i], value));
        puzzle.questions.push_back(
            {fmt::format("Which variables of the text are assigned the value {}, directly or "
                         "through other variables?",
                         value),
             fmt::format("The variables that are assigned the value {} are: VAR", value),
             {names[i], names[i + 1], names[i + 2]},
             24});
      } else {
        puzzle.facts.push_back(fmt::format("VAR {} = VAR {}.", names[i], names[i - 1]));
      }
    }
  }
  return puzzle;
}

Puzzle Dialogue(Random& random) {
  Puzzle puzzle;
  for (const std::string& city : Cities(3, random)) {
    const std::string number = Number(random);
    puzzle.facts.push_back(Fact(city, number));
    puzzle.questions.push_back(
        {fmt::format("What is the special magic number for {} that I told you earlier?", city),
         fmt::format("The special magic number for {} is:", city),
         {number}});
  }
  Shuffle(puzzle.questions, random);
  Question again = puzzle.questions.front();
  again.ask = "What was the special magic number that I first asked you for?";
  puzzle.questions.push_back(std::move(again));
  return puzzle;
}

}  // namespace

Puzzle MakePuzzle(std::string_view task, Random& random) {
  if (task == "needle") return Numbers(4, 4, random);
  if (task == "multikey") return Numbers(16, 4, random);
  if (task == "multivalue") return MultiValue(random);
  if (task == "tracking") return Tracking(random);
  if (task == "dialogue") return Dialogue(random);
  return {};
}

Random RandomOf(uint64_t seed, std::string_view task, int context) {
  uint64_t hash = seed ^ 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : task) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return Random(hash ^ (static_cast<uint64_t>(context) * 0x9e3779b97f4a7c15ULL));
}

}  // namespace tangram::apps::eval
