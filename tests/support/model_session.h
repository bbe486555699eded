#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/kv_storage.h"
#include "kvcache/step_builder.h"
#include "model/model.h"

namespace tangram {

// One sequence through a model, without an engine: natural head groups, and pages whose ids are
// scattered at random over the pool, so that a wrong table shows as wrong logits.
class ModelSession {
 public:
  ModelSession(Model& model, ops::Backend& backend, DType kv_dtype, int max_tokens,
               int page_size = 16, int group_size = 1, uint64_t seed = 1);

  // Runs the next tokens as one step. Logits [rows, V] of the tokens `rows` of this step, copied.
  std::vector<float> Step(std::span<const int32_t> tokens, std::span<const int32_t> rows);
  // Runs the tokens in steps of at most `chunk` and gives the last one's logits.
  std::vector<float> Prefill(std::span<const int32_t> tokens, int chunk);
  int num_tokens() const { return num_tokens_; }

 private:
  Model& model_;
  ops::Backend& backend_;
  KvStorage kv_;
  StepBuilder builder_;
  std::vector<ops::PageWrite> page_writes_;  // for the first step
  int num_tokens_ = 0;
};

int32_t ArgMax(std::span<const float> logits);

}  // namespace tangram
