#pragma once

#include <chrono>
#include <utility>

#include "kvcache/layer_hook.h"

namespace tangram {

// Another hook, and how long it takes: on a backend that computes before it returns, the time of
// scoring and compressing.
class TimedHook final : public LayerHook {
 public:
  explicit TimedHook(LayerHook& hook) : hook_(&hook) {}

  void BeforeStep(const ops::Step& step) override {
    Timed([&] { hook_->BeforeStep(step); });
  }
  void OnInput(int layer, const TensorView& input) override {
    Timed([&] { hook_->OnInput(layer, input); });
  }
  void BeforeAppend(ops::AppendParams& next) override {
    Timed([&] { hook_->BeforeAppend(next); });
  }
  void AfterAppend(const ops::AppendParams& appended) override {
    Timed([&] { hook_->AfterAppend(appended); });
  }

  // Runs `work` on the clock, too.
  template <class Work>
  void Timed(const Work& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  // Since the last call.
  double TakeSeconds() { return std::exchange(seconds_, 0); }

 private:
  LayerHook* hook_;
  double seconds_ = 0;
};

}  // namespace tangram
