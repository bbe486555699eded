#include "engine/kv_budget.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

namespace tangram {
namespace {

constexpr double kGiB = 1 << 30;
constexpr double kHostShare = 0.5, kDeviceShare = 0.9;

int64_t WantedBytes(const EngineConfig& config, const ops::BackendMemory& memory) {
  if (config.kv_cache_memory_bytes > 0) return config.kv_cache_memory_bytes;
  const bool device = memory.total > 0;
  const double share = config.memory_utilization > 0 ? config.memory_utilization
                                                     : (device ? kDeviceShare : kHostShare);
  const double spared = (1 - share) * static_cast<double>(device ? memory.total : memory.available);
  return std::max<int64_t>(0, memory.available - static_cast<int64_t>(spared));
}

int64_t WantedPages(const EngineConfig& config, const KvLayout& layout, int64_t pages_of_one,
                    const ops::BackendMemory& memory) {
  if (config.num_pages_override > 0) return config.num_pages_override * layout.heads.num_groups();
  const int64_t pages = WantedBytes(config, memory) / static_cast<int64_t>(layout.page_bytes());
  if (config.kv_cache_memory_bytes > 0) return pages;
  return std::min(pages, pages_of_one * config.max_num_seqs);
}

std::string Names(const std::vector<DType>& types) {
  std::vector<std::string_view> names;
  for (const DType type : types) names.push_back(DTypeName(type));
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

Result<DType> KvDType(const std::string& name, const ops::Limits& limits) {
  if (name == "auto") return limits.kv_dtypes.front();
  std::string short_name = name;
  if (name == "float16") short_name = "f16";
  if (name == "bfloat16") short_name = "bf16";
  if (name == "float32") short_name = "f32";
  for (const DType type : limits.kv_dtypes) {
    if (DTypeName(type) == short_name) return type;
  }
  return MakeError(ErrorKind::kInvalidArgument,
                   fmt::format("--kv-cache-dtype {} is not served on this device; choose auto, {}",
                               name, Names(limits.kv_dtypes)),
                   "kv_cache_dtype");
}

Status CheckLimits(const EngineConfig& config, const KvLayout& layout, const ops::Limits& limits) {
  const auto has = [](const std::vector<int>& allowed, int value) {
    return allowed.empty() || std::ranges::find(allowed, value) != allowed.end();
  };
  if (!has(limits.head_dims, layout.head_dim)) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("the model has heads of {} dimensions; on this device those of {} "
                                 "are served (--device cpu serves any)",
                                 layout.head_dim, fmt::join(limits.head_dims, " or ")));
  }
  if (!has(limits.page_sizes, layout.page_size)) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("--block-size {} is not served on this device; it has pages of {} "
                                 "tokens",
                                 layout.page_size, fmt::join(limits.page_sizes, " or ")),
                     "block_size");
  }
  if (config.compression.enabled() && config.compression.scorer == Scorer::kFastKvzip &&
      !limits.fastkvzip) {
    return MakeError(ErrorKind::kInvalidArgument,
                     "--compression-scorer fastkvzip is served on the CPU alone so far: choose "
                     "another scorer, or --device cpu",
                     "compression_scorer");
  }
  if (config.compression.enabled() && config.compression.chunk > limits.max_chunk) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("--compression-chunk-size {} is more than the {} tokens that this "
                                 "device compresses at once",
                                 config.compression.chunk, limits.max_chunk),
                     "compression_chunk_size");
  }
  return {};
}

Result<int64_t> PoolPages(const EngineConfig& config, const KvLayout& layout, int max_model_len,
                          const ops::BackendMemory& memory) {
  const int64_t groups = layout.heads.num_groups();
  const int64_t pages_of_one = (max_model_len + layout.page_size - 1) / layout.page_size * groups;
  const int64_t pages = WantedPages(config, layout, pages_of_one, memory);
  if (pages < pages_of_one) {
    const auto page_bytes = static_cast<double>(layout.page_bytes());
    return MakeError(
        ErrorKind::kOutOfMemory,
        fmt::format("a request of the maximum length, {} tokens, needs {:.2f} GiB of KV cache, and "
                    "{:.2f} GiB are given to it; the longest that fits is {} tokens. Set "
                    "--max-model-len {} or less, or give more with --kv-cache-memory-bytes",
                    max_model_len, static_cast<double>(pages_of_one) * page_bytes / kGiB,
                    static_cast<double>(pages) * page_bytes / kGiB,
                    pages / groups * layout.page_size, pages / groups * layout.page_size),
        "kv_cache_memory_bytes");
  }
  return std::min<int64_t>(pages, std::numeric_limits<int32_t>::max() / layout.heads.group_size());
}

}  // namespace tangram
