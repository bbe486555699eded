#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "compression/find_profile.h"
#include "compression/reconstruction_pass.h"
#include "model/model.h"
#include "support/engine_session.h"
#include "support/queued_backend.h"

// An engine whose backend queues: two steps are in flight.
namespace tangram {

struct QueuedEngine {
  std::unique_ptr<Engine> engine;
  QueuedBackend* backend = nullptr;  // the engine's
};

// `config` says how long requests may be.
inline QueuedEngine StartQueued(const EngineConfig& config) {
  auto backend = std::make_unique<QueuedBackend>(ops::CreateCpuBackend(config.num_threads));
  QueuedEngine made{.backend = backend.get()};
  LoadOptions load;
  load.max_model_len = config.max_model_len;
  load.max_num_tokens = std::max(config.max_num_batched_tokens,
                                 config.compression.chunk + ReconstructionPass::kMaxPrompt);
  auto model = LoadModel(config.model_path, load, *backend);
  EXPECT_TRUE(model) << model.error().message;
  std::optional<FoundProfile> profile;
  if (config.compression.enabled()) {
    auto found = FindProfile(config, **model);
    EXPECT_TRUE(found) << found.error().message;
    profile = std::move(*found);
  }
  LoadedModel loaded{std::move(backend), std::move(*model), config.max_model_len};
  auto engine = Engine::Create(config, std::move(loaded), profile ? &*profile : nullptr);
  EXPECT_TRUE(engine) << engine.error().message;
  made.engine = std::move(*engine);
  made.backend->Drain();  // of what its start wrote
  return made;
}

}  // namespace tangram
