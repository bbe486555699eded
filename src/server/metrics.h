#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "engine/engine.h"
#include "server/http_server.h"

namespace prometheus {
class Counter;
class Histogram;
class Registry;
template <class T>
class Family;
}  // namespace prometheus

namespace tangram::server {

// What is known of one engine request when it ends. Times in seconds.
struct RequestRecord {
  FinishReason reason = FinishReason::kStop;
  int prompt_tokens = 0, generation_tokens = 0, max_tokens = 0;
  double e2e = 0;        // received to last token
  double queue = 0;      // submitted to first scheduled
  double prefill = 0;    // first scheduled to first token
  double decode = 0;     // first token to last
  double retention = 0;  // resident over logical tokens at the end; 0: it never ran
};

// What is known of one engine request at its first token.
struct FirstToken {
  double seconds = 0;  // since it was received
  int cached_tokens = 0;
  bool chat = false;
  bool later_turn = false;  // of a chat: it has an answer already
};

// Prometheus metrics, under the names, labels and buckets of vLLM, so that its dashboards and
// routers work; Tangram's own begin with "tangram:". Used on the server's thread.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Once, when the model is loaded: before that only http_* and process_* exist.
  void SetModel(const std::string& model_name, const EngineInfo& info);

  void OnHttp(std::string_view handler, const HttpAccess& access);
  void OnFirstToken(const FirstToken& token);
  void OnNextToken(double seconds);  // since the one before
  void OnFinished(const RequestRecord& record);
  void OnRejected(std::string_view reason);  // queue_full, shutting_down, loading, invalid
  uint64_t rejected() const { return rejected_; }

  // The text exposition format. `stats` is null before the model is loaded.
  std::string Render(const EngineStats* stats) const;

 private:
  struct Histograms;

  std::string model_name_;
  EngineInfo info_;
  uint64_t rejected_ = 0;
  std::unique_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>* http_requests_;
  prometheus::Family<prometheus::Histogram>* http_seconds_;
  prometheus::Family<prometheus::Counter>* rejections_;
  prometheus::Family<prometheus::Counter>* success_ = nullptr;
  prometheus::Family<prometheus::Counter>* lookups_ = nullptr;
  prometheus::Counter* reused_tokens_ = nullptr;
  std::unique_ptr<Histograms> histograms_;
};

}  // namespace tangram::server
