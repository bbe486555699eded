#include "base/options.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/config_file.h"
#include "base/numbers.h"

namespace tangram {
namespace {

using Kind = Options::Option::Kind;

// A command with one option of each kind.
struct Command {
  Command() {
    options.Group("Model");
    options.Add("model", &model, "what to serve").Positional();
    options.Add("max-model-len", &max_model_len, "context in tokens");
    options.Group("Server");
    options.Add("port", &port, "TCP port").Alias("-p");
    options.Add("api-key", &api_keys, "keys").Secret();
    options.Add("dtype", &dtype, "type").OneOf({"auto", "f16"});
    options.Add("enable-prefix-caching", &caching, "reuse prefixes")
        .Alias("--disable-caching", "--no-enable-prefix-caching");
    options.Add("share", &share, "of memory").Alias("--gpu-share").Variable("OTHER_SHARE");
    options.Add("timeout", &timeout, "seconds");
    options.Add("seed", &seed, "of sampling");
    options.Accept("trust-remote-code", Kind::kFlag, "no remote code is ever run");
    options.Refuse("tensor-parallel-size", Kind::kValue, "1", "one device is used").Alias("-tp");
  }

  std::string ErrorOf(std::vector<std::string> args) {
    auto status = options.Parse(std::move(args));
    return status ? "no error" : status.error().message;
  }

