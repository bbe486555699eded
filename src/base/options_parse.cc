#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/config_file.h"
#include "base/options.h"

// How options are read: the command line, the environment and the --config file.
namespace tangram {
namespace {

using Kind = Options::Option::Kind;

constexpr std::string_view kVariablePrefix = "TANGRAM_ARG_";

std::string VariableName(std::string_view name) {
  std::string made(kVariablePrefix);
  for (const char c : name) made += c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return made;
}

// The variable that the option's value is in: the first one that is set, else its own.
std::string SetVariable(const Options::Option& option) {
  std::string own = VariableName(option.name);
  if (std::getenv(own.c_str()) != nullptr) return own;
  for (const auto& [spelling, meaning] : option.aliases) {
    const std::string other = VariableName(spelling.substr(std::min<size_t>(2, spelling.size())));
    if (meaning == "--" + option.name && std::getenv(other.c_str()) != nullptr) return other;
  }
  return !option.variable.empty() && std::getenv(option.variable.c_str()) ? option.variable : own;
}

Error WithFlag(Error error, std::string_view name) {
  error.param = ParamOf(name);
  error.message = fmt::format("{}: {}", FlagOf(error.param), error.message);
  return error;
}

// CLI11 takes lists in brackets apart by itself, without regard to quotes and spaces: a mark before
// the bracket keeps it from that.
constexpr char kGuard = '\x01';

void Guard(std::string& arg) {
  const size_t at = arg.starts_with("--") ? arg.find('=') + 1 : 0;  // npos + 1 is 0
  if (at < arg.size() && arg[at] == '[') arg.insert(at, 1, kGuard);
}

std::string Unguarded(const std::string& text) {
  return text.starts_with(kGuard) ? text.substr(1) : text;
}

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string Options::Canonical(std::string flag) const {
  if (flag.starts_with("--")) std::replace(flag.begin(), flag.end(), '_', '-');
  for (const auto& option : options_) {
    for (const auto& [spelling, meaning] : option->aliases) {
      if (flag == spelling) return meaning;
    }
  }
  return flag;
}

std::vector<std::string> Options::Normalized(std::vector<std::string> args) const {
  for (std::string& arg : args) {
    if (arg == "--") break;
    if (!arg.starts_with("-")) continue;
    const size_t equals = arg.find('=');
    const std::string value = equals == std::string::npos ? "" : arg.substr(equals);
    arg = Canonical(arg.substr(0, equals)) + value;
  }
  return args;
}

Status Options::Apply(Option& option, const Values& values) {
  if (values.empty() && option.kind != Kind::kList) {
    return tl::unexpected(
        WithFlag({ErrorKind::kInvalidArgument, "a value is missing", {}}, option.name));
  }
  for (const std::string& value : values) {
    const auto& choices = option.choices;
    if (!choices.empty() && std::find(choices.begin(), choices.end(), value) == choices.end()) {
      const std::string message =
          fmt::format("'{}' is not one of {}", value, fmt::join(choices, ", "));
      return tl::unexpected(WithFlag({ErrorKind::kInvalidArgument, message, {}}, option.name));
    }
  }
  if (auto status = option.set(values); !status) {
    return tl::unexpected(WithFlag(std::move(status.error()), option.name));
  }
  option.given = true;
  return {};
}

std::string Options::Suggestion(std::string_view flag) const {
  const std::string_view name = flag.substr(std::min(flag.find_first_not_of('-'), flag.size()));
  const Option* best = nullptr;
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;
  for (const auto& option : options_) {
    for (const std::string& spelled : {option->name, "no-" + option->name}) {
      const size_t distance = EditDistance(name, spelled);
      if (distance < least) {
        least = distance;
        best = option.get();
      }
    }
  }
  return best == nullptr ? "--help lists the flags" : fmt::format("did you mean --{}?", best->name);
}

Status Options::CheckFlagsKnown(const std::vector<std::string>& args) const {
  for (const std::string& arg : args) {
    if (arg == "--") break;
    const std::string flag = arg.substr(0, arg.find('='));
    if (!flag.starts_with("--")) continue;
    const bool known = std::any_of(options_.begin(), options_.end(), [&](const auto& option) {
      return flag == "--" + option->name ||
             (option->kind == Kind::kFlag && flag == "--no-" + option->name);
    });
    if (!known) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("unknown flag {}; {}", flag, Suggestion(flag)), ParamOf(flag));
    }
  }
  return {};
}

