#include "base/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <type_traits>

#include "base/numbers.h"

namespace tangram {
namespace {

using Kind = Options::Option::Kind;

Status SetValue(bool* value, const std::string& text) {
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return std::tolower(c); });
  const bool yes = lower == "true" || lower == "1" || lower == "yes" || lower == "on";
  const bool no = lower == "false" || lower == "0" || lower == "no" || lower == "off";
  if (!yes && !no) {
    return MakeError(ErrorKind::kInvalidArgument, fmt::format("'{}' is not true or false", text));
  }
  *value = yes;
  return {};
}

template <class T>
Status SetValue(T* value, const std::string& text) requires std::is_integral_v<T> {
  TANGRAM_ASSIGN_OR_RETURN(const int64_t parsed, ParseInteger(text));
  *value = static_cast<T>(parsed);
  const bool negative = std::is_unsigned_v<T> && parsed < 0;
  if (negative || static_cast<int64_t>(*value) != parsed) {
    return MakeError(ErrorKind::kInvalidArgument, fmt::format("{} is out of range", text));
  }
  return {};
}

template <class T>
Status SetValue(T* value, const std::string& text) requires std::is_floating_point_v<T> {
  TANGRAM_ASSIGN_OR_RETURN(const double parsed, ParseNumber(text));
  *value = static_cast<T>(parsed);
  return {};
}

Status SetValue(std::chrono::milliseconds* value, const std::string& text) {
  TANGRAM_ASSIGN_OR_RETURN(const double seconds, ParseNumber(text));
  if (seconds < 0 || seconds > 1e9) {
    return MakeError(ErrorKind::kInvalidArgument, fmt::format("{} is out of range", text));
  }
  *value = std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
  return {};
}

Status SetValue(std::string* value, const std::string& text) {
  *value = text;
  return {};
}

template <class T>
std::string Show(const T& value) {
  return fmt::format("{}", value);
}
std::string Show(const std::string& value) { return value; }
std::string Show(const std::vector<std::string>& values) {
  return fmt::format("{}", fmt::join(values, ","));
}
std::string Show(std::chrono::milliseconds value) {
  return fmt::format("{}", static_cast<double>(value.count()) / 1000);
}

bool SameValue(const std::string& a, const std::string& b) {
  const auto x = ParseNumber(a), y = ParseNumber(b);
  return a == b || (x && y && *x == *y);
}

// The text in lines that end at column 120, each but the first behind `indent` spaces.
std::string Wrapped(std::string_view text, size_t indent) {
  constexpr size_t kWidth = 120;
  std::string lines;
  while (text.size() > kWidth - indent) {
    const size_t space = text.rfind(' ', kWidth - indent);
    if (space == std::string_view::npos) break;
    lines += fmt::format("{}\n{:{}}", text.substr(0, space), "", indent);
    text.remove_prefix(space + 1);
  }
  return lines + std::string(text);
}

}  // namespace

std::string ParamOf(std::string_view flag) {
  std::string param(flag.substr(std::min(flag.find_first_not_of('-'), flag.size())));
  std::ranges::replace(param, '-', '_');
  return param;
}

std::string FlagOf(std::string_view param) {
  std::string flag = fmt::format("--{}", param);
  std::ranges::replace(flag, '_', '-');
  return flag;
}

Options::Option& Options::Option::OneOf(Values values) {
  choices = std::move(values);
  return *this;
}
Options::Option& Options::Option::Secret() {
  secret = true;
  return *this;
}
Options::Option& Options::Option::Alias(std::string spelling, std::string meaning) {
  aliases.emplace_back(std::move(spelling), meaning.empty() ? "--" + name : std::move(meaning));
  return *this;
}
Options::Option& Options::Option::Variable(std::string variable_name) {
  variable = std::move(variable_name);
  return *this;
}
Options::Option& Options::Option::Commas() {
  commas = true;
  return *this;
}
Options::Option& Options::Option::Positional() {
  positional = true;
  return *this;
}

Options::Options(std::string usage, std::string about)
    : usage_(std::move(usage)), about_(std::move(about)) {
  Add("config", &config_path_, "YAML file of options, `name: value` a line");
}

Options::Option& Options::Declare(Option option) {
  option.group = group_;
  options_.push_back(std::make_unique<Option>(std::move(option)));
  return *options_.back();
}

