#include "ops/cpu/thread_pool.h"

#include <chrono>

namespace tangram::ops {
namespace {

constexpr uint64_t kTaskMask = 0xFFFFFFFFu;
constexpr auto kSpin = std::chrono::microseconds(50);

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `ready` became true before the time to spin was over.
template <class Ready>
bool SpinUntil(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { ThreadMain(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  wake_.fetch_add(1);
  wake_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::RunOnThreads(int count, Call call, const void* context) {
  call_ = call;
  context_ = context;
  unfinished_.store(count, std::memory_order_relaxed);
  const uint64_t loop = (tickets_.load(std::memory_order_relaxed) >> 32) + 1;
  tickets_.store(loop << 32 | static_cast<uint64_t>(count));
  if (sleepers_.load() > 0) {
    wake_.fetch_add(1);
    wake_.notify_all();
  }
  Work(0);
  // A thread that took a task may have lost its core to another process: let it have this one.
  const auto done = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
  while (!SpinUntil(done)) std::this_thread::yield();
}

void ThreadPool::Work(int worker) {
  uint64_t tickets = tickets_.load();
  while ((tickets & kTaskMask) != 0) {
    if (!tickets_.compare_exchange_weak(tickets, tickets - 1)) continue;
    // The last tasks first would be as good: tasks are independent.
    call_(context_, static_cast<int>((tickets & kTaskMask) - 1), worker);
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
    tickets = tickets_.load();
  }
}

void ThreadPool::ThreadMain(int worker) {
  const auto has_work = [this] { return (tickets_.load() & kTaskMask) != 0 || stop_.load(); };
  while (!stop_.load()) {
    if (!SpinUntil(has_work)) {
      const uint32_t wake = wake_.load();
      sleepers_.fetch_add(1);
      if (!has_work()) wake_.wait(wake);
      sleepers_.fetch_sub(1);
      continue;
    }
    Work(worker);
  }
}

}  // namespace tangram::ops
