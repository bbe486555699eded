#include "ops/cpu/key_blocks.h"

#include <algorithm>

namespace tangram::ops {

KeyBlocks::KeyBlocks(const KvView& kv, const HeadTokens& tokens, int first, int last)
    : first_(first),
      dim_(kv.head_dim),
      num_blocks_((last - first + kBlock - 1) / kBlock),
      keys_(static_cast<size_t>(num_blocks_) * kv.head_dim * kBlock) {
  std::vector<float> key(static_cast<size_t>(dim_));
  for (int t = first; t < last; ++t) {
    LoadKey(kv, tokens, t, key.data());
    const int index = t - first;
    float* block =
        keys_.data() + static_cast<ptrdiff_t>(index / kBlock) * dim_ * kBlock + index % kBlock;
    for (int i = 0; i < dim_; ++i) block[i * kBlock] = key[static_cast<size_t>(i)];
  }
}

void KeyBlocks::Dot(const float* query, int last, float* out) const {
  for (int b = 0; first_ + b * kBlock < last; ++b) {
    const float* keys = block(b);
    float sum[kBlock] = {};
    for (int i = 0; i < dim_; ++i) {
      for (int j = 0; j < kBlock; ++j) sum[j] += query[i] * keys[i * kBlock + j];
    }
    std::copy_n(sum, kBlock, out + b * kBlock);
  }
}

}  // namespace tangram::ops
