#pragma once

#include <span>
#include <string>

#include "base/result.h"
#include "eval/sample.h"
#include "text/tokenizer.h"

namespace tangram::apps::eval {

// Writes the tests as one JSON object, for other programs to run on the very same tokens:
// {"length", "later", "end_tokens", "vocabulary": [text of each id], "samples": [{"task",
// "context", "steps":
// [{"kind": "read" | "score" | "peek" | "ask", "tokens", "max_tokens"}], "expected"}]}.
// kInvalidArgument if the file cannot be written.
Status ExportSamples(std::span<const EvalSample> samples, int length, bool later,
                     const Tokenizer& tokenizer, const std::string& path);

}  // namespace tangram::apps::eval
