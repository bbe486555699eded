#include "model/architecture.h"

namespace tangram {
namespace {
constexpr std::string_view kRefused[] = {"attention_bias"};
}  // namespace

// Qwen3's dense models (arXiv 2505.09388): Llama with an RMS norm on each query and key head, and a
// head_dim of its own.
const ArchitectureSpec kQwen3{
    .id = Architecture::kQwen3,
    .hf_class = "Qwen3ForCausalLM",
    .gguf_name = "qwen3",
    .gguf_rope_style = ops::RopeStyle::kHalf,
    .attention_bias = false,
    .qk_norm = true,
    .default_head_dim = 128,
    .can_slide = true,
    .refused_flags = kRefused,
};

}  // namespace tangram
