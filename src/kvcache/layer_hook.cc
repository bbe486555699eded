#include "kvcache/layer_hook.h"

#include <cmath>

namespace tangram {

ops::StepQueries StepQueriesOf(const ops::AppendParams& appended) {
  return {.qkv = appended.qkv,
          .num_q_heads = appended.num_q_heads,
          .num_kv_heads = appended.num_kv_heads,
          .scale = 1.0f / std::sqrt(static_cast<float>(appended.pool.head_dim)),
          .pool = appended.pool,
          .pages = appended.pages,
          .heads = appended.heads,
          .sequence = appended.sequences.front()};
}

}  // namespace tangram
