#pragma once

#include <vector>

#include "ops/backend.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/thread_pool.h"

namespace tangram::ops {

// Consecutive tokens of one sequence under one KV head, and the parts of their row that they attend
// to. A part is kPartTokens keys, counted from the row's start.
struct AttentionItem {
  int sequence, kv_head;
  int first_token, num_tokens;  // of the sequence's tokens in this step
  int first_part, num_parts;
  int64_t partial;  // index of its first partial result, if parts are dealt to threads; else -1
};

struct AttentionContext {
  ThreadPool& pool;
  std::vector<Scratch> worker;  // [threads]
  Scratch partials;
  std::vector<AttentionItem> items;
};

// Softmax in parts of a fixed number of keys, each with its own maximum, joined in the order of the
// row: one arithmetic for prefill and decode, for any slicing into steps and any dealing to
// threads.
void AttentionCpu(const AttentionParams& p, AttentionContext& context);

}  // namespace tangram::ops
