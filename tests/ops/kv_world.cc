#include "ops/kv_world.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/kv_element.h"

namespace tangram::ops {
namespace {

constexpr int kLayers = 2;
// What belongs to nobody, so that whoever reads it goes astray.
constexpr int32_t kNowhere = 1 << 24;

void Shuffle(Random& random, std::vector<int32_t>& values) {
  for (int i = static_cast<int>(values.size()) - 1; i > 0; --i) {
    std::swap(values[i], values[random.Int(0, i)]);
  }
}

}  // namespace

KvWorld::KvWorld(Backend& backend, const KvWorldShape& shape, uint64_t seed)
    : shape_(shape), transposed_(backend.transposed_keys()) {
  Random random(seed);
  kv_.dtype = shape.dtype;
  kv_.page_size = shape.page_size;
  kv_.group_size = shape.group_size;
  kv_.head_dim = shape.head_dim;
  kv_.num_kv_heads = shape.num_kv_heads;
  kv_.num_groups = kLayers * shape.num_kv_heads / shape.group_size;
  DealHeads(random);
  DealPages(backend, random);
  const int count = static_cast<int>(shape.sequences.size());
  for (int s = 0; s < count; ++s) {
    const auto [history, tokens] = shape.sequences[s];
    std::vector<int32_t>& groups = history_.emplace_back();
    for (int g = 0; g < kv_.num_groups; ++g) {
      groups.push_back(g == 0 ? history : random.Int(history / 2, history));
    }
    // Slot 0 and retention 0 belong to nobody.
    sequences_.push_back({s + 1, count - s, num_tokens_, tokens, (s + 1) * kChunk, true});
    num_tokens_ += tokens;
    FillHistory(s, random);
  }
  WriteRetention();
}

// Groups hold heads of both layers.
void KvWorld::DealHeads(Random& random) {
  std::vector<int32_t> order(kLayers * shape_.num_kv_heads);
  std::iota(order.begin(), order.end(), 0);
  Shuffle(random, order);
  for (const int32_t place : order) {
    groups_.push_back(place / shape_.group_size);
    columns_.push_back(place % shape_.group_size);
  }
  kv_.heads = kv_.host_heads = {groups_.data(), columns_.data()};
}

void KvWorld::DealPages(Backend& backend, Random& random) {
  int longest = 0;
  for (const auto& [history, tokens] : shape_.sequences)
    longest = std::max(longest, history + tokens);
  kv_.max_pages = (longest + shape_.page_size - 1) / shape_.page_size + 1;
  kv_.num_pages = kv_.Place(static_cast<int>(shape_.sequences.size()) + 1, 0);
  page_table_.resize(kv_.num_pages);
  std::iota(page_table_.begin(), page_table_.end(), 0);
  Shuffle(random, page_table_);
  kv_.page_table = page_table_.data();
  pool_ = backend.Allocate(kv_.num_pages * kv_.page_bytes());
  std::memset(pool_.data(), 0xFF, pool_.bytes());  // NaN in each type
  kv_.pool = pool_.data();
}

void KvWorld::FillHistory(int sequence, Random& random) {
  const int d = shape_.head_dim;
  for (int h = 0; h < shape_.num_kv_heads; ++h) {
    const std::vector<float> values =
        random.Normals(int64_t{2} * shape_.sequences[sequence].first * d);
    for (int i = 0; i < history(sequence, h) * d * 2; ++i) {
      Set(sequence, h, i / (2 * d), i / d % 2 == 1, i % d, values[i]);
    }
  }
}

void KvWorld::WriteRetention() {
  const int groups = kv_.num_groups;
  retained_.assign((sequences_.size() + 1) * kBoundaries * groups, kNowhere);
  for (size_t s = 0; s < sequences_.size(); ++s) {
    int32_t* table = &retained_[int64_t{sequences_[s].retention} * kBoundaries * groups];
    std::fill_n(table, groups, 0);
    for (int k = 1; k < kBoundaries; ++k) std::ranges::copy(history_[s], table + k * groups);
  }
  kv_.retention = kv_.host_retention = {retained_.data(), kBoundaries, groups, kChunk};
}

LayerRound KvWorld::Begin(Backend& backend, const std::vector<SequenceSpan>& spans) {
  input_.Clear();
  input_.tokens.assign(num_tokens_, 0);
  input_.positions = input_.slots = input_.retentions = input_.tokens;
  input_.spans = spans;
  // Of round 0 is nothing left.
  input_.rounds = {{0, 0, 0, 0}, {0, static_cast<int32_t>(spans.size()), 0, 0}};
  for (const SequenceSpan& span : spans) {
    for (int i = 0; i < span.num_tokens; ++i) {
      input_.positions[span.first_token + i] = span.position + i;
      input_.slots[span.first_token + i] = span.slot;
      input_.retentions[span.first_token + i] = span.retention;
    }
  }
  return {&backend.Begin(input_, kv_, nullptr), 1, kLayer};
}

int64_t KvWorld::Index(int sequence, int head, int index, bool value, int dim) const {
  const int b = shape_.page_size, d = shape_.head_dim;
  const int64_t entry = kv_.Place(sequence + 1, groups_[Entry(head)]) + index / b;
  const int64_t block =
      (int64_t{page_table_[entry]} * shape_.group_size + columns_[Entry(head)]) * 2 * b * d;
  const int offset = index % b;
  if (value) return block + int64_t{b + offset} * d + dim;
  return block + (transposed_ ? dim * b + offset : offset * d + dim);
}

float KvWorld::Get(int sequence, int head, int index, bool value, int dim) const {
  return LoadKv(kv_, Index(sequence, head, index, value, dim));
}

void KvWorld::Set(int sequence, int head, int index, bool value, int dim, float to) {
  StoreKv(kv_, Index(sequence, head, index, value, dim), to);
}

void KvWorld::AppendPlain(const std::vector<float>& qkv) {
  const int d = shape_.head_dim;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    for (int i = 0; i < sequences_[s].num_tokens; ++i) {
      const float* row = &qkv[(sequences_[s].first_token + i) * qkv_width()];
      for (int h = 0; h < shape_.num_kv_heads; ++h) {
        for (int j = 0; j < d; ++j) {
          const int at = history(static_cast<int>(s), h) + i;
          Set(static_cast<int>(s), h, at, false, j, row[(num_q_heads() + h) * d + j]);
          Set(static_cast<int>(s), h, at, true, j,
              row[(num_q_heads() + shape_.num_kv_heads + h) * d + j]);
        }
      }
    }
  }
}

std::vector<uint8_t> KvWorld::Bytes() const {
  const auto* bytes = static_cast<const uint8_t*>(pool_.data());
  return {bytes, bytes + pool_.bytes()};
}

}  // namespace tangram::ops
