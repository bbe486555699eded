// tangram eval: what compression costs this model, against its own full cache.

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <memory>

#include "base/log.h"
#include "base/numbers.h"
#include "bench/progress.h"
#include "command.h"
#include "compression/profile.h"
#include "compression_options.h"
#include "eval/bundled_text.h"
#include "eval/conversations_file.h"
#include "eval/export.h"
#include "eval/report.h"
#include "eval/run.h"
#include "eval/tasks.h"
#include "exit_codes.h"
#include "shipped_profiles.h"
#include "text_model.h"

namespace tangram::apps::eval {
namespace {

using Strings = std::vector<std::string>;

struct EvalConfig {
  RunConfig run;
  TextConfig text;
  TaskConfig task;
  Strings ratios = {"0.5", "0.3", "0.2"}, scorers, levels, merge;
  std::string data, json, plot, export_path;
};

tl::unexpected<Error> Invalid(std::string message, std::string param) {
  return MakeError(ErrorKind::kInvalidArgument, std::move(message), std::move(param));
}

template <class T>
std::string Names(std::span<const T> all, std::string_view (*name)(T)) {
  Strings names;
  for (const T value : all) names.emplace_back(name(value));
  return fmt::format("{}", fmt::join(names, ", "));
}
std::string ScorerNames() { return Names(AllScorers(), ScorerName); }
std::string LevelNames() { return Names(AllLevels(), LevelName); }

void DeclareTests(Options& options, EvalConfig& config) {
  TaskConfig& t = config.task;
  options.Group("Tests");
  options
      .Add("tasks", &t.tasks,
           "tasks to run, of " + fmt::format("{}", fmt::join(BundledTasks(), ", ")))
      .Commas();
  options.Add("samples", &t.samples, "contexts of each task");
  options.Add("skip", &t.skip,
              "contexts to leave out at the beginning, if another run has them (--json, --merge)");
  options.Add("length", &t.length, "tokens of a context, a multiple of the chunk");
  options.Add("continuation", &t.continuation,
              "tokens after the context whose loss is measured, at most a chunk; 0: none");
  options.AddWords<bool>("questions", &t.later, {{"later", true}, {"prompt", false}},
                         "later: in turns after the context; prompt: one at its end");
  options.Add("seed", &t.seed, "random seed for facts and passages");
  options.Add("data", &config.data,
              "a file of conversations, {\"messages\": [...]} per line, used instead of the tasks");
}

void DeclareSettings(Options& options, EvalConfig& config) {
  EngineConfig& e = config.run.engine;
  options.Group("Settings");
  options.Add("ratios", &config.ratios, "shares of the KV cache that are kept").Commas();
  options
      .Add(
          "scorers", &config.scorers,
          "methods that decide which tokens are kept, of " + ScorerNames() + "; empty: the default")
      .Commas();
  options.Add("levels", &config.levels, LevelNames() + "; empty: what suits the scorer").Commas();
  e.shipped_profiles = ShippedProfiles();
  options.Add("compression-profile", &e.compression_profile,
              "profile made by `tangram calibrate`; empty: MODEL.profile.safetensors, one that "
              "came with Tangram, or one in the user's cache");
  DeclareCompressionSizes(options, e.compression);
  options.Add("block-size", &e.page_size, "tokens per page").Alias("--page-size");
  options.Add("page-group-size", &e.page_group_size,
              "KV heads that share a page table; 0: 4, or the largest smaller number that divides "
              "all heads");
}

void Declare(Options& options, EvalConfig& config) {
  options.Group("Model");
  options
      .Add("model", &config.run.engine.model_path, "a GGUF file, or a folder in Hugging Face form")
      .Positional()
      .Alias("-m");
  options.Add("tokenizer", &config.text.tokenizer,
              "file or folder of the tokenizer, if not the model's");
  options.Add("chat-template", &config.text.chat_template,
              "a Jinja file or text, if not the model's");
  options.Add("device", &config.run.device, "cpu, cuda, or auto").OneOf({"auto", "cpu", "cuda"});
  options.Add("num-threads", &config.run.num_threads, "of the CPU; 0: one a core").Alias("-t");
  options.Add("workers", &config.run.num_workers,
              "models that are loaded at once, each with its share of the threads; 0: as many as "
              "fit in memory");
  DeclareTests(options, config);
  DeclareSettings(options, config);
  options.Group("Output");
  options.Add("json", &config.json,
              "file for the results: one JSON object per line for every context of every setting");
  options.Add("plot", &config.plot, "file for a picture (SVG) of score and loss against memory");
  options.Add("export", &config.export_path,
              "write the tests as token ids to this JSON file, and run nothing");
  options.Add("merge", &config.merge, "files of --json to report on instead of running").Commas();
}

// All combinations, by ratio, then scorer, then level.
Result<std::vector<CompressionConfig>> Settings(const EvalConfig& config) {
  const CompressionConfig& defaults = config.run.engine.compression;
  Strings scorers = config.scorers, levels = config.levels;
  if (scorers.empty()) scorers.emplace_back(ScorerName(defaults.scorer));
  std::vector<CompressionConfig> settings;
  for (const std::string& ratio : config.ratios) {
    const auto value = ParseNumber(ratio);
    if (!value || *value <= 0 || *value > 1) {
      return Invalid(fmt::format("--ratios {}: a ratio is a number in (0, 1]", ratio), "ratios");
    }
    if (*value == 1) continue;  // the full cache is run anyway
    for (const std::string& name : scorers) {
      CompressionConfig setting = defaults;
      setting.ratio = static_cast<float>(*value);
      const auto scorer = ParseScorer(name);
      if (!scorer) {
        return Invalid(fmt::format("--scorers: '{}' is not one of {}", name, ScorerNames()),
                       "scorers");
      }
      setting.scorer = *scorer;
      setting.level = DefaultLevel(*scorer);
      if (levels.empty()) settings.push_back(setting);
      for (const std::string& word : levels) {
        const auto level = ParseLevel(word);
        if (!level) {
          return Invalid(fmt::format("--levels: '{}' is not one of {}", word, LevelNames()),
                         "levels");
        }
        setting.level = *level;
        settings.push_back(setting);
      }
    }
  }
  return settings;
}

Status CheckTests(const EvalConfig& config) {
  const TaskConfig& t = config.task;
  const int chunk = config.run.engine.compression.chunk;
  if (t.samples < 1) return Invalid("--samples must be at least 1", "samples");
  if (t.skip < 0 || t.skip >= t.samples) {
    return Invalid("--skip must be from 0 to less than --samples", "skip");
  }
  if (chunk < 1 || t.length < chunk || t.length % chunk != 0) {
    return Invalid(
        fmt::format("--length {} must be a multiple of the chunk, {} tokens", t.length, chunk),
        "length");
  }
  if (t.continuation < 0 || t.continuation > chunk) {
    return Invalid(fmt::format("--continuation {} must be from 0 to {}, the size of a chunk",
                               t.continuation, chunk),
                   "continuation");
  }
  return {};
}

Result<std::vector<EvalSample>> MakeTests(EvalConfig& config, const TextModel& text) {
  if (!config.data.empty()) {
    constexpr int kLongest = 8192;
    config.run.length = 0;
    return ReadConversations(config.data, text, config.task.samples, kLongest);
  }
  TANGRAM_RETURN_IF_ERROR(CheckTests(config));
  config.run.length = config.task.length;
  config.run.later = config.task.later;
  TANGRAM_ASSIGN_OR_RETURN(const ChatFormat format, ReadChatFormat(text.chat_template.get()));
  TANGRAM_ASSIGN_OR_RETURN(const Passages passages,
                           Passages::Create(BundledNovel(), BundledDialogues(), *text.tokenizer));
  return MakeSamples(config.task, passages, format, *text.tokenizer);
}

Result<std::vector<EvalRecord>> RunTests(EvalConfig& config) {
  TANGRAM_ASSIGN_OR_RETURN(config.run.settings, Settings(config));
  TANGRAM_ASSIGN_OR_RETURN(const TextModel text,
                           LoadTextModel(config.run.engine.model_path, config.text));
  TANGRAM_ASSIGN_OR_RETURN(const auto samples, MakeTests(config, text));
  std::vector<EvalRecord> records;
  if (!config.export_path.empty()) {
    TANGRAM_RETURN_IF_ERROR(ExportSamples(samples, config.run.length, config.run.later,
                                          *text.tokenizer, config.export_path));
    return records;
  }
  std::ofstream file(config.json);
  if (!config.json.empty() && !file) {
    return Invalid(fmt::format("--json: cannot write {}", config.json), "json");
  }
  const size_t runs = samples.size() * (config.run.settings.size() + 1);
  bench::Progress progress("Contexts", static_cast<int>(runs));
  TANGRAM_RETURN_IF_ERROR(
      RunEvaluation(config.run, samples, *text.tokenizer, [&](const EvalRecord& record) {
        if (!config.json.empty()) file << ToJson(record) << std::endl;
        records.push_back(record);
        progress.Add();
      }));
  return records;
}

Status Evaluate(EvalConfig& config) {
  SetLogLevel(LogLevel::kError);  // every worker would say the same at every setting
  std::vector<EvalRecord> records;
  for (const std::string& path : config.merge) {
    TANGRAM_ASSIGN_OR_RETURN(const auto more, ReadRecords(path));
    records.insert(records.end(), more.begin(), more.end());
  }
  if (config.merge.empty()) {
    TANGRAM_ASSIGN_OR_RETURN(records, RunTests(config));
  }
  const std::vector<EvalRow> rows = Summarise(records);
  fmt::print("{}", FormatTables(rows));
  if (!config.plot.empty() && !(std::ofstream(config.plot) << DrawPlot(rows))) {
    return Invalid(fmt::format("--plot: cannot write {}", config.plot), "plot");
  }
  return {};
}

// What one source of tests, or of records, makes of the flags of others.
Status WarnOfOtherTests(Options& options, const EvalConfig& config) {
  if (!config.data.empty()) {
    options.WarnOfNoEffect({"tasks", "skip", "length", "continuation", "questions", "seed"},
                           "the tests come from --data");
  }
  if (!config.merge.empty()) {
    options.WarnOfNoEffect({"model", "tasks", "samples", "data", "ratios", "scorers", "levels",
                            "compression-profile", "json", "export"},
                           "--merge only reports on earlier runs");
  }
  return {};
}

}  // namespace

int RunEval(Args args) {
  EvalConfig config;
  Options options("tangram eval MODEL [flags]",
                  "Measures what compressing the KV cache costs a model, against its full cache.");
  Declare(options, config);
  options.Check([&] { return WarnOfOtherTests(options, config); });
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (config.run.engine.model_path.empty() && config.merge.empty()) {
    return Fail({ErrorKind::kInvalidArgument, "name a model: tangram eval MODEL", "model"});
  }
  if (auto status = Evaluate(config); !status) return Fail(status.error());
  return kExitOk;
}

}  // namespace tangram::apps::eval
