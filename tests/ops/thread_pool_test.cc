#include "ops/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <numeric>
#include <thread>
#include <vector>

namespace tangram::ops {
namespace {

TEST(ThreadPoolTest, EveryTaskRunsOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.num_threads(), threads);
    // Not atomic: a task that ran twice, or a loop that returned early, is a race for
    // ThreadSanitizer.
    std::vector<int> runs(100);
    for (int loop = 0; loop < 2000; ++loop) {
      const int count = loop % 100;
      std::fill(runs.begin(), runs.end(), 0);
      pool.Run(count, [&](int task, int worker) {
        ASSERT_LT(worker, threads);
        ++runs[task];
      });
      ASSERT_EQ(std::count(runs.begin(), runs.begin() + count, 1), count);
      ASSERT_EQ(std::accumulate(runs.begin(), runs.end(), 0), count);
    }
  }
}

TEST(ThreadPoolTest, SleepingThreadsWakeForWork) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 30; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // longer than threads spin
    // Each worker waits for the others, so all three must come.
    std::atomic<int> arrived = 0;
    pool.Run(3, [&](int, int) {
      ++arrived;
      while (arrived.load() < 3) std::this_thread::yield();
    });
    ASSERT_EQ(arrived.load(), 3);
  }
}

// Nothing burns a core while there is no work.
TEST(ThreadPoolTest, IdleThreadsSleep) {
  ThreadPool pool(4);
  pool.Run(4, [](int, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto cpu_seconds = [] { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(cpu_seconds() - before, 0.02);
}

}  // namespace
}  // namespace tangram::ops
