#pragma once

#include <cstdint>

namespace tangram {

// An entry of a model's vocabulary.
using TokenId = int32_t;

}  // namespace tangram