Status Options::ParseArgs(std::vector<std::string> args) {
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::vector<std::pair<Option*, CLI::Option*>> bound;
  std::vector<Values> taken(options_.size());
  for (size_t i = 0; i < options_.size(); ++i) {
    Option& option = *options_[i];
    const std::string flag = "--" + option.name;
    CLI::Option* made = nullptr;
    if (option.kind == Kind::kFlag) {
      made = app.add_flag(flag + "{true},--no-" + option.name + "{false}", taken[i]);
    } else {
      made = app.add_option(option.positional ? option.name + "," + flag : flag, taken[i]);
      made->expected(1, option.kind == Kind::kList ? CLI::detail::expected_max_vector_size : 1);
      made->multi_option_policy(option.kind == Kind::kList ? CLI::MultiOptionPolicy::TakeAll
                                : option.positional        ? CLI::MultiOptionPolicy::Throw
                                                           : CLI::MultiOptionPolicy::TakeLast);
    }
    made->envname(SetVariable(option));
    bound.emplace_back(&option, made);
  }
  std::reverse(args.begin(), args.end());  // as CLI11 wants them
  for (std::string& arg : args) Guard(arg);
  try {
    app.parse(args);
  } catch (const CLI::ArgumentMismatch& error) {
    for (const auto& [option, given] : bound) {
      if (!option->positional || given->results().size() < 2) continue;
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("unexpected argument '{}': --{} is already '{}'",
                      Unguarded(given->results()[1]), option->name, Unguarded(given->results()[0])),
          ParamOf(option->name));
    }
    return MakeError(ErrorKind::kInvalidArgument, error.what());
  } catch (const CLI::Error& error) {
    return MakeError(ErrorKind::kInvalidArgument, error.what());
  }
  for (const std::string& extra : app.remaining()) {
    if (extra == "--") continue;
    const std::string flag = extra.substr(0, extra.find('='));
    return MakeError(ErrorKind::kInvalidArgument,
                     flag.starts_with("-")
                         ? fmt::format("unknown flag {}; {}", flag, Suggestion(flag))
                         : fmt::format("unexpected argument '{}'", extra),
                     flag.starts_with("-") ? ParamOf(flag) : "");
  }
  for (size_t i = 0; i < bound.size(); ++i) {
    if (bound[i].second->count() == 0) continue;
    Values values;
    for (const std::string& text : taken[i]) {
      const Option& option = *bound[i].first;
      const std::string plain = Unguarded(text);
      const Values items = option.kind != Kind::kList ? Values{plain}
                           : option.commas            ? ParseItems("[" + plain + "]")
                                                      : ParseItems(plain);
      values.insert(values.end(), items.begin(), items.end());
    }
    TANGRAM_RETURN_IF_ERROR(Apply(*bound[i].first, values));
  }
  return {};
}

Status Options::ReadConfig() {
  std::ifstream file(config_path_);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("--config: cannot read {}", config_path_), "config");
  }
  auto entries = ParseConfig(text.str());
  if (!entries) {
    entries.error().message = fmt::format("{}: {}", config_path_, entries.error().message);
    return tl::unexpected(std::move(entries.error()));
  }
  for (auto& [key, values] : *entries) {
    const std::string flag = Canonical("--" + key);
    const auto found = std::find_if(options_.begin(), options_.end(), [&](const auto& option) {
      return flag == "--" + option->name || flag == "--no-" + option->name;
    });
    if (found == options_.end()) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("{}: unknown option {}; {}", config_path_, key, Suggestion(key)),
                       ParamOf(key));
    }
    Option& option = **found;
    if (option.given) continue;
    const bool negated = flag != "--" + option.name;
    if (negated && values.size() == 1) values[0] = values[0] == "true" ? "false" : "true";
    TANGRAM_RETURN_IF_ERROR(Apply(option, values));
  }
  return {};
}

void Options::WarnOfUnknownVariables() {
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with(kVariablePrefix)) continue;
    const std::string_view variable = text.substr(0, text.find('='));
    const bool known = std::any_of(options_.begin(), options_.end(), [&](const auto& option) {
      return VariableName(option->name) == variable || SetVariable(*option) == variable;
    });
    if (!known) {
      warnings_.push_back(fmt::format("{} is not an option of this command: ignored", variable));
    }
  }
}

Status Options::Parse(std::vector<std::string> args) {
  args = Normalized(std::move(args));
  for (const std::string& arg : args) {
    if (arg == "--") break;
    if (arg == "-h" || arg == "--help" || arg.starts_with("--help=")) {
      help_wanted_ = true;
      help_filter_ = arg.starts_with("--help=") ? arg.substr(7) : "";
      return {};
    }
  }
  TANGRAM_RETURN_IF_ERROR(CheckFlagsKnown(args));
  TANGRAM_RETURN_IF_ERROR(ParseArgs(std::move(args)));
  if (!config_path_.empty()) TANGRAM_RETURN_IF_ERROR(ReadConfig());
  WarnOfUnknownVariables();
  for (const auto& check : checks_) TANGRAM_RETURN_IF_ERROR(check());
  return {};
}

}  // namespace tangram
