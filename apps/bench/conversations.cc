#include "bench/conversations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

namespace tangram::apps::bench {
namespace {

using nlohmann::json;
using Random = std::mt19937_64;

// vLLM's example, its sizes.
constexpr const char* kDefaultGenerator = R"({
  "filetype": "generate_conversations",
  "num_conversations": 24,
  "prompt_input": {
    "num_turns": {"distribution": "uniform", "min": 12, "max": 18},
    "common_prefix_num_tokens": 500,
    "prefix_num_tokens": {"distribution": "lognormal", "average": 1000, "max": 5000},
    "num_tokens": {"distribution": "uniform", "min": 120, "max": 160}
  },
  "prompt_output": {"num_tokens": {"distribution": "uniform", "min": 80, "max": 120}}
})";

auto Malformed(const std::string& why) {
  return MakeError(ErrorKind::kInvalidArgument, why, "input_file");
}

double Number(const json& object, const char* key, double otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : otherwise;
}

// P(k) ~ k^-alpha up to a bound where the rest is negligible or cut anyway.
double DrawZipf(double alpha, double max, Random& random) {
  std::vector<double> weights(static_cast<size_t>(std::clamp(max, 1.0, 100000.0)));
  for (size_t k = 0; k < weights.size(); ++k) weights[k] = std::pow(k + 1.0, -alpha);
  return std::discrete_distribution<int>(weights.begin(), weights.end())(random) + 1;
}

// Text of a given number of tokens: words of the files one after the other or, without files,
// successive tokens of the vocabulary from a random one on.
class TextSource {
 public:
  TextSource(std::vector<int32_t> corpus, const Tokenizer& tokenizer, Random& random)
      : corpus_(std::move(corpus)), tokenizer_(tokenizer), random_(random) {}

  std::string Take(int num_tokens) {
    std::vector<int32_t> ids;
    if (corpus_.empty()) at_ = std::uniform_int_distribution<size_t>(0, Size() - 1)(random_);
    while (static_cast<int>(ids.size()) < num_tokens) {
      const size_t at = at_++ % Size();
      const int32_t id = corpus_.empty() ? static_cast<int32_t>(at) : corpus_[at];
      if (corpus_.empty() && tokenizer_.IsSpecial(id)) continue;
      ids.push_back(id);
    }
    return tokenizer_.Decode(ids, false);
  }

 private:
  size_t Size() const {
    return corpus_.empty() ? static_cast<size_t>(tokenizer_.vocab_size()) : corpus_.size();
  }

  std::vector<int32_t> corpus_;
  const Tokenizer& tokenizer_;
  Random& random_;
  size_t at_ = 0;
};

Result<std::vector<int32_t>> ReadCorpus(const json& spec, const std::string& folder,
                                        const Tokenizer& tokenizer) {
  std::string all;
  for (const json& name : spec.value("text_files", json::array())) {
    const std::string path = folder + name.get<std::string>();
    std::ifstream file(path);
    std::stringstream text;
    if (!file || !(text << file.rdbuf())) return Malformed("cannot read " + path);
    all += text.str();
  }
  if (all.empty()) return std::vector<int32_t>();
  return tokenizer.Encode(all, false);
}

Result<std::vector<Conversation>> Generate(const json& spec, const std::string& folder,
                                           uint64_t seed, const Tokenizer& tokenizer) {
  Random random(seed);
  TANGRAM_ASSIGN_OR_RETURN(auto corpus, ReadCorpus(spec, folder, tokenizer));
  TextSource text(std::move(corpus), tokenizer, random);
  const json input = spec.value("prompt_input", json::object());
  const json output = spec.value("prompt_output", json::object());
  const auto draw = [&](const json& from, const char* key) {
    return DrawLength(from.value(key, json()), random);
  };
  std::string common;
  if (Number(input, "common_prefix_num_tokens", 1) > 0) {
    TANGRAM_ASSIGN_OR_RETURN(const int length, draw(input, "common_prefix_num_tokens"));
    common = text.Take(length) + " ";
  }
  std::vector<Conversation> made(static_cast<size_t>(Number(spec, "num_conversations", 0)));
  for (size_t i = 0; i < made.size(); ++i) {
    made[i].id = fmt::format("CONV_ID_{}", i);
    TANGRAM_ASSIGN_OR_RETURN(const int messages, draw(input, "num_turns"));
    TANGRAM_ASSIGN_OR_RETURN(const int prefix, draw(input, "prefix_num_tokens"));
    made[i].turns.resize(std::max(1, messages / 2));
    for (Conversation::Turn& turn : made[i].turns) {
      TANGRAM_ASSIGN_OR_RETURN(const int length, draw(input, "num_tokens"));
      TANGRAM_ASSIGN_OR_RETURN(turn.answer_len, draw(output, "num_tokens"));
      turn.question = text.Take(length);
    }
    made[i].turns[0].question =
        fmt::format("{}{} {}", common, text.Take(prefix), made[i].turns[0].question);
  }
  return made;
}

