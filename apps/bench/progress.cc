#include "bench/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "client/openai_client.h"

namespace tangram::apps::bench {

Progress::Progress(std::string what, int total)
    : what_(std::move(what)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(client::SteadySeconds()) {}

Progress::~Progress() {
  if (terminal_ && done_ > 0) fmt::print(stderr, "\n");
}

void Progress::Add(int count) {
  const std::lock_guard lock(mutex_);
  done_ += count;
  const double now = client::SteadySeconds();
  const int tenth = total_ > 0 ? 10 * done_ / total_ : 10;
  if (terminal_ ? now - shown_at_ < 0.1 && done_ < total_ : tenth == shown_tenth_) return;
  shown_at_ = now;
  shown_tenth_ = tenth;
  Print();
}

void Progress::Print() {
  const double elapsed = client::SteadySeconds() - start_;
  const double left = elapsed / done_ * (total_ - done_);
  fmt::print(stderr, "{}{}: {}/{}, {:.1f} s, {:.1f} s to go{}", terminal_ ? "\r" : "", what_, done_,
             total_, elapsed, left, terminal_ ? "   " : "\n");
  std::fflush(stderr);
}

}  // namespace tangram::apps::bench