template <class T>
Options::Option& Options::Add(std::string name, T* value, std::string help) {
  Option option{.name = std::move(name), .group = {}, .help = std::move(help)};
  option.show = [value] { return Show(*value); };
  option.default_text = option.show();
  if constexpr (std::is_same_v<T, Values>) {
    option.kind = Kind::kList;
    option.set = [value](const Values& given) {
      *value = given;
      return Status{};
    };
  } else {
    option.kind = std::is_same_v<T, bool> ? Kind::kFlag : Kind::kValue;
    option.set = [value](const Values& given) { return SetValue(value, given.back()); };
  }
  return Declare(std::move(option));
}

template Options::Option& Options::Add(std::string, bool*, std::string);
template Options::Option& Options::Add(std::string, int*, std::string);
template Options::Option& Options::Add(std::string, int64_t*, std::string);
template Options::Option& Options::Add(std::string, uint64_t*, std::string);
template Options::Option& Options::Add(std::string, float*, std::string);
template Options::Option& Options::Add(std::string, double*, std::string);
template Options::Option& Options::Add(std::string, std::string*, std::string);
template Options::Option& Options::Add(std::string, std::vector<std::string>*, std::string);
template Options::Option& Options::Add(std::string, std::chrono::milliseconds*, std::string);

Options::Option& Options::Accept(std::string name, Kind kind, std::string why) {
  Option option{.name = name, .group = {}, .help = why, .kind = kind};
  option.set = [this, name, why](const Values&) {
    warnings_.push_back(fmt::format("--{} has no effect: {}", name, why));
    return Status{};
  };
  option.show = [] { return std::string(); };
  option.hidden = true;
  return Declare(std::move(option));
}

Options::Option& Options::Refuse(std::string name, Kind kind, std::string harmless,
                                 std::string why) {
  Option option{.name = std::move(name), .group = {}, .help = why, .kind = kind};
  option.set = [harmless, why](const Values& given) -> Status {
    if (SameValue(given.back(), harmless)) return {};
    return MakeError(ErrorKind::kInvalidArgument, why);
  };
  option.show = [] { return std::string(); };
  option.hidden = true;
  return Declare(std::move(option));
}

// A flag as it was declared: dashes for underscores, the meaning for an alias.
void Options::WarnOfNoEffect(std::initializer_list<const char*> names, std::string_view why) {
  for (const char* name : names) {
    if (Given(name)) Warn(fmt::format("--{} has no effect: {}", name, why));
  }
}

bool Options::Given(std::string_view name) const {
  const auto found =
      std::ranges::find_if(options_, [&](const auto& option) { return option->name == name; });
  return found != options_.end() && (*found)->given;
}

std::string Options::Help() const {
  std::string help = fmt::format(
      "Usage: {}\n\n{}\n\nEvery flag may also be given as a variable (TANGRAM_ARG_MAX_MODEL_LEN) "
      "or in a --config\nfile, with dashes or underscores. --help=WORD shows the flags of a group "
      "or a name.\n",
      usage_, about_);
  std::string group;
  for (const auto& option : options_) {
    if (option->hidden) continue;
    const bool shown = help_filter_.empty() ||
                       option->name.find(help_filter_) != std::string::npos ||
                       option->group.find(help_filter_) != std::string::npos;
    if (!shown) continue;
    if (option->group != group) help += fmt::format("\n{}\n", group = option->group);
    std::string flag = option->kind == Kind::kFlag ? "--[no-]" + option->name : "--" + option->name;
    for (const auto& alias : option->aliases) flag += ", " + alias.first;
    constexpr int kColumn = 34;  // of flags; a longer one has its line
    if (flag.size() > kColumn) flag += fmt::format("\n{:{}}", "", kColumn + 2);
    std::string text = option->help;
    if (!option->choices.empty()) text += fmt::format(" ({})", fmt::join(option->choices, " | "));
    if (!option->default_text.empty()) text += fmt::format(" [{}]", option->default_text);
    help += fmt::format("  {:<{}} {}\n", flag, kColumn, Wrapped(text, kColumn + 3));
  }
  return help;
}

std::string Options::NonDefault() const {
  std::string items;
  for (const auto& option : options_) {
    const std::string value = option->show();
    if (value == option->default_text) continue;
    items += fmt::format("{}'{}': {}", items.empty() ? "" : ", ", option->name,
                         option->secret ? "(set)" : "'" + value + "'");
  }
  return "{" + items + "}";
}

}  // namespace tangram
