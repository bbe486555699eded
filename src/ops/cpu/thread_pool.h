#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace tangram::ops {

// Runs the tasks of one loop on the caller and on its own threads. A step makes hundreds of loops
// of a few microseconds each, so threads spin for a moment before they sleep; a pool without work
// sleeps.
class ThreadPool {
 public:
  // The caller is one of the `num_threads`.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(task, worker) once for each task in [0, count), in any order, worker in
  // [0, num_threads()), and returns when all are done. One caller at a time.
  template <class Body>
  void Run(int count, const Body& body) {
    const auto call = [](const void* context, int task, int worker) {
      (*static_cast<const Body*>(context))(task, worker);
    };
    if (count <= 1 || threads_.empty()) {
      for (int task = 0; task < count; ++task) body(task, 0);
    } else {
      RunOnThreads(count, call, &body);
    }
  }

 private:
  using Call = void (*)(const void* context, int task, int worker);

  void RunOnThreads(int count, Call call, const void* context);
  void ThreadMain(int worker);
  // Takes tasks until none is left.
  void Work(int worker);

  // Tasks not yet taken, below the number of the loop: whoever takes one knows that its loop is not
  // over, so that `call_` and `context_` are that loop's. A thread that wakes late finds none and
  // touches nothing.
  alignas(64) std::atomic<uint64_t> tickets_{0};
  Call call_ = nullptr;
  const void* context_ = nullptr;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<int> unfinished_{0};
  std::atomic<uint32_t> wake_{0};
  std::atomic<int> sleepers_{0};
};

}  // namespace tangram::ops
