#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "engine/engine.h"
#include "kvcache/kv_storage.h"

namespace tangram {

// How many pages the pool gets: --num-gpu-blocks-override, else --kv-cache-memory-bytes, else the
// configured share of `available` bytes, but never more than max_num_seqs sequences of
// max_model_len can hold. kOutOfMemory, naming the longest length that fits, if one sequence of
// max_model_len does not fit.
Result<int64_t> PoolPages(const EngineConfig& config, const KvLayout& layout, int max_model_len,
                          int64_t available);

}  // namespace tangram
