#include "bench/offline_run.h"

#include <condition_variable>
#include <mutex>

#include "client/openai_client.h"

namespace tangram::apps::bench {
namespace {

// What the engine's thread and the caller share.
struct Shared {
  std::mutex mutex;
  std::condition_variable all_done;
  size_t num_left = 0;
  bool failed = false;
};

}  // namespace

Result<OfflineResult> RunOffline(Engine& engine, const std::vector<BenchPrompt>& prompts,
                                 const std::function<void()>& on_done) {
  Shared shared;
  OfflineResult result;
  result.token_times.resize(prompts.size());
  result.start = client::SteadySeconds();
  Status refused;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Request request;
    request.prompt = prompts[i].tokens;
    request.compression_ratio = engine.info().compression.ratio;
    request.sampling.temperature = 0;
    request.stop.max_tokens = prompts[i].output_len;
    request.stop.ignore_eos = true;
    {
      const std::lock_guard lock(shared.mutex);
      ++shared.num_left;
    }
    const auto listen = [&shared, &on_done,
                         times = &result.token_times[i]](const TokenEvent& event) {
      if (event.token >= 0) times->push_back(client::SteadySeconds());
      if (!event.finished) return;
      if (on_done) on_done();
      const std::lock_guard lock(shared.mutex);
      shared.failed |= event.reason == FinishReason::kError || event.reason == FinishReason::kAbort;
      if (--shared.num_left == 0) shared.all_done.notify_one();
    };
    if (auto id = engine.Submit(std::move(request), listen); !id) {
      const std::lock_guard lock(shared.mutex);
      --shared.num_left;
      refused = tl::unexpected(id.error());
      break;
    }
  }
  std::unique_lock lock(shared.mutex);
  shared.all_done.wait(lock, [&] { return shared.num_left == 0; });
  result.end = client::SteadySeconds();
  if (!refused) return tl::unexpected(refused.error());
  if (shared.failed) return MakeError(ErrorKind::kInternal, "the engine failed");
  return result;
}

}  // namespace tangram::apps::bench
