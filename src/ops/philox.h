#pragma once

#include <cstdint>

// The random numbers of sampling, the same on the host and in kernels (which call constexpr
// functions of the host).

namespace tangram::ops {

struct Philox4 {
  uint32_t x, y, z, w;
};

// Philox-4x32-10 (Salmon et al., SC'11); the key's low half comes first.
constexpr Philox4 Philox(Philox4 counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t x = uint64_t{0xD2511F53u} * counter.x, z = uint64_t{0xCD9E8D57u} * counter.z;
    counter = {static_cast<uint32_t>(z >> 32) ^ counter.y ^ key0, static_cast<uint32_t>(z),
               static_cast<uint32_t>(x >> 32) ^ counter.w ^ key1, static_cast<uint32_t>(x)};
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
  return counter;
}

// The bits of the noise of tokens 4 * `four` to 4 * `four` + 3.
constexpr Philox4 NoiseBits(uint32_t four, uint32_t draw, uint64_t seed) {
  return Philox({four, draw, 0, 0}, seed);
}

// Uniform in (0, 1), never 0 or 1: one of 2^23 numbers, since with a bit more the half that keeps
// them off the ends would be rounded, the last one to 1.
constexpr float UnitInterval(uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f;
}

// Of the Gumbel noise -log(-log(UnitInterval(bits))): it lies between -log(24 log 2) = -2.8116 and
// 24 log 2 = 16.6355, reached at 1 - 2^-24.
inline constexpr float kMinGumbel = -2.812f, kMaxGumbel = 16.636f;

}  // namespace tangram::ops
