#include "model/decoder_weights.h"

#include <fmt/format.h>

#include <cstring>
#include <string>

#include "model/rope.h"
#include "tensor/float16.h"

namespace tangram {

const TensorNaming kHfNaming{
    .embedding = "model.embed_tokens",
    .final_norm = "model.norm",
    .lm_head = "lm_head",
    .layer_prefix = "model.layers.",
    .attn_norm = "input_layernorm",
    .q = "self_attn.q_proj",
    .k = "self_attn.k_proj",
    .v = "self_attn.v_proj",
    .q_norm = "self_attn.q_norm",
    .k_norm = "self_attn.k_norm",
    .o = "self_attn.o_proj",
    .mlp_norm = "post_attention_layernorm",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
    .rope_divisors = "",
};

const TensorNaming kGgufNaming{
    .embedding = "token_embd",
    .final_norm = "output_norm",
    .lm_head = "output",
    .layer_prefix = "blk.",
    .attn_norm = "attn_norm",
    .q = "attn_q",
    .k = "attn_k",
    .v = "attn_v",
    .q_norm = "attn_q_norm",
    .k_norm = "attn_k_norm",
    .o = "attn_output",
    .mlp_norm = "ffn_norm",
    .gate = "ffn_gate",
    .up = "ffn_up",
    .down = "ffn_down",
    .rope_divisors = "rope_freqs",
};

namespace {

// One of the matrices that a Linear is made of.
struct Source {
  std::string name;  // without ".weight"
  int64_t rows;
  bool bias = false;
};

class Loader {
 public:
  Loader(const ModelConfig& config, const TensorNaming& naming, WeightSource& source,
         ops::Backend& backend)
      : config_(config), naming_(naming), source_(source), backend_(backend) {}

  Result<DecoderWeights> Run(int served_length) {
    const Shape table{config_.vocab_size, config_.hidden_size};
    TANGRAM_ASSIGN_OR_RETURN(Weight embedding, source_.Take(Named(naming_.embedding), table));
    TANGRAM_ASSIGN_OR_RETURN(out_.embedding, Upload(embedding));
    out_.lm_head = out_.embedding;
    const std::string head = Named(naming_.lm_head);
    if (!config_.tie_word_embeddings) {
      TANGRAM_ASSIGN_OR_RETURN(const Weight weight, source_.Take(head, table));
      TANGRAM_ASSIGN_OR_RETURN(out_.lm_head, Upload(weight));
    } else if (source_.Has(head)) {
      // Some exporters store the tied matrix twice; the config's word is taken, as transformers
      // does.
      TANGRAM_RETURN_IF_ERROR(source_.Take(head, table));
    }
    for (int i = 0; i < config_.num_layers; ++i) {
      TANGRAM_ASSIGN_OR_RETURN(LayerWeights layer, Layer(i));
      out_.layers.push_back(std::move(layer));
    }
    TANGRAM_ASSIGN_OR_RETURN(out_.final_norm,
                             Vector(Named(naming_.final_norm), config_.hidden_size));
    TANGRAM_RETURN_IF_ERROR(Rotary(served_length));
    TANGRAM_RETURN_IF_ERROR(source_.CheckAllTaken());
    return std::move(out_);
  }

 private:
  static std::string Named(std::string_view part) { return std::string(part) + ".weight"; }
  std::string InLayer(int layer, std::string_view part) const {
    return fmt::format("{}{}.{}", naming_.layer_prefix, layer, part);
  }

  static tl::unexpected<Error> NoMemory(size_t bytes) {
    return MakeError(
        ErrorKind::kOutOfMemory,
        fmt::format("not enough memory to load the weights: one of {} MiB does not fit",
                    (bytes + (1 << 20) - 1) >> 20));
  }

  Result<TensorView> Upload(const Weight& weight) {
    const TensorView view = backend_.Upload(weight.view);
    if (view.empty()) return NoMemory(weight.view.bytes());
    if (view.data == weight.view.data) out_.owners.push_back(weight.owner);
    out_.bytes += view.bytes();
    return view;
  }

  static Result<Buffer> Allocate(size_t bytes) {
    Buffer memory = Buffer::AllocateHost(bytes);
    if (memory.data() != nullptr) return memory;
    return NoMemory(bytes);
  }

  // A tensor [count] widened to f32 at `out`.
  Status Widen(const std::string& name, int64_t count, float* out) {
    TANGRAM_ASSIGN_OR_RETURN(const Weight weight, source_.Take(name, {count}));
    const auto* bits = weight.view.as<uint16_t>();
    switch (weight.view.dtype) {
      case DType::kF32:
        std::memcpy(out, weight.view.data, weight.view.bytes());
        return {};
      case DType::kF16:
        std::transform(bits, bits + count, out, HalfToFloat);
        return {};
      case DType::kBF16:
        std::transform(bits, bits + count, out, BFloatToFloat);
        return {};
      default:
        return MakeError(ErrorKind::kUnsupported,
                         fmt::format("tensor '{}' is stored as {}; a vector must not be quantised",
                                     name, DTypeName(weight.view.dtype)));
    }
  }

  Result<TensorView> Vector(const std::string& name, int64_t count) {
    TANGRAM_ASSIGN_OR_RETURN(Buffer memory, Allocate(count * sizeof(float)));
    TANGRAM_RETURN_IF_ERROR(Widen(name, count, static_cast<float*>(memory.data())));
    const TensorView view = memory.View(DType::kF32, {count});
    return Upload({view, std::move(memory)});
  }

