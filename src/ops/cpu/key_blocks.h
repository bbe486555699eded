#pragma once

#include <vector>

#include "ops/cpu/head_tokens.h"

namespace tangram::ops {

// Keys of a head as f32, kBlock of them side by side, for the compiler's vector lanes.
class KeyBlocks {
 public:
  static constexpr int kBlock = 32;  // whose sums fit the registers of any x86-64

  // Tokens [first, last) of the head's row; behind them zeros up to a whole block.
  KeyBlocks(const KvView& kv, const HeadTokens& tokens, int first, int last);

  int num_blocks() const { return num_blocks_; }
  // Of all blocks.
  size_t size() const { return static_cast<size_t>(num_blocks_) * kBlock; }
  // Keys first + index * kBlock on: [d, kBlock].
  const float* block(int index) const {
    return keys_.data() + static_cast<ptrdiff_t>(index) * dim_ * kBlock;
  }
  float* block(int index) { return keys_.data() + static_cast<ptrdiff_t>(index) * dim_ * kBlock; }
  // out[t - first] = query . key t, for the tokens up to `last`. `out` has room for whole blocks.
  void Dot(const float* query, int last, float* out) const;

 private:
  int first_, dim_, num_blocks_;
  std::vector<float> keys_;  // [blocks, d, kBlock]
};

}  // namespace tangram::ops