  std::string model, dtype = "auto";
  int max_model_len = 0, port = 8000;
  uint64_t seed = 0;
  bool caching = true;
  double share = 0.5;
  std::chrono::milliseconds timeout{1500};
  std::vector<std::string> api_keys;
  Options options{"tangram test [MODEL]", "A test."};
};

TEST(Options, ReadsEverySpelling) {
  Command c;
  ASSERT_TRUE(
      c.options.Parse({"m.gguf", "--max_model_len=32k", "-p", "81", "--no-enable-prefix-caching",
                       "--share", "0.25", "--timeout", "2.5", "--seed", "7"}));
  EXPECT_EQ(c.model, "m.gguf");
  EXPECT_EQ(c.max_model_len, 32000);
  EXPECT_EQ(c.port, 81);
  EXPECT_FALSE(c.caching);
  EXPECT_EQ(c.share, 0.25);
  EXPECT_EQ(c.timeout.count(), 2500);
  EXPECT_EQ(c.seed, 7u);
}

TEST(Options, TakesListsRepeatedAndBracketed) {
  for (const std::vector<std::string>& args : {std::vector<std::string>{"--api-key", "a", "b"},
                                               {"--api-key", "a", "--api-key", "b"},
                                               {"--api-key", R"(["a", "b"])"}}) {
    Command c;
    ASSERT_TRUE(c.options.Parse(args));
    EXPECT_EQ(c.api_keys, (std::vector<std::string>{"a", "b"}));
  }
}

TEST(Options, KeepsValuesAsTheyAre) {
  std::vector<std::string> stop;
  std::string body;
  Options options("tangram test", "A test.");
  options.Add("stop", &stop, "");
  options.Add("body", &body, "");
  ASSERT_TRUE(options.Parse({"--stop", " a", "\"", "--body", "[1, 2]"}));
  EXPECT_EQ(stop, (std::vector<std::string>{" a", "\""}));
  EXPECT_EQ(body, "[1, 2]");
}

TEST(Options, SplitsAtCommasWhereAsked) {
  std::vector<std::string> split, whole;
  Options options("tangram test", "A test.");
  options.Add("split", &split, "").Commas();
  options.Add("whole", &whole, "");
  ASSERT_TRUE(options.Parse({"--split", "a, b", "--whole", "a,b"}));
  EXPECT_EQ(split, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(whole, (std::vector<std::string>{"a,b"}));
}

TEST(Options, NegativeValuesAndFlagsWithValues) {
  Command c;
  ASSERT_TRUE(c.options.Parse({"--max-model-len", "-1", "--enable-prefix-caching=false"}));
  EXPECT_EQ(c.max_model_len, -1);
  EXPECT_FALSE(c.caching);
}

TEST(Options, TheLastOfARepeatedOptionCounts) {
  Command c;
  ASSERT_TRUE(c.options.Parse({"--port", "1", "--port", "2"}));
  EXPECT_EQ(c.port, 2);
}

TEST(Options, ErrorsNameTheOptionAsJsonDoes) {
  const auto param = [](std::vector<std::string> args) {
    Command c;
    const Status status = c.options.Parse(std::move(args));
    return status ? "no error" : status.error().param;
  };
  EXPECT_EQ(param({"--max-model-len", "many"}), "max_model_len");
  EXPECT_EQ(param({"--max_model_len", "many"}), "max_model_len");
  EXPECT_EQ(param({"--enable-prefix-caching=perhaps"}), "enable_prefix_caching");
  EXPECT_EQ(param({"--max-modle-len", "5"}), "max_modle_len");
  EXPECT_EQ(param({"--config", "/nowhere"}), "config");
  EXPECT_EQ(ParamOf("--max-model-len"), "max_model_len");
  EXPECT_EQ(FlagOf("max_model_len"), "--max-model-len");
}

TEST(Options, SaysWhatIsWrong) {
  EXPECT_EQ(Command().ErrorOf({"--max-modle-len", "5"}),
            "unknown flag --max-modle-len; did you mean --max-model-len?");
  EXPECT_EQ(Command().ErrorOf({"m.gguf", "--prot", "5"}),
            "unknown flag --prot; did you mean --port?");
  EXPECT_EQ(Command().ErrorOf({"--zzzzzzzzzzzzzz"}),
            "unknown flag --zzzzzzzzzzzzzz; --help lists the flags");
  EXPECT_NE(Command().ErrorOf({"a", "b"}), "no error");
  EXPECT_EQ(Command().ErrorOf({"--dtype", "f8"}), "--dtype: 'f8' is not one of auto, f16");
  EXPECT_EQ(Command().ErrorOf({"--port", "99999999999"}), "--port: 99999999999 is out of range");
  EXPECT_EQ(Command().ErrorOf({"--seed", "-1"}), "--seed: -1 is out of range");
  EXPECT_EQ(Command().ErrorOf({"--share", "x"}), "--share: 'x' is not a number");
  EXPECT_EQ(Command().ErrorOf({"-tp", "2"}), "--tensor-parallel-size: one device is used");
  EXPECT_EQ(Command().ErrorOf({"-tp", "1"}), "no error");
  EXPECT_NE(Command().ErrorOf({"--port"}), "no error");
}

TEST(Options, WarnsOnceOfWhatHasNoEffect) {
  Command c;
  ASSERT_TRUE(c.options.Parse({"--trust-remote-code"}));
  ASSERT_EQ(c.options.warnings().size(), 1u);
  EXPECT_EQ(c.options.warnings()[0],
            "--trust-remote-code has no effect: no remote code is ever run");
}

TEST(Options, CommandLineWinsOverEnvironmentOverFile) {
  const std::string path = testing::TempDir() + "options.yaml";
  std::ofstream(path)
      << "port: 1\nmax_model_len: 2K  # comment\ndtype: f16\napi-key:\n  - a\n  - b\n"
      << "enable-prefix-caching: false\n";
  setenv("TANGRAM_ARG_PORT", "3", 1);
  setenv("TANGRAM_ARG_MAX_MODEL_LEN", "4", 1);
  setenv("TANGRAM_ARG_TYPO", "4", 1);
  Command c;
  const auto status = c.options.Parse({"--config", path, "--port", "5"});
  unsetenv("TANGRAM_ARG_PORT");
  unsetenv("TANGRAM_ARG_MAX_MODEL_LEN");
  unsetenv("TANGRAM_ARG_TYPO");
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(c.port, 5);
  EXPECT_EQ(c.max_model_len, 4);
  EXPECT_EQ(c.dtype, "f16");
  EXPECT_FALSE(c.caching);
  EXPECT_EQ(c.api_keys, (std::vector<std::string>{"a", "b"}));
  ASSERT_EQ(c.options.warnings().size(), 1u);
  EXPECT_EQ(c.options.warnings()[0], "TANGRAM_ARG_TYPO is not an option of this command: ignored");
}

TEST(Options, AliasesHoldForEverySource) {
  const std::string path = testing::TempDir() + "aliases.yaml";
  std::ofstream(path) << "disable_caching: true\ngpu-share: 0.1\n";
  Command file;
  ASSERT_TRUE(file.options.Parse({"--config", path}));
  EXPECT_FALSE(file.caching);
  EXPECT_EQ(file.share, 0.1);
  Command flags;
  ASSERT_TRUE(flags.options.Parse({"--disable-caching", "--gpu_share=0.2"}));
  EXPECT_FALSE(flags.caching);
  EXPECT_EQ(flags.share, 0.2);
  for (const char* variable : {"TANGRAM_ARG_GPU_SHARE", "OTHER_SHARE"}) {
    setenv(variable, "0.3", 1);
    Command environment;
    const auto status = environment.options.Parse({});
    unsetenv(variable);
    ASSERT_TRUE(status);
    EXPECT_EQ(environment.share, 0.3) << variable;
    EXPECT_TRUE(environment.options.warnings().empty());
  }
}

TEST(Options, WordsStandForValues) {
  bool dummy = false;
  Options options("tangram test", "A test.");
  options.AddWords<bool>("format", &dummy, {{"auto", false}, {"gguf", false}, {"dummy", true}},
                         "of weights");
  ASSERT_TRUE(options.Parse({"--format", "gguf"}));
  EXPECT_FALSE(dummy);
  ASSERT_TRUE(options.Parse({"--format", "dummy"}));
  EXPECT_TRUE(dummy);
  EXPECT_EQ(options.NonDefault(), "{'format': 'dummy'}");
  EXPECT_FALSE(options.Parse({"--format", "other"}));
}

TEST(Options, ReportsWhatDiffersButNoSecret) {
  Command c;
  ASSERT_TRUE(c.options.Parse({"--port", "81", "--api-key", "secret", "--dtype", "auto"}));
  EXPECT_EQ(c.options.NonDefault(), "{'port': '81', 'api-key': (set)}");
}

TEST(Options, HelpShowsGroupsAndDefaultsAndCanBeNarrowed) {
  Command c;
  ASSERT_TRUE(c.options.Parse({"--help"}));
  ASSERT_TRUE(c.options.help_wanted());
  const std::string help = c.options.Help();
  for (const char* part : {"\nModel\n", "\nServer\n", "--port, -p", "[8000]",
                           "--[no-]enable-prefix-caching", "(auto | f16)"}) {
    EXPECT_NE(help.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(help.find("trust-remote-code"), std::string::npos);
  Command narrowed;
  ASSERT_TRUE(narrowed.options.Parse({"--help=port"}));
  EXPECT_EQ(narrowed.options.Help().find("--dtype"), std::string::npos);
  EXPECT_NE(narrowed.options.Help().find("--port"), std::string::npos);
}

TEST(Numbers, Sizes) {
  for (const auto& [text, value] :
       std::vector<std::pair<const char*, int64_t>>{{"32k", 32000},
                                                    {"32K", 32768},
                                                    {"1.5G", 3ll << 29},
                                                    {"25.6k", 25600},
                                                    {"-1", -1},
                                                    {"1e3", 1000},
                                                    {"0", 0},
                                                    {"2T", 2ll << 40},
                                                    {"9223372036854775807", INT64_MAX}}) {
    const auto parsed = ParseInteger(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, value) << text;
  }
  for (const char* text :
       {"", "k", "1.5", "1x", "nan", "inf", "9e99", "1 k", "99999999999999999999"}) {
    EXPECT_FALSE(ParseInteger(text)) << text;
  }
}

TEST(ConfigFile, RefusesWhatIsNested) {
  EXPECT_FALSE(ParseConfig("a:\n  b: 1\n"));
  EXPECT_FALSE(ParseConfig("just words\n"));
  const auto entries = ParseConfig("a: [1, 'x y']\nb: \"q # q\"\n\nc:\n- z\n");
  ASSERT_TRUE(entries);
  EXPECT_EQ((*entries)[0].second, (std::vector<std::string>{"1", "x y"}));
  EXPECT_EQ((*entries)[1].second, (std::vector<std::string>{"q # q"}));
  EXPECT_EQ((*entries)[2].second, (std::vector<std::string>{"z"}));
}

}  // namespace
}  // namespace tangram
