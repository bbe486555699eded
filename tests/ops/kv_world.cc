#include "ops/kv_world.h"

#include <algorithm>
#include <cstring>

#include "ops/kv_element.h"

namespace tangram::ops {

KvWorld::KvWorld(Backend& backend, const KvWorldShape& shape, uint64_t seed)
    : shape_(shape), transposed_(backend.transposed_keys()) {
  Random random(seed);
  int longest = 0;
  for (const auto& [history, tokens] : shape.sequences)
    longest = std::max(longest, history + tokens);
  // Two layers, of which the second's heads are looked at; rows hold heads of both.
  const int num_heads = 2 * shape.num_kv_heads;
  num_rows_ = num_heads / shape.group_size;
  pages_a_row_ = (longest + shape.page_size - 1) / shape.page_size + 1;
  std::vector<int> order(num_heads);
  for (int i = 0; i < num_heads; ++i) order[i] = i;
  for (int i = num_heads - 1; i > 0; --i) std::swap(order[i], order[random.Int(0, i)]);
  for (int h = 0; h < shape.num_kv_heads; ++h) {
    rows_.push_back(order[h] / shape.group_size);
    columns_.push_back(order[h] % shape.group_size);
  }

  const int slots = static_cast<int>(shape.sequences.size()) + 1;  // slot 0 belongs to nobody
  num_pages_ = int64_t{slots} * num_rows_ * pages_a_row_;
  for (int64_t i = 0; i < num_pages_; ++i) ids_.push_back(static_cast<int32_t>(i));
  for (int64_t i = num_pages_ - 1; i > 0; --i) {
    std::swap(ids_[i], ids_[random.Int(0, static_cast<int>(i))]);
  }
  pool_ = backend.Allocate(
      BytesFor(shape.dtype, num_pages_ * shape.group_size * 2 * shape.page_size * shape.head_dim));
  std::memset(pool_.data(), 0xFF, pool_.bytes());  // NaN in each type

  history_.resize(shape.sequences.size());
  for (size_t s = 0; s < shape.sequences.size(); ++s) {
    const auto [history, tokens] = shape.sequences[s];
    for (int row = 0; row < num_rows_; ++row) {
      history_[s].push_back(row == 0 ? history : random.Int(history / 2, history));
    }
    sequences_.push_back({static_cast<int>(s) + 1, num_tokens_, tokens, history_[s].data()});
    num_tokens_ += tokens;
    for (int h = 0; h < shape.num_kv_heads; ++h) {
      const std::vector<float> values = random.Normals(int64_t{2} * history * shape.head_dim);
      for (int i = 0; i < history_[s][rows_[h]] * shape.head_dim * 2; ++i) {
        Set(static_cast<int>(s), h, i / (2 * shape.head_dim), i / shape.head_dim % 2 == 1,
            i % shape.head_dim, values[i]);
      }
    }
  }
}

KvPoolView KvWorld::pool() const {
  return {pool_.data(),      shape_.dtype,    shape_.page_size,
          shape_.group_size, shape_.head_dim, num_pages_};
}

std::vector<int32_t> KvWorld::positions() const {
  std::vector<int32_t> positions;
  for (size_t s = 0; s < sequences_.size(); ++s) {
    for (int i = 0; i < sequences_[s].num_tokens; ++i) {
      positions.push_back(shape_.sequences[s].first * 3 + i);  // true positions run ahead of rows
    }
  }
  return positions;
}

int64_t KvWorld::Index(int sequence, int head, int index, bool value, int dim) const {
  const int row = rows_[head], b = shape_.page_size, d = shape_.head_dim;
  const int64_t slot = sequence + 1;
  const int64_t entry = (slot * num_rows_ + row) * pages_a_row_ + index / b;
  const int64_t block = (int64_t{ids_[entry]} * shape_.group_size + columns_[head]) * 2 * b * d;
  const int offset = index % b;
  if (value) return block + int64_t{b + offset} * d + dim;
  return block + (transposed_ ? dim * b + offset : offset * d + dim);
}

float KvWorld::Get(int sequence, int head, int index, bool value, int dim) const {
  return LoadKv(pool(), Index(sequence, head, index, value, dim));
}

void KvWorld::Set(int sequence, int head, int index, bool value, int dim, float to) {
  StoreKv(pool(), Index(sequence, head, index, value, dim), to);
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
