#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "compression/find_profile.h"
#include "compression/options.h"
#include "engine/engine_stats.h"
#include "engine/token_event.h"
#include "model/model.h"
#include "sched/request.h"

namespace tangram {

// Every field is one option of the command line (apps/serve_options).
struct EngineConfig : CompressionOptions {
  bool dummy_weights = false;
  uint64_t seed = 0;
  std::string kv_cache_dtype = "auto";  // auto (the backend's), f16, bf16, f32
  int max_model_len = 0;                // 0: the model's
  int max_num_seqs = 0;                 // 0: the device's own
  int max_num_batched_tokens = 0;       // likewise
  int64_t kv_cache_memory_bytes = 0;    // 0: memory_utilization of what is free
  double memory_utilization = 0;        // 0: the backend's own
  int64_t num_pages_override = 0;       // in blocks of other servers: G pages each; 0: none
  bool enable_prefix_caching = true;
  bool priority_policy = false;
  std::string device = "auto";   // auto, cpu, cuda; reference: the naive ops, for comparisons
  int num_threads = 0;           // 0: the cores this process may use
  bool batch_invariant = false;  // on a GPU: a request's bits do not depend on what runs beside it
  bool enforce_eager = false;    // on a GPU: no decode step is recorded as a graph
  std::vector<int> graph_sizes;  // on a GPU: sequences of recorded steps; empty: chosen
  int max_queued_requests = 1024;  // waiting, beyond those running
  // Sampling defaults: "auto" (the model's generation_config.json), "vllm" (none), or such a file
  // or its folder; then the fields of a JSON object.
  std::string generation_config = "auto", override_generation_config;
};

// What the engine serves, after loading.
struct EngineInfo {
  int vocab_size = 0;
  int max_model_len = 0;
  std::vector<TokenId> eos_token_ids;
  int num_layers = 0, num_kv_heads = 0, head_dim = 0;
  int page_size = 0, page_group_size = 0, num_groups = 0;
  int64_t num_pages = 0;
  int64_t capacity_tokens = 0;  // num_pages * page_size / num_groups
  std::string kv_cache_dtype;
  CompressionConfig compression;  // as resolved
  std::string scorer, level;      // their names
  std::string profile;            // its path and origin; empty without compression
  double least_ratio = 1;         // that a request may ask for
  int64_t peak_pages_full = 0,
          peak_pages = 0;  // of one request of max_model_len, at ratio 1 and at the default's
  // generation_config.json's sampling defaults, in SamplingParams' terms.
  SamplingParams default_sampling;
  int default_max_tokens = 0;  // 0: none
  bool priority_policy = false;
};

// A model in the memory of the backend that will run it, and the longest context that it serves.
struct LoadedModel {
  std::unique_ptr<ops::Backend> backend;
  std::unique_ptr<Model> model;
  int max_model_len = 0;
};

// The first step of a start. Sets the options that are the device's to choose. Errors end the
// start: kUnsupported, kLoad, kOutOfMemory, kInvalidArgument.
Result<LoadedModel> LoadForServing(EngineConfig& config);

// Runs one model for many requests. All methods are thread safe.
class Engine {
 public:
  // Reserves the KV cache and starts the loop's thread. `config` is as LoadForServing left it,
  // `profile` null if nothing is compressed.
  static Result<std::unique_ptr<Engine>> Create(const EngineConfig& config, LoadedModel model,
                                                const FoundProfile* profile);
  // The same with a model that is loaded here, and a profile that is found.
  static Result<std::unique_ptr<Engine>> Create(EngineConfig config);
  virtual ~Engine() = default;

  virtual const EngineInfo& info() const = 0;
  // Queues a request (its id is set by the engine and returned). kInvalidArgument if it can never
  // run, with "maximum context length is" when it is too long; kUnavailable when the queue is full
  // or the engine is stopping.
  virtual Result<RequestId> Submit(Request request, TokenListener listener) = 0;
  // Ends a request at the next step boundary; its listener gets kAbort unless it finished before.
  // Unknown ids are ignored.
  virtual void Abort(RequestId id) = 0;
  virtual EngineStats Stats() const = 0;
  virtual void ClearPrefixCache() = 0;
  // True once the loop has died of an internal fault; every request then got kError.
  virtual bool dead() const = 0;
};

}  // namespace tangram
