#pragma once

#include <string>

#include "paging/compression_config.h"

namespace tangram {

// What a plan of compression follows from. Every field but shipped_profiles is one option of the
// command line.
struct CompressionOptions {
  std::string model_path;
  int page_size = 16;
  int page_group_size = 0;              // 0: 4, or the largest divisor of L*Hkv below it
  CompressionConfig compression;        // its ratio is the default of requests
  std::string compression_profile;      // a file; empty: found or made (compression/find_profile.h)
  std::string shipped_profiles;         // the folder of those that came with the program; or empty
  std::string head_group_map = "auto";  // auto, identity, or a file (compression/head_order.h)
  std::string compression_gate;  // gates of Fast KVzip (compression/fastkvzip.h), for that scorer
};

}  // namespace tangram
