#include "model/architecture.h"

namespace tangram {

// Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): Llama with a bias on Q, K and V.
const ArchitectureSpec kQwen2{
    .id = Architecture::kQwen2,
    .hf_class = "Qwen2ForCausalLM",
    .gguf_name = "qwen2",
    .gguf_rope_style = ops::RopeStyle::kHalf,
    .attention_bias = true,
    .qk_norm = false,
    .default_head_dim = 0,
    .can_slide = true,
    .refused_flags = {},
};

}  // namespace tangram
