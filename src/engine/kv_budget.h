#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "engine/engine.h"
#include "kvcache/kv_storage.h"

namespace tangram {

// Bytes that this process may still take: the least of the system's available memory, what its
// control groups leave, and what its address space may still grow by (`ulimit -v`).
int64_t AvailableMemory();

// What the control groups that the file `memberships` (/proc/self/cgroup) names, and those above
// them, leave of their limits; INT64_MAX if none has one. Their files are below `mount`
// (/sys/fs/cgroup), in version 2's form or version 1's. File pages that the kernel would drop first
// count as free.
int64_t LeftByControlGroups(const std::string& memberships, const std::string& mount);

// How many pages the pool gets: --num-gpu-blocks-override, else --kv-cache-memory-bytes, else the
// configured share of `available` bytes, but never more than max_num_seqs sequences of
// max_model_len can hold. kOutOfMemory, naming the longest length that fits, if one sequence of
// max_model_len does not fit.
Result<int64_t> PoolPages(const EngineConfig& config, const KvLayout& layout, int max_model_len,
                          int64_t available);

}  // namespace tangram
