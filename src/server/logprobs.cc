#include "server/logprobs.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/utf8.h"

namespace tangram::server {
namespace {

// JSON has no infinities; a token that was masked out gets this, as in vLLM.
constexpr double kLowestLogprob = -9999.0;

double Clamp(float logprob) { return std::max(static_cast<double>(logprob), kLowestLogprob); }

// The token's own text. A part of a character shows as U+FFFD; its bytes are told beside it.
std::string TokenText(TokenId id, const LogprobFormat& format) {
  if (format.tokens_as_ids) return fmt::format("token_id:{}", id);
  Utf8Reader reader;
  std::string text = reader.Push(format.tokenizer.TokenBytes(id));
  return text + reader.Finish();
}

Json ChatEntry(const TokenLogprob& entry, const LogprobFormat& format) {
  Json bytes = Json::array();
  for (const char c : format.tokenizer.TokenBytes(entry.token)) {
    bytes.push_back(static_cast<unsigned char>(c));
  }
  return {{"token", TokenText(entry.token, format)},
          {"logprob", Clamp(entry.logprob)},
          {"bytes", std::move(bytes)}};
}

}  // namespace

int CountCharacters(std::string_view text) {
  return static_cast<int>(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

Json ChatLogprobs(const std::vector<TokenEvent>& events, const LogprobFormat& format) {
  Json content = Json::array();
  for (const TokenEvent& event : events) {
    Json entry = ChatEntry(event.logprob, format);
    Json top = Json::array();
    for (const TokenLogprob& other : event.top_logprobs) top.push_back(ChatEntry(other, format));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}};
}

Json CompletionLogprobs(const std::vector<TokenEvent>& events, const LogprobFormat& format,
                        int* offset) {
  Json tokens = Json::array(), logprobs = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (const TokenEvent& event : events) {
    const std::string text = TokenText(event.logprob.token, format);
    Json top = {{text, Clamp(event.logprob.logprob)}};
    for (const TokenLogprob& other : event.top_logprobs) {
      top[TokenText(other.token, format)] = Clamp(other.logprob);
    }
    tokens.push_back(text);
    logprobs.push_back(Clamp(event.logprob.logprob));
    tops.push_back(std::move(top));
    offsets.push_back(*offset);
    *offset += CountCharacters(text);
  }
  return {{"text_offset", std::move(offsets)},
          {"token_logprobs", std::move(logprobs)},
          {"tokens", std::move(tokens)},
          {"top_logprobs", std::move(tops)}};
}

}  // namespace tangram::server
