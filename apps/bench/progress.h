#pragma once

#include <mutex>
#include <string>

namespace tangram::apps::bench {

// Shows on stderr how far a measurement is: a line that is rewritten on a terminal, else a line
// every tenth. Thread safe.
class Progress {
 public:
  Progress(std::string what, int total);
  ~Progress();
  void Add(int count = 1);

 private:
  void Print();

  const std::string what_;
  const int total_;
  const bool terminal_;
  const double start_;
  std::mutex mutex_;
  int done_ = 0;
  int shown_tenth_ = 0;
  double shown_at_ = 0;
};

}  // namespace tangram::apps::bench