Result<Conversation> ReadConversation(const json& entry, const Tokenizer& tokenizer) {
  const auto messages = entry.is_object() ? entry.find("messages") : entry.end();
  if (messages == entry.end() || !messages->is_array()) {
    return Malformed("a conversation without \"messages\"");
  }
  Conversation made;
  made.id = entry.value("id", json("")).dump();
  for (const json& message : *messages) {
    if (!message.is_object() || !message.value("content", json()).is_string()) {
      return Malformed("conversation " + made.id + ": a message without \"content\"");
    }
    const std::string content = message["content"];
    if (message.value("role", "") == "user") {
      made.turns.push_back({content, 0});
    } else if (!made.turns.empty()) {
      TANGRAM_ASSIGN_OR_RETURN(const auto tokens, tokenizer.Encode(content, false));
      made.turns.back().answer_len = static_cast<int>(tokens.size());
    }
  }
  // A question at the end has no answer whose length could be asked for.
  while (!made.turns.empty() && made.turns.back().answer_len == 0) made.turns.pop_back();
  if (made.turns.empty()) return Malformed("conversation " + made.id + " has no whole turn");
  return made;
}

}  // namespace

Result<int> DrawLength(const json& spec, Random& random) {
  if (spec.is_number()) return std::max(1, spec.get<int>());
  if (!spec.is_object()) return Malformed("a length is a number or a distribution");
  const std::string kind = spec.value("distribution", "");
  const double max = Number(spec, "max", 1e6);
  double value = 0;
  if (kind == "constant") {
    value = Number(spec, "value", 1);
  } else if (kind == "uniform") {
    const double low = Number(spec, "min", 1);
    value = std::uniform_int_distribution<int>(
        static_cast<int>(low), static_cast<int>(std::max(low, Number(spec, "max", low))))(random);
  } else if (kind == "lognormal") {
    // mean = exp(mu + sigma^2 / 2), median = exp(mu) = median_ratio * mean.
    const double median_ratio = std::clamp(Number(spec, "median_ratio", 0.85), 1e-3, 1.0);
    const double mu = std::log(median_ratio * std::max(1.0, Number(spec, "average", 1)));
    value = std::lognormal_distribution(mu, std::sqrt(-2 * std::log(median_ratio)))(random);
  } else if (kind == "poisson") {
    value = std::poisson_distribution<int>(std::max(1e-3, Number(spec, "alpha", 1)))(random);
  } else if (kind == "zipf") {
    value = DrawZipf(Number(spec, "alpha", 2), max, random);
  } else {
    return Malformed(fmt::format("unknown distribution '{}'", kind));
  }
  return static_cast<int>(std::clamp(value, 1.0, std::max(1.0, max)));
}

Result<std::vector<Conversation>> LoadConversations(const std::string& path, uint64_t seed,
                                                    const Tokenizer& tokenizer) {
  json file = json::parse(kDefaultGenerator);
  if (!path.empty()) {
    std::ifstream stream(path);
    file = stream ? json::parse(stream, nullptr, false) : json(json::value_t::discarded);
  }
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  if (file.is_object() && file.value("filetype", "") == "generate_conversations") {
    return Generate(file, folder, seed, tokenizer);
  }
  if (!file.is_array()) return Malformed(path + " is neither a list nor a generator");
  std::vector<Conversation> made;
  for (const json& entry : file) {
    TANGRAM_ASSIGN_OR_RETURN(Conversation conversation, ReadConversation(entry, tokenizer));
    made.push_back(std::move(conversation));
  }
  return made;
}

}  // namespace tangram::apps::bench
