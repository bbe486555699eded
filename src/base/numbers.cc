#include "base/numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string>

namespace tangram {
namespace {

// What a suffix multiplies by; 0 if it is none.
double Multiplier(char suffix) {
  constexpr std::string_view kLetters = "kmgt";
  for (size_t i = 0; i < kLetters.size(); ++i) {
    const double power = static_cast<double>(i + 1);
    if (suffix == kLetters[i]) return std::pow(1000.0, power);
    if (suffix == kLetters[i] - 'a' + 'A') return std::pow(1024.0, power);
  }
  return 0;
}

}  // namespace

Result<double> ParseNumber(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end || !std::isfinite(value)) {
    return MakeError(ErrorKind::kInvalidArgument, fmt::format("'{}' is not a number", text));
  }
  return value;
}

Result<int64_t> ParseInteger(std::string_view text) {
  int64_t whole = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, whole);
  if (error == std::errc() && stopped == end) return whole;

  const double multiplier = text.empty() ? 0 : Multiplier(text.back());
  const auto number = ParseNumber(multiplier > 0 ? text.substr(0, text.size() - 1) : text);
  const double value = number ? *number * (multiplier > 0 ? multiplier : 1) : 0;
  // 2^63 itself does not fit, and the doubles below it that do are whole.
  if (!number || value != std::floor(value) || std::abs(value) >= 0x1p63) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("'{}' is not a whole number (32k is 32000, 32K is 32768)", text));
  }
  return static_cast<int64_t>(value);
}

}  // namespace tangram
