#pragma once

#include <string>

#include "tensor/tensor.h"

namespace tangram {

// A tensor in a mapped file.
struct StoredTensor {
  std::string name;
  std::string type;  // as the file spells it
  TensorView view;   // without data if `type` is none that we compute with, or the rank is above 4
};

}  // namespace tangram
