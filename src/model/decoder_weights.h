#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/config.h"
#include "model/weights.h"
#include "ops/backend.h"

namespace tangram {

// Rows of one or several stored matrices that share an input, side by side in the output. Matrices
// of one stored type are joined into one product.
struct Linear {
  struct Part {
    TensorView weight;  // [N, K]
    TensorView bias;    // [N] f32, or empty
    int64_t first = 0;  // its first column of the output
  };
  std::vector<Part> parts;
  int64_t out_features = 0;
};

struct LayerWeights {
  TensorView attn_norm;       // [D]
  Linear qkv;                 // D -> (Hq + 2*Hkv) * d
  TensorView q_norm, k_norm;  // [d], or empty
  Linear o;                   // Hq * d -> D
  TensorView mlp_norm;        // [D]
  Linear gate_up;             // D -> 2F
  Linear down;                // F -> D
};

// All weights, as the backend reads them.
struct DecoderWeights {
  TensorView embedding;  // [V, D]
  std::vector<LayerWeights> layers;
  TensorView final_norm;  // [D]
  TensorView lm_head;     // [V, D]
  TensorView inv_freq;    // [d/2]
  float rope_scale = 1.0f;
  size_t bytes = 0;  // of everything above
  uint64_t fingerprint = 0;
  std::vector<Buffer> owners;
};

// How a source names the tensors of a decoder; those of layer i begin with layer_prefix + i + ".".
struct TensorNaming {
  std::string_view embedding, final_norm, lm_head, layer_prefix;
  std::string_view attn_norm, q, k, v, q_norm, k_norm, o, mlp_norm, gate, up, down;
  std::string_view rope_divisors;  // [d/2]; optional
};
extern const TensorNaming kHfNaming, kGgufNaming;

// Takes every tensor of `source` and uploads it. Errors are the source's, or kOutOfMemory.
Result<DecoderWeights> LoadDecoderWeights(const ModelConfig& config, const TensorNaming& naming,
                                          int served_length, WeightSource& source,
                                          ops::Backend& backend);

}  // namespace tangram
