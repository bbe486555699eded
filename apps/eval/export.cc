#include "eval/export.h"

#include <fstream>
#include <nlohmann/json.hpp>

namespace tangram::apps::eval {
namespace {

using nlohmann::json;

const char* KindName(EvalStep::Kind kind) {
  switch (kind) {
    case EvalStep::Kind::kRead:
      return "read";
    case EvalStep::Kind::kScore:
      return "score";
    case EvalStep::Kind::kPeek:
      return "peek";
    case EvalStep::Kind::kAsk:
      return "ask";
  }
  return "";
}

}  // namespace

Status ExportSamples(std::span<const EvalSample> samples, int length, bool later,
                     const Tokenizer& tokenizer, const std::string& path) {
  json out = {{"length", length},
              {"later", later},
              {"end_tokens", tokenizer.eos_ids()},
              {"samples", json::array()}};
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    out["vocabulary"].push_back(tokenizer.Decode({&id, 1}, true));
  }
  for (const EvalSample& sample : samples) {
    json steps = json::array();
    for (const EvalStep& step : sample.steps) {
      steps.push_back({{"kind", KindName(step.kind)},
                       {"tokens", step.tokens},
                       {"max_tokens", step.max_tokens}});
    }
    out["samples"].push_back({{"task", sample.task},
                              {"context", sample.context},
                              {"steps", std::move(steps)},
                              {"expected", sample.expected}});
  }
  if (!(std::ofstream(path) << out.dump(-1, ' ', false, json::error_handler_t::replace) << "\n")) {
    return MakeError(ErrorKind::kInvalidArgument, "--export: cannot write " + path, "export");
  }
  return {};
}

}  // namespace tangram::apps::eval
