#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace tangram {

// A whole number as people write sizes: digits, or a decimal number with k, m, g, t (powers of
// 1000) or K, M, G, T (powers of 1024): 32k = 32000, 32K = 32768, 1.5G. kInvalidArgument if it is
// none, or does not fit.
Result<int64_t> ParseInteger(std::string_view text);

// A finite decimal number, all of `text`.
Result<double> ParseNumber(std::string_view text);

}  // namespace tangram
