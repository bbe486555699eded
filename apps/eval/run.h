#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "eval/records.h"
#include "eval/sample.h"
#include "text/tokenizer.h"

namespace tangram::apps::eval {

struct RunConfig {
  EngineConfig engine;  // model, profile, page and group size, and what all settings share
  std::vector<CompressionConfig> settings;  // beside the full cache, which is always run
  int length = 0;                           // tokens of a context, for the records
  bool later = true;
  int num_threads = 0;  // 0: one a core
  int num_workers = 0;  // models at once; 0: one a thread, as far as memory allows
};

// Runs every sample with the full cache and at every setting, several at once, and tells each
// record once (from any thread, one at a time). The records are the same whatever the threads.
Status RunEvaluation(const RunConfig& config, std::span<const EvalSample> samples,
                     const Tokenizer& tokenizer,
                     const std::function<void(const EvalRecord&)>& tell);

// The share of `expected` that stands in the answer.
double ScoreAnswer(const std::string& answer, std::span<const std::string> expected);

// The share of equal tokens, place by place; what one has longer differs. 1 of none.
double AgreementOf(const EvalOutcome& outcome, const EvalOutcome& full);

}  // namespace tangram::apps::eval
