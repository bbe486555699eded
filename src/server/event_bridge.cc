#include "server/event_bridge.h"

namespace tangram::server {

EventBridge::EventBridge(std::function<void(std::function<void()>)> post,
                         std::function<void(const Item&)> handle)
    : post_(std::move(post)), handle_(std::move(handle)) {}

void EventBridge::Push(Item item) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  items_.push_back(std::move(item));
  if (posted_) return;
  posted_ = true;
  post_([this] { Drain(); });
}

void EventBridge::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  items_.clear();
}

void EventBridge::Drain() {
  {
    std::lock_guard lock(mutex_);
    draining_.swap(items_);
    posted_ = false;
  }
  for (const Item& item : draining_) handle_(item);
  draining_.clear();
}

}  // namespace tangram::server
