#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "engine/token_event.h"

namespace tangram::server {

// Carries tokens from the engine's thread to the server's. The first token after a pause wakes the
// server; those that come before it gets to them share that wake-up, so that a step of many
// sequences costs one.
class EventBridge {
 public:
  struct Item {
    uint64_t generation;
    int choice;
    TokenEvent event;
  };

  // `post` runs its argument on the server's thread; `handle` gets each item there, in order.
  EventBridge(std::function<void(std::function<void()>)> post,
              std::function<void(const Item&)> handle);

  // From the engine's thread: a lock and an append.
  void Push(Item item);
  // Later items are dropped, and nothing is posted any more.
  void Close();

 private:
  void Drain();

  const std::function<void(std::function<void()>)> post_;
  const std::function<void(const Item&)> handle_;
  std::mutex mutex_;
  std::vector<Item> items_;
  bool posted_ = false;
  bool closed_ = false;
  std::vector<Item> draining_;  // of the server's thread; kept for its memory
};

}  // namespace tangram::server
