#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tangram {

// How Error::param spells the flag --max-num-seqs: max_num_seqs.
std::string ParamOf(std::string_view flag);
// The flag of such a param.
std::string FlagOf(std::string_view param);

// The options of a command. Each is declared once: from that follow the flag (`--name`, dashes or
// underscores; booleans also as `--no-name`), the variable TANGRAM_ARG_NAME, the key of a --config
// file, the default, the help and the report of what was changed. The command line wins over the
// environment, that over the file, the file over the default.
class Options {
 public:
  using Values = std::vector<std::string>;

  // One option, to be refined where it is declared.
  struct Option {
    // Other values are refused.
    Option& OneOf(Values values);
    // NonDefault shows that it is set, not its value.
    Option& Secret();
    // Another spelling, with its dashes ("-p", "--tp"), and what it stands for if that is not the
    // flag itself ("--no-log-stats").
    Option& Alias(std::string spelling, std::string meaning = {});
    // Another variable that is read if TANGRAM_ARG_NAME is not set.
    Option& Variable(std::string variable_name);
    // Of a list: one value may hold several, with commas between them.
    Option& Commas();
    // The value may stand without the flag.
    Option& Positional();

    std::string name, group, help;
    enum class Kind { kFlag, kValue, kList } kind = Kind::kValue;
    std::function<Status(const Values&)> set;
    std::function<std::string()> show;
    std::string default_text;
    Values choices;
    std::vector<std::pair<std::string, std::string>> aliases;  // spelling, flag
    std::string variable;
    bool secret = false, positional = false, hidden = false, commas = false, given = false;
  };

  // `usage` is the line that help begins with, `about` what the command does.
  Options(std::string usage, std::string about);
  Options(const Options&) = delete;
  Options& operator=(const Options&) = delete;

  // Options declared from here on belong to this group of the help.
  void Group(std::string title) { group_ = std::move(title); }

  // An option whose default is what *value holds now. T: bool, int, int64_t, uint64_t, float,
  // double, std::string, std::vector<std::string> (several values), or std::chrono::milliseconds
  // (given in seconds). *value must outlive Parse.
  template <class T>
  Option& Add(std::string name, T* value, std::string help);

  // An option whose values are words, each of which stands for a value of *value; of several for
  // the same one the first is its name.
  template <class T>
  Option& AddWords(std::string name, T* value, std::vector<std::pair<std::string, T>> words,
                   std::string help);

  // A flag of other servers that changes nothing here: parsed, and told in one warning.
  Option& Accept(std::string name, Option::Kind kind, std::string why);
  // A flag of other servers or of later versions: an error that says why, unless its value is
  // `harmless`.
  Option& Refuse(std::string name, Option::Kind kind, std::string harmless, std::string why);

  // Called at the end of Parse, when all is read: for what depends on several options.
  void Check(std::function<Status()> check) { checks_.push_back(std::move(check)); }
  // One more line for warnings().
  void Warn(std::string line) { warnings_.push_back(std::move(line)); }
  // One for each of these options that was given: it has no effect, and why.
  void WarnOfNoEffect(std::initializer_list<const char*> names, std::string_view why);

  // Reads `args` (without the program's and the command's name), the environment and the --config
  // file, and sets the values. kInvalidArgument for anything that is wrong, `param` is the option.
  Status Parse(std::vector<std::string> args);

  // Whether --help was among the arguments; nothing else was looked at then.
  bool help_wanted() const { return help_wanted_; }
  // Whether somebody set the option, be it to its default.
  bool Given(std::string_view name) const;
  // All options in groups; with `--help=word` those whose name or group has the word.
  std::string Help() const;
  // What was accepted without effect or adjusted, one line each.
  const std::vector<std::string>& warnings() const { return warnings_; }
  // The options that differ from their defaults: "{'port': 8001, 'model': 'm.gguf'}".
  std::string NonDefault() const;

 private:
  Option& Declare(Option option);
  std::string Canonical(std::string flag) const;
  std::vector<std::string> Normalized(std::vector<std::string> args) const;
  Status CheckFlagsKnown(const std::vector<std::string>& args) const;
  Status ParseArgs(std::vector<std::string> args);
  Status ReadConfig();
  Status Apply(Option& option, const Values& values);
  void WarnOfUnknownVariables();
  std::string Suggestion(std::string_view flag) const;

  std::string usage_, about_, group_ = "Options", config_path_, help_filter_;
  std::vector<std::unique_ptr<Option>> options_;  // in order; addresses stay
  std::vector<std::string> warnings_;
  std::vector<std::function<Status()>> checks_;
  bool help_wanted_ = false;
};

template <class T>
Options::Option& Options::AddWords(std::string name, T* value,
                                   std::vector<std::pair<std::string, T>> words, std::string help) {
  Option option{.name = std::move(name), .group = {}, .help = std::move(help)};
  for (const auto& word : words) option.choices.push_back(word.first);
  option.show = [value, words] {
    for (const auto& [word, meaning] : words) {
      if (meaning == *value) return word;
    }
    return std::string();
  };
  option.default_text = option.show();
  option.set = [value, words](const Values& given) {
    for (const auto& [word, meaning] : words) {
      if (word == given.back()) *value = meaning;
    }
    return Status{};
  };
  return Declare(std::move(option));
}

}  // namespace tangram