  // One part of a Linear from weights of one type.
  Result<TensorView> UploadJoined(const std::vector<Weight>& weights, int64_t columns) {
    int64_t rows = 0;
    bool adjacent = true;  // in the file, one behind the other
    std::vector<TensorView> views;
    for (const Weight& weight : weights) {
      adjacent =
          adjacent && (views.empty() || views.back().as<std::byte>() + views.back().bytes() ==
                                            weight.view.as<std::byte>());
      rows += weight.view.shape[0];
      views.push_back(weight.view);
    }
    if (adjacent) {
      const TensorView all{views.front().data, views.front().dtype, {rows, columns}};
      return Upload({all, weights.front().owner});
    }
    const TensorView view = backend_.UploadRows(views);
    if (view.empty()) return NoMemory(BytesFor(views.front().dtype, rows * columns));
    out_.bytes += view.bytes();
    return view;
  }

  Result<TensorView> JoinBiases(std::span<const Source> sources) {
    int64_t rows = 0;
    for (const Source& source : sources) rows += source.rows;
    TANGRAM_ASSIGN_OR_RETURN(Buffer memory, Allocate(rows * sizeof(float)));
    auto* at = static_cast<float*>(memory.data());
    for (const Source& source : sources) {
      TANGRAM_RETURN_IF_ERROR(Widen(source.name + ".bias", source.rows, at));
      at += source.rows;
    }
    const TensorView view = memory.View(DType::kF32, {rows});
    return Upload({view, std::move(memory)});
  }

  Result<Linear> LoadLinear(std::span<const Source> sources, int64_t columns) {
    Linear linear;
    for (size_t i = 0; i < sources.size();) {
      const size_t begin = i;
      std::vector<Weight> same;  // consecutive ones of one type
      for (; i < sources.size(); ++i) {
        TANGRAM_ASSIGN_OR_RETURN(Weight weight,
                                 source_.Take(Named(sources[i].name), {sources[i].rows, columns}));
        if (!same.empty() && same.front().view.dtype != weight.view.dtype) break;
        same.push_back(std::move(weight));
      }
      Linear::Part& part = linear.parts.emplace_back();
      TANGRAM_ASSIGN_OR_RETURN(part.weight, UploadJoined(same, columns));
      part.first = linear.out_features;
      if (sources[begin].bias) {
        TANGRAM_ASSIGN_OR_RETURN(part.bias, JoinBiases(sources.subspan(begin, i - begin)));
      }
      linear.out_features += part.weight.shape[0];
    }
    return linear;
  }

  Result<LayerWeights> Layer(int i) {
    const int64_t width = config_.hidden_size, d = config_.head_dim;
    const int64_t q_rows = config_.num_attention_heads * d;
    const int64_t kv_rows = config_.num_key_value_heads * d, f = config_.intermediate_size;
    const bool bias = config_.attention_bias;
    const auto name = [&](std::string_view part) { return InLayer(i, part); };
    const Source qkv[] = {{name(naming_.q), q_rows, bias},
                          {name(naming_.k), kv_rows, bias},
                          {name(naming_.v), kv_rows, bias}};
    const Source o[] = {{name(naming_.o), width}};
    const Source gate_up[] = {{name(naming_.gate), f}, {name(naming_.up), f}};
    const Source down[] = {{name(naming_.down), width}};
    LayerWeights layer;
    TANGRAM_ASSIGN_OR_RETURN(layer.attn_norm, Vector(Named(name(naming_.attn_norm)), width));
    TANGRAM_ASSIGN_OR_RETURN(layer.qkv, LoadLinear(qkv, width));
    if (config_.qk_norm) {
      TANGRAM_ASSIGN_OR_RETURN(layer.q_norm, Vector(Named(name(naming_.q_norm)), d));
      TANGRAM_ASSIGN_OR_RETURN(layer.k_norm, Vector(Named(name(naming_.k_norm)), d));
    }
    TANGRAM_ASSIGN_OR_RETURN(layer.o, LoadLinear(o, q_rows));
    TANGRAM_ASSIGN_OR_RETURN(layer.mlp_norm, Vector(Named(name(naming_.mlp_norm)), width));
    TANGRAM_ASSIGN_OR_RETURN(layer.gate_up, LoadLinear(gate_up, width));
    TANGRAM_ASSIGN_OR_RETURN(layer.down, LoadLinear(down, f));
    return layer;
  }

  Status Rotary(int served_length) {
    const int half = config_.head_dim / 2;
    std::vector<float> divisors;
    const std::string name = Named(naming_.rope_divisors);
    if (!naming_.rope_divisors.empty() && source_.Has(name)) {
      divisors.resize(half);
      TANGRAM_RETURN_IF_ERROR(Widen(name, half, divisors.data()));
    }
    const auto table = MakeRotaryTable(config_.rope, config_.head_dim, served_length, divisors);
    TANGRAM_ASSIGN_OR_RETURN(Buffer memory, Allocate(half * sizeof(float)));
    std::memcpy(memory.data(), table.inv_freq.data(), half * sizeof(float));
    const TensorView view = memory.View(DType::kF32, {half});
    TANGRAM_ASSIGN_OR_RETURN(out_.inv_freq, Upload({view, std::move(memory)}));
    out_.rope_scale = table.scale;
    return {};
  }

  const ModelConfig& config_;
  const TensorNaming& naming_;
  WeightSource& source_;
  ops::Backend& backend_;
  DecoderWeights out_;
};

}  // namespace

Result<DecoderWeights> LoadDecoderWeights(const ModelConfig& config, const TensorNaming& naming,
                                          int served_length, WeightSource& source,
                                          ops::Backend& backend) {
  TANGRAM_ASSIGN_OR_RETURN(DecoderWeights weights,
                           Loader(config, naming, source, backend).Run(served_length));
  weights.fingerprint = source.fingerprint();
  return weights;
}

}  // namespace tangram
