#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/chat_format.h"
#include "eval/passages.h"
#include "eval/sample.h"
#include "text/tokenizer.h"

namespace tangram::apps::eval {

// The bundled tasks: `document` and those of MakePuzzle.
const std::vector<std::string>& BundledTasks();

struct TaskConfig {
  std::vector<std::string> tasks = {"needle", "dialogue"};
  int samples = 12;        // contexts of each task
  int skip = 0;            // the first of them, passed over: another run has them
  int length = 2048;       // tokens of a context, a multiple of the chunk
  int continuation = 256;  // tokens after it whose loss is taken, at most a chunk; 0: none
  // Whether questions come in turns after the context, which no scorer has seen; else one question
  // is the context's end, and no loss is taken.
  bool later = true;
  uint64_t seed = 0;
};

// Contexts of exactly `length` tokens with planted facts, the loss of what comes next in the text,
// and questions, one after the other on the kept cache. Context i of a task is the same whatever
// the number of samples. kInvalidArgument for unknown tasks, or a length that the bundled text or
// the facts do not fit.
Result<std::vector<EvalSample>> MakeSamples(const TaskConfig& config, const Passages& passages,
                                            const ChatFormat& format, const Tokenizer& tokenizer);

}  // namespace tangram::apps::eval
