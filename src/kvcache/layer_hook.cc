#include "kvcache/layer_hook.h"

#include <cmath>

namespace tangram {

ops::StepQueries StepQueriesOf(const ops::AppendParams& appended) {
  return {.at = appended.at,
          .qkv = appended.qkv,
          .num_q_heads = appended.num_q_heads,
          .scale = 1.0f / std::sqrt(static_cast<float>(appended.at.kv().head_dim))};
}

}  // namespace tangram
