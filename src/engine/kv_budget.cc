#include "engine/kv_budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace tangram {
namespace {

constexpr double kGiB = 1 << 30;

int64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : -1;  // "max" is no number either
}

int64_t SystemAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kilobytes * 1024;
  }
  return std::numeric_limits<int64_t>::max();
}

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

int64_t AvailableMemory() {
  int64_t available = SystemAvailable();
  const int64_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const int64_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0) available = std::min(available, std::max<int64_t>(0, limit - used));
  return available;
}

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
