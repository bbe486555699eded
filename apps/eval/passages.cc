#include "eval/passages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace tangram::apps::eval {
namespace {

constexpr int kTurnTokens = 8;  // what a chat template may put around a turn
constexpr std::string_view kQuestionMark = "### ";

Result<std::span<const Passages::Piece>> Window(const std::vector<Passages::Piece>& pieces,
                                                double start, int tokens, int overhead,
                                                size_t step) {
  // From the end, the first place that leaves enough.
  size_t last = pieces.size();
  for (int sum = 0; sum < tokens && last > 0;) sum += pieces[--last].tokens + overhead;
  int sum = 0;
  const size_t first = static_cast<size_t>(start * static_cast<double>(last + 1)) / step * step;
  size_t end = first;
  while (sum < tokens && end < pieces.size()) sum += pieces[end++].tokens + overhead;
  if (sum < tokens) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("the bundled text is too short for contexts of {} tokens", tokens),
                     "length");
  }
  return std::span(pieces).subspan(first, end - first);
}

// Takes the first line off the text.
std::string_view TakeLine(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  return line;
}

bool EndsSentence(std::string_view text, size_t i) {
  if (i + 2 >= text.size() || text[i + 1] != ' ') return false;
  if (std::string_view(".!?").find(text[i]) == std::string_view::npos) return false;
  if (std::isupper(static_cast<unsigned char>(text[i + 2])) == 0 && text[i + 2] != '"') {
    return false;
  }
  size_t letters = 0;
  while (letters < i && std::isalpha(static_cast<unsigned char>(text[i - letters - 1])) != 0) {
    ++letters;
  }
  const bool title =
      letters <= 3 && std::isupper(static_cast<unsigned char>(text[i - letters])) != 0;
  return text[i] != '.' || !title;
}

}  // namespace

std::vector<std::string> SplitSentences(std::string_view paragraph) {
  std::vector<std::string> sentences;
  size_t begin = 0;
  for (size_t i = 0; i < paragraph.size(); ++i) {
    if (!EndsSentence(paragraph, i)) continue;
    sentences.emplace_back(paragraph.substr(begin, i + 1 - begin));
    begin = i + 2;
  }
  if (begin < paragraph.size()) sentences.emplace_back(paragraph.substr(begin));
  return sentences;
}

Result<Passages> Passages::Create(std::string_view document, std::string_view dialogues,
                                  const Tokenizer& tokenizer) {
  Passages made;
  const auto add = [&](std::vector<Piece>& to, std::string piece) -> Status {
    TANGRAM_ASSIGN_OR_RETURN(const auto tokens, tokenizer.Encode(piece, false));
    to.push_back({std::move(piece), static_cast<int>(tokens.size())});
    return {};
  };
  while (!document.empty()) {
    auto sentences = SplitSentences(TakeLine(document));
    for (size_t i = 0; i < sentences.size(); ++i) {
      const bool last = i + 1 == sentences.size();
      TANGRAM_RETURN_IF_ERROR(add(made.sentences_, sentences[i] + (last ? "\n" : " ")));
    }
  }
  while (!dialogues.empty()) {
    const auto question = TakeLine(dialogues).substr(kQuestionMark.size());
    TANGRAM_RETURN_IF_ERROR(add(made.turns_, std::string(question)));
    std::string answer;
    while (!dialogues.empty() && !dialogues.starts_with(kQuestionMark)) {
      answer += (answer.empty() ? "" : "\n") + std::string(TakeLine(dialogues));
    }
    TANGRAM_RETURN_IF_ERROR(add(made.turns_, std::move(answer)));
  }
  return made;
}

Result<std::span<const Passages::Piece>> Passages::Document(double start, int tokens) const {
  return Window(sentences_, start, tokens, 0, 1);
}

Result<std::span<const Passages::Piece>> Passages::Dialogue(double start, int tokens) const {
  return Window(turns_, start, tokens, kTurnTokens, 2);
}

}  // namespace tangram::apps::eval
