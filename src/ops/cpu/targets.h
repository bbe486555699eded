#pragma once

// Include before any header of Highway. Two tiers on x86: AVX2, which the kernels are compiled for
// anyway (ops/CMakeLists.txt), and AVX-512 with VNNI (Ice Lake, Zen 4 and later). A target between
// or above them would cost compile time and gain little. Elsewhere: the compiler's baseline.
#define HWY_WANT_AVX3_DL 1
#define HWY_DISABLED_TARGETS (HWY_AVX3 | (1LL << 4) | (1LL << 6))  // the bits: AVX3_SPR, AVX3_ZEN4
