#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "sched/request.h"

namespace tangram {

// A request on its way: its tokens, and how far it has come.
struct Sequence {
  Request request;
  std::vector<TokenId> tokens;     // prompt, then generated: those that are known
  std::pair<int, uint64_t> order;  // priority, arrival: who goes first
  int retention = 0;               // index of its table
  int slot = -1;                   // while running
  int num_computed = 0;            // tokens whose KV is in the slot's pages
  int boundary = 0;                // the groups are compressed up to here
  int snapshot = 0;                // boundary whose state is to be left for others; 0: none
  int num_scheduled = 0;           // tokens of the step that is being scheduled
  // Tokens behind the known ones, which steps in flight draw. After Advance one of two may be
  // processed already.
  int num_pending = 0;
  int num_cached = -1;  // prompt tokens that the prefix cache gave at first; -1: has not run yet

  int num_known() const { return static_cast<int>(tokens.size()); }
  int num_tokens() const { return num_known() + num_pending; }
  int num_generated() const { return num_tokens() - static_cast<int>(request.prompt.size()); }
  // Unprocessed tokens; 1 when decoding.
  int num_new() const { return num_tokens() - num_computed; }
  // Tokens that are processed before max_tokens ends it: the last one is not.
  int max_computed() const {
    return static_cast<int>(request.prompt.size()) + request.stop.max_tokens - 1;
  }
  bool decoding() const {
    return num_new() == 1 && num_computed >= static_cast<int>(request.prompt.size());
  }
};

}  // namespace tangram
