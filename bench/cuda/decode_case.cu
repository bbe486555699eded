#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "bench/cuda/decode_case.h"
#include "bench/cuda/random.cuh"
#include "ops/cuda/row_length.cuh"

namespace tangram::bench {
namespace {

using namespace ops::cuda;

int PagesFor(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// Poisons the tokens of each page's tail: `tails` lists {virtual page, tokens that count}.
__global__ void PoisonTailKernel(uint8_t* pool, const int2* tails, int row_bytes) {
  const int2 tail = tails[blockIdx.x];
  uint8_t* page = pool + int64_t{tail.x} * 2 * kPageTokens * row_bytes;
  for (int i = threadIdx.x; i < 2 * kPageTokens * row_bytes; i += blockDim.x) {
    if (i / row_bytes % kPageTokens >= tail.y) page[i] = 0xff;  // NaN in bf16 and e4m3
  }
}

template <class T>
std::vector<float> ToFloats(const std::vector<T>& values) {
  std::vector<float> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) result[i] = static_cast<float>(values[i]);
  return result;
}

}  // namespace

DecodeCase::DecodeCase(const DecodeShape& shape, const DecodeLoad& load,
                       std::vector<int32_t> places, SplitMode mode, int num_ranges, bool poison,
                       uint64_t seed)
    : shape_(shape), load_(load), places_(std::move(places)), mode_(mode), num_ranges_(num_ranges) {
  const int heads = shape_.layers * shape_.kv_heads;
  if (places_.empty()) {
    places_.resize(heads);
    std::iota(places_.begin(), places_.end(), 0);
  }
  std::vector<int32_t> rows(heads), columns(heads), slots(size()), tables(size(), 0);
  for (int i = 0; i < heads; ++i) {
    rows[i] = places_[i] / shape_.group_size;
    columns[i] = places_[i] % shape_.group_size;
  }
  for (int t = 0; t < size(); ++t) slots[t] = size() - 1 - t;  // not the identity
  head_row_ = DeviceArray<int32_t>(rows);
  head_column_ = DeviceArray<int32_t>(columns);
  slot_ = DeviceArray<int32_t>(slots);
  table_ = DeviceArray<int32_t>(tables);
  num_tokens_ = DeviceArray<int32_t>(load_.num_tokens);
  retained_ = DeviceArray<int32_t>(load_.retained);
  ScatterPages(seed);

  pool_ = DeviceArray<uint8_t>(num_pages_ * shape_.group_size * shape_.page_bytes());
  if (shape_.dtype == DType::kBF16) {
    FillNormal(reinterpret_cast<__nv_bfloat16*>(pool_.data()), pool_.size() / 2, seed, 1);
  } else {
    FillNormal(reinterpret_cast<__nv_fp8_e4m3*>(pool_.data()), pool_.size(), seed, 1);
  }
  if (poison) {
    std::vector<int2> tails;
    std::vector<char> used(num_pages_ * shape_.group_size, 0);
    for (int t = 0; t < size(); ++t) {
      for (int row = 0; row < shape_.num_rows(); ++row) {
        const int tokens = RowTokens(t, row);
        const int32_t* ids =
            &host_table_[(int64_t{slots[t]} * shape_.num_rows() + row) * max_pages_];
        for (int page = 0; page < PagesFor(tokens); ++page) {
          for (int column = 0; column < shape_.group_size; ++column) {
            const int virtual_page = ids[page] * shape_.group_size + column;
            used[virtual_page] = 1;
            const int count = std::min(kPageTokens, tokens - page * kPageTokens);
            if (count < kPageTokens) tails.push_back({virtual_page, count});
          }
        }
      }
    }
    for (size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) tails.push_back({static_cast<int>(i), 0});
    }
    DeviceArray<int2> device_tails(tails);
    PoisonTailKernel<<<tails.size(), 128>>>(pool_.data(), device_tails.data(),
                                            shape_.page_bytes() / (2 * kPageTokens));
    TANGRAM_CUDA_CHECK_LAUNCH();
  }
  q_ = DeviceArray<__nv_bfloat16>(size_t{load_.num_tokens.size()} * shape_.q_heads *
                                  shape_.head_dim);
  out_ = DeviceArray<__nv_bfloat16>(q_.size());
  FillNormal(q_.data(), q_.size(), seed + 1, 1);

