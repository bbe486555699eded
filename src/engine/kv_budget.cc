#include "engine/kv_budget.h"

#include <algorithm>
#include <limits>

namespace tangram {
namespace {

constexpr double kGiB = 1 << 30;
int64_t WantedPages(const EngineConfig& config, const KvLayout& layout, int64_t pages_of_one,
                    int64_t available) {
  const auto page_bytes = static_cast<int64_t>(layout.page_bytes());
  if (config.num_pages_override > 0) return config.num_pages_override * layout.heads.num_rows();
  if (config.kv_cache_memory_bytes > 0) return config.kv_cache_memory_bytes / page_bytes;
  const auto share =
      static_cast<int64_t>(static_cast<double>(available) * config.memory_utilization);
  return std::min(share / page_bytes, pages_of_one * config.max_num_seqs);
}

}  // namespace

Result<int64_t> PoolPages(const EngineConfig& config, const KvLayout& layout, int max_model_len,
                          int64_t available) {
  const int64_t rows = layout.heads.num_rows();
  const int64_t pages_of_one = (max_model_len + layout.page_size - 1) / layout.page_size * rows;
  const int64_t pages = WantedPages(config, layout, pages_of_one, available);
  if (pages < pages_of_one) {
    const auto page_bytes = static_cast<double>(layout.page_bytes());
    return MakeError(
        ErrorKind::kOutOfMemory,
        fmt::format("a request of the maximum length, {} tokens, needs {:.2f} GiB of KV cache, and "
                    "{:.2f} GiB are given to it; the longest that fits is {} tokens. Set "
                    "--max-model-len {} or less, or give more with --kv-cache-memory-bytes",
                    max_model_len, static_cast<double>(pages_of_one) * page_bytes / kGiB,
                    static_cast<double>(pages) * page_bytes / kGiB, pages / rows * layout.page_size,
                    pages / rows * layout.page_size),
        "kv_cache_memory_bytes");
  }
  return std::min<int64_t>(pages, std::numeric_limits<int32_t>::max() / layout.heads.group_size());
}

}  // namespace tangram
