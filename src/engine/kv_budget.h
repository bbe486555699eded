#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "engine/engine.h"
#include "kvcache/kv_storage.h"
#include "ops/backend.h"

namespace tangram {

// The type that --kv-cache-dtype names, if the backend has it.
Result<DType> KvDType(const std::string& name, const ops::Limits& limits);

// kUnsupported, or kInvalidArgument naming the flag, if the backend's kernels cannot run the model
// or the sizes.
Status CheckLimits(const EngineConfig& config, const KvLayout& layout, const ops::Limits& limits);

// How many pages the pool gets: --num-gpu-blocks-override, else --kv-cache-memory-bytes, else the
// configured share (of what is available, or of a device's whole memory, less what is used of it),
// but never more than max_num_seqs sequences of max_model_len can hold. kOutOfMemory, naming the
// longest length that fits, if one sequence of max_model_len does not fit.
Result<int64_t> PoolPages(const EngineConfig& config, const KvLayout& layout, int max_model_len,
                          const ops::BackendMemory& memory);

}  // namespace tangram