  const int num_entries = size() * shape_.kv_heads;
  int64_t max_units = 1;
  for (int layer = 0; layer < shape_.layers; ++layer) {
    int64_t units = 0;
    for (int t = 0; t < size(); ++t) {
      for (int head = 0; head < shape_.kv_heads; ++head) {
        units +=
            (PagesFor(EntryTokens(layer, t, head)) + kInvariantUnitPages - 1) / kInvariantUnitPages;
      }
    }
    max_units = std::max(max_units, units);
  }
  const int64_t partials = MaxPartials(mode_, num_ranges_, max_units) * shape_.group();
  partial_out_ = DeviceArray<float>(partials * shape_.head_dim);
  partial_max_sum_ = DeviceArray<float2>(partials);
  entries_ = DeviceArray<PlanEntry>(size_t{1} * shape_.layers * (num_entries + 1));
  ranges_ = DeviceArray<PlanRange>(size_t{1} * shape_.layers * (num_ranges_ + 1));
  splits_ = DeviceArray<PlanSplit>(size_t{1} * shape_.layers *
                                   MaxSplits(mode_, num_entries, num_ranges_));
  num_splits_ = DeviceArray<int32_t>(shape_.layers);
  PoisonOutputs();
  map_ = MakeKvTensorMap(attention_params(0).kv);
  TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
}

// Deals the rows' pages out of a shuffled pool that is a little larger.
void DecodeCase::ScatterPages(uint64_t seed) {
  int64_t total = 0;
  max_pages_ = 1;
  for (int t = 0; t < size(); ++t) {
    for (int row = 0; row < shape_.num_rows(); ++row) {
      total += PagesFor(RowTokens(t, row));
      max_pages_ = std::max(max_pages_, PagesFor(RowTokens(t, row)));
    }
  }
  num_pages_ = total + 3;
  std::vector<int32_t> ids(num_pages_);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937_64(seed));
  host_table_.assign(int64_t{size()} * shape_.num_rows() * max_pages_, 0x7fffffff);
  size_t next = 0;
  for (int t = 0; t < size(); ++t) {
    for (int row = 0; row < shape_.num_rows(); ++row) {
      const int64_t first = (int64_t{size() - 1 - t} * shape_.num_rows() + row) * max_pages_;
      for (int page = 0; page < PagesFor(RowTokens(t, row)); ++page) {
        host_table_[first + page] = ids[next++];
      }
    }
  }
  page_table_ = DeviceArray<int32_t>(host_table_);
}

DecodePlanParams DecodeCase::plan_params() const {
  const int num_entries = size() * shape_.kv_heads;
  const int num_boundaries = static_cast<int>(load_.retained.size()) / shape_.num_rows();
  return {{size(), slot_.data(), num_tokens_.data(), table_.data()},
          {retained_.data(), num_boundaries, shape_.num_rows(), load_.chunk},
          head_row_.data(),
          head_column_.data(),
          shape_.kv_heads,
          mode_,
          costs_,
          {entries_.data(), ranges_.data(), splits_.data(), num_splits_.data(), shape_.layers,
           num_entries, num_ranges_, MaxSplits(mode_, num_entries, num_ranges_)}};
}

DecodeAttentionParams DecodeCase::attention_params(int layer) const {
  return {
      q_.data(),
      int64_t{shape_.q_heads} * shape_.head_dim,
      out_.data(),
      shape_.q_heads,
      shape_.kv_heads,
      1 / std::sqrt(static_cast<float>(shape_.head_dim)),
      {pool_.data(), shape_.dtype, shape_.head_dim, shape_.group_size, num_pages_,
       page_table_.data(), shape_.num_rows(), max_pages_, head_row_.data(), head_column_.data()},
      plan_params().plan.layer(layer, mode_),
      partial_out_.data(),
      partial_max_sum_.data(),
      false};
}

void DecodeCase::Attend(int layer, bool simple, cudaStream_t stream, bool early_start) const {
  DecodeAttentionParams params = attention_params(layer);
  params.early_start = early_start;
  if (simple) {
    RunDecodeAttentionSimple(params, stream);
  } else {
    RunDecodeAttention(params, map_, stream);
  }
  RunDecodeCombine(params, stream);
}

int DecodeCase::RowTokens(int sequence, int row) const {
  const RetainedTables tables = {load_.retained.data(), 0, shape_.num_rows(), load_.chunk};
  return RowLength(tables, 0, row, load_.num_tokens[sequence]);
}

int DecodeCase::EntryTokens(int layer, int sequence, int head) const {
  return RowTokens(sequence, Place(layer, head) / shape_.group_size);
}

int64_t DecodeCase::LayerTokens(int layer) const {
  int64_t tokens = 0;
  for (int t = 0; t < size(); ++t) {
    for (int head = 0; head < shape_.kv_heads; ++head) tokens += EntryTokens(layer, t, head);
  }
  return tokens;
}

