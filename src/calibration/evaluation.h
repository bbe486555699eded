#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "calibration/single_sequence.h"
#include "compression/options.h"
#include "compression/plan.h"
#include "model/model.h"

namespace tangram {

// One thing to do with the sequence of a test.
struct EvalStep {
  enum class Kind {
    kRead,   // append the tokens
    kScore,  // append them, and take the loss of each
    kPeek,   // take the loss of each and forget them again: at a boundary, at most a chunk
    kAsk,    // append them, then generate greedily
  };
  Kind kind = Kind::kRead;
  std::vector<TokenId> tokens;
  int max_tokens = 0;  // kAsk: of the answer, which an end token ends as well
};

// The longest that the sequence gets.
int EvalLength(std::span<const EvalStep> steps);

// What a model made of a test's steps.
struct EvalOutcome {
  std::vector<float> losses;                  // -log p of each scored token
  std::vector<TokenId> predicted;             // the likeliest token where each scored one stood
  std::vector<std::vector<TokenId>> answers;  // one for each kAsk, without the end token
};

// Resident tokens of a sequence of n tokens as a share of n: where n has just been compressed, and
// the mean over the chunk before it.
struct EvalMemory {
  double at_boundary = 1, mean = 1;
};

// One model that reads test sequences, one at a time, with its KV cache compressed or whole. The
// lengths and the kept tokens are those of the server: they depend on the tokens alone.
class Evaluator {
 public:
  // On a device (ops::BackendOptions), for chunks of `chunk` tokens. Errors as Engine::Create.
  static Result<std::unique_ptr<Evaluator>> Create(const std::string& model_path,
                                                   const std::string& device, int num_threads,
                                                   int chunk);

  // The setting of the runs that follow: compression, profile, page and group size of `config`,
  // for sequences of up to `max_tokens`. kInvalidArgument, naming the flag, if it cannot be.
  Status Use(const CompressionOptions& config, int max_tokens);
  // kInvalidArgument if the steps are longer than the setting's max_tokens.
  Result<EvalOutcome> Run(std::span<const EvalStep> steps);
  EvalMemory Memory(int num_tokens) const;

  const ModelConfig& config() const { return model_->config(); }
  size_t weight_bytes() const { return model_->weight_bytes(); }

 private:
  class Reader;
  Evaluator() = default;

  std::unique_ptr<ops::Backend> backend_;
  std::unique_ptr<Model> model_;
  CompressionOptions setting_;
  int max_tokens_ = 0;
  std::optional<CompressionPlan> plan_;
  const RetentionTable* table_ = nullptr;  // of the setting's ratio, in plan_
};

}  // namespace tangram
