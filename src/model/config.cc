#include "model/config.h"

#include <fmt/format.h>

#include <cmath>

#include "model/architecture.h"

namespace tangram {

std::span<const ArchitectureSpec* const> Architectures() {
  static constexpr const ArchitectureSpec* kAll[] = {&kLlama, &kQwen2, &kQwen3};
  return kAll;
}

std::string ServedClasses() {
  std::string names;
  for (const auto* spec : Architectures()) {
    if (!names.empty()) names += ", ";
    names += spec->hf_class;
  }
  return names;
}

double YarnAttentionFactor(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

Status FinishConfig(ModelConfig& config, const std::string& name) {
  const auto fail = [&](std::string_view why) {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", name, why));
  };
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    return fail(fmt::format("{} attention heads cannot share {} key-value heads",
                            config.num_attention_heads, config.num_key_value_heads));
  }
  if (config.head_dim % 2 != 0) {
    return fail(fmt::format("head dimension {} is odd: it cannot be rotated", config.head_dim));
  }
  RopeConfig& rope = config.rope;
  if (!(rope.theta > 0) || !(rope.factor > 0) || !std::isfinite(rope.theta * rope.factor)) {
    return fail("rope theta and factor must be above 0");
  }
  if (rope.original_max_position <= 0) rope.original_max_position = config.max_position_embeddings;
  // As vLLM derives it: Llama 3.1 states its scaled length, the others the one before scaling.
  double longest = config.max_position_embeddings;
  if (rope.scaling == RopeScaling::kLinear || rope.scaling == RopeScaling::kDynamic) {
    longest *= rope.factor;
  } else if (rope.scaling == RopeScaling::kYarn) {
    longest = rope.original_max_position * rope.factor;
  }
  if (longest > 1 << 30) return fail("rope scaling gives an absurd context length");
  config.max_position_embeddings = static_cast<int>(longest);
  return {};
}

}  // namespace tangram