double DecodeCase::LayerBytes(int layer) const {
  return static_cast<double>(LayerTokens(layer)) * shape_.page_bytes() / kPageTokens;
}

std::vector<float> DecodeCase::Queries() const { return ToFloats(q_.Download()); }
std::vector<float> DecodeCase::Output() const { return ToFloats(out_.Download()); }

std::vector<int64_t> DecodeCase::VirtualPages(int layer, int sequence, int head) const {
  const int place = Place(layer, head);
  const int64_t table_row =
      int64_t{size() - 1 - sequence} * shape_.num_rows() + place / shape_.group_size;
  std::vector<int64_t> pages(PagesFor(EntryTokens(layer, sequence, head)));
  for (size_t i = 0; i < pages.size(); ++i) {
    pages[i] = int64_t{host_table_[table_row * max_pages_ + i]} * shape_.group_size +
               place % shape_.group_size;
  }
  return pages;
}

std::vector<float> DecodeCase::KeysValues(int layer, int sequence, int head) const {
  const int d = shape_.head_dim, tokens = EntryTokens(layer, sequence, head);
  const std::vector<int64_t> pages = VirtualPages(layer, sequence, head);
  std::vector<float> result(size_t{2} * tokens * d);
  std::vector<uint8_t> page(shape_.page_bytes());
  for (int t = 0; t < tokens; ++t) {
    if (t % kPageTokens == 0) {
      TANGRAM_CUDA_CHECK(cudaMemcpy(page.data(),
                                    pool_.data() + pages[t / kPageTokens] * page.size(),
                                    page.size(), cudaMemcpyDeviceToHost));
    }
    for (int kv = 0; kv < 2; ++kv) {
      for (int i = 0; i < d; ++i) {
        const int element = (kv * kPageTokens + t % kPageTokens) * d + i;
        result[(size_t{2} * t + kv) * d + i] =
            shape_.dtype == DType::kBF16
                ? static_cast<float>(reinterpret_cast<const __nv_bfloat16*>(page.data())[element])
                : static_cast<float>(reinterpret_cast<const __nv_fp8_e4m3*>(page.data())[element]);
      }
    }
  }
  return result;
}

void DecodeCase::PoisonOutputs() {
  out_.FillBytes(0xff);
  partial_out_.FillBytes(0xff);
  partial_max_sum_.FillBytes(0xff);
}

void DecodeCase::MultiplyQueries(float factor) {
  std::vector<__nv_bfloat16> queries = q_.Download();
  for (__nv_bfloat16& q : queries) q = __float2bfloat16(__bfloat162float(q) * factor);
  q_.Upload(queries);
}

void DecodeCase::SetNumTokens(const std::vector<int32_t>& num_tokens) {
  load_.num_tokens = num_tokens;
  num_tokens_.Upload(num_tokens);
}

DecodeLoad ProfileLoad(const DecodeShape& shape, const std::vector<float>& ratios, double ratio,
                       const std::vector<int32_t>& contexts, int chunk,
                       std::vector<int32_t>* places) {
  const int heads = shape.layers * shape.kv_heads, rows = shape.num_rows();
  // The scale at which the heads' shares, none above 1, have the mean asked for.
  double low = 0, high = 1e4;
  for (int i = 0; i < 100; ++i) {
    const double scale = (low + high) / 2;
    double mean = 0;
    for (float r : ratios) mean += std::min(1.0, scale * r) / heads;
    (mean < ratio ? low : high) = scale;
  }
  std::vector<int32_t> order(heads);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return ratios[a] > ratios[b]; });
  places->assign(heads, 0);
  std::vector<double> demand(rows, 0);
  for (int i = 0; i < heads; ++i) {
    (*places)[order[i]] = i;
    demand[i / shape.group_size] += std::min(1.0, low * ratios[order[i]]) / shape.group_size;
  }
  DecodeLoad load;
  load.chunk = chunk;
  const int boundaries = *std::max_element(contexts.begin(), contexts.end()) / chunk + 1;
  load.retained.resize(size_t{1} * boundaries * rows);
  for (int k = 0; k < boundaries; ++k) {
    for (int row = 0; row < rows; ++row) {
      const int pages = static_cast<int>(std::lround(demand[row] * k * chunk / kPageTokens));
      load.retained[k * rows + row] = kPageTokens * pages;
    }
  }
  for (int context : contexts) load.num_tokens.push_back(context / chunk * chunk + 1);
  return load;
}

}  // namespace tangram::bench
