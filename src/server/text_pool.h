#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tangram::server {

// Threads for the work on texts that would hold up the server's thread: parsing, templates,
// tokenizing. First come, first served.
class TextPool {
 public:
  explicit TextPool(int num_threads);
  ~TextPool();  // as Stop

  void Run(std::function<void()> task);
  // Drops what has not begun, waits for the rest.
  void Stop();

 private:
  void Work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tangram::server
