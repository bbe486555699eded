#include "model/architecture.h"

namespace tangram {
namespace {
constexpr std::string_view kRefused[] = {"attention_bias", "mlp_bias"};
}  // namespace

// Llama 2, 3 and what shares their code, such as SmolLM2 (arXiv 2307.09288, 2407.21783). GGUF's
// converter permutes the rows of Q and K so that rotary pairs lie side by side.
const ArchitectureSpec kLlama{
    .id = Architecture::kLlama,
    .hf_class = "LlamaForCausalLM",
    .gguf_name = "llama",
    .gguf_rope_style = ops::RopeStyle::kInterleaved,
    .attention_bias = false,
    .qk_norm = false,
    .default_head_dim = 0,
    .can_slide = false,
    .refused_flags = kRefused,
};

}  // namespace tangram
