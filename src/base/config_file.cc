#include "base/config_file.h"

#include <fmt/format.h>

namespace tangram {
namespace {

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// Cuts off a comment: a # at the start or after a space, outside quotes.
std::string_view WithoutComment(std::string_view line) {
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#' && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t')) {
      return line.substr(0, i);
    }
  }
  return line;
}

std::string Unquoted(std::string_view text) {
  text = Trim(text);
  const bool quoted = text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
                      text.back() == text.front();
  return std::string(quoted ? text.substr(1, text.size() - 2) : text);
}

}  // namespace

std::vector<std::string> ParseItems(std::string_view text) {
  if (text.size() < 2 || text.front() != '[' || text.back() != ']') return {std::string(text)};
  text = text.substr(1, text.size() - 2);
  std::vector<std::string> items;
  while (!Trim(text).empty()) {
    const size_t comma = text.find(',');
    items.push_back(Unquoted(text.substr(0, comma)));
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  }
  return items;
}

Result<std::vector<ConfigEntry>> ParseConfig(std::string_view text) {
  std::vector<ConfigEntry> entries;
  int number = 0;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = WithoutComment(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    ++number;
    const std::string_view content = Trim(line);
    if (content.empty() || content == "---") continue;
    if (content.starts_with("- ") && !entries.empty()) {
      entries.back().second.push_back(Unquoted(content.substr(2)));
      continue;
    }
    const size_t colon = content.find(':');
    if (colon == std::string_view::npos || line.front() == ' ' || line.front() == '\t') {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("line {}: expected `option: value`, got '{}'", number, content));
    }
    const std::string_view value = Trim(content.substr(colon + 1));
    entries.emplace_back(Trim(content.substr(0, colon)), value.empty() ? std::vector<std::string>()
                                                         : value.front() == '['
                                                             ? ParseItems(value)
                                                             : std::vector{Unquoted(value)});
  }
  return entries;
}

}  // namespace tangram
