#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"
#include "model/config.h"
#include "ops/backend.h"

namespace tangram {

// Part of a step that no boundary of any sequence divides: first the sequences in `boundaries` are
// compressed, then the tokens in `sequences` are appended and attend. A sequence that crosses
// boundaries has a span in several rounds.
struct ForwardRound {
  std::span<const ops::BoundarySpan> boundaries;
  std::span<const ops::SequenceSpan> sequences;
};

// One forward step over T tokens of S sequences.
struct ForwardInput {
  std::span<const int32_t> tokens;       // [T]
  std::span<const int32_t> positions;    // [T], true positions
  std::span<const ForwardRound> rounds;  // together they cover all T tokens
  ops::PageTableView pages;
  const KvStorage* kv = nullptr;
  LayerHook* hook = nullptr;            // null: nothing is scored or compressed
  std::span<const int32_t> logit_rows;  // tokens whose logits are wanted, indices into T
};

struct LoadOptions {
  bool dummy_weights = false;  // seeded random weights of the config's shapes
  uint64_t seed = 0;
  int max_model_len = 0;     // 0: the config's; `dynamic` rope scaling depends on it
  int max_num_tokens = 512;  // T of the largest step: sizes the activations
  int max_logit_rows = 0;    // logits of the largest step; 0: max_num_tokens
};

// A decoder-only transformer whose weights are loaded. Not thread safe: one step at a time.
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual size_t weight_bytes() const = 0;
  // Tells the weights of two models apart.
  virtual uint64_t fingerprint() const = 0;
  // Appends the step's K and V to their pages and writes the logits of `logit_rows`: f32
  // [rows, vocab_size] in host-readable memory, valid until the next call (after Synchronize).
  virtual TensorView Forward(const ForwardInput& input) = 0;
};

// Loads a Hugging Face folder or a GGUF file. Errors name the file, the field and the remedy: kLoad
// for files that cannot be read, kUnsupported for corrupt ones and what would be computed wrongly.
Result<std::unique_ptr<Model>> LoadModel(const std::string& path, const LoadOptions& options,
                                         ops::Backend& backend);

}  // namespace tangram
