#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "paging/radix_node.h"

namespace tangram {

// The chunks of C tokens that were processed, as a tree for each salt, some with states at the
// boundary at their end. Those without are remembered within bounds, the least recently used
// forgotten first: a common beginning can then be noticed when it comes again.
class TokenHistory {
 public:
  TokenHistory(int chunk, int64_t max_chunks) : chunk_(chunk), max_chunks_(max_chunks) {}

  // The last known chunk of these tokens; null if there is not even the salt.
  HistoryNode* Find(std::string_view salt, std::span<const int32_t> tokens);
  // Remembers all whole chunks of `tokens` and returns the last.
  HistoryNode* Add(std::string_view salt, std::span<const int32_t> tokens);
  RadixNode& AddState(HistoryNode& chunk, int retention);
  void RemoveState(HistoryNode& chunk, int retention);

  int64_t num_chunks() const { return num_chunks_; }
  const std::map<std::string, std::unique_ptr<HistoryNode>, std::less<>>& roots() const {
    return roots_;
  }
  // Aborts unless exactly those without states and children are in line to be forgotten.
  void CheckInvariants() const;

 private:
  struct Older {
    bool operator()(const HistoryNode* a, const HistoryNode* b) const {
      return a->last_used < b->last_used;
    }
  };
  HistoryNode* AddChild(HistoryNode& parent, std::span<const int32_t> tokens);
  void Touch(HistoryNode* chunk);
  void Forget(HistoryNode* chunk);

  int chunk_;
  int64_t max_chunks_, num_chunks_ = 0;
  std::map<std::string, std::unique_ptr<HistoryNode>, std::less<>> roots_;  // by salt
  std::set<HistoryNode*, Older> idle_;
  uint64_t clock_ = 0;
};

}  // namespace tangram
