#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "ops/backend.h"

namespace tangram {

// The gates of Fast KVzip (arXiv 2601.17668) for one model, and what keeps their memory alive.
struct FastKvzipWeights {
  std::vector<ops::FastKvzipGate> layers;
  std::vector<Buffer> owners;
};

// From what tools/convert_fastkvzip.py writes of the published .pt file. kLoad, naming the file, if
// it cannot be read, kUnsupported if it is corrupt or not for a model of this shape.
Result<FastKvzipWeights> LoadFastKvzip(const std::string& path, const ModelConfig& model,
                                       ops::Backend& backend);

}  // namespace tangram
