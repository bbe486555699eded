#include "text/tokenizer.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "text/hf_files.h"
#include "text/rust_bridge.h"

namespace tangram {
namespace {

// GGUF files name one EOS only, where the published generation configs list several. These
// control tokens end a turn in every vocabulary that has them; llama.cpp stops at them too.
constexpr std::array<const char*, 6> kTurnEnds = {"<|eot_id|>",      "<|eom_id|>",    "<|im_end|>",
                                                  "<|end_of_text|>", "<|endoftext|>", "<|end|>"};

constexpr std::array<std::string_view, 4> kPreTokenizers = {"gpt-2", "llama-bpe", "qwen2",
                                                            "smollm"};

constexpr int32_t kNormalToken = 1;  // of ggml.token_type

void AddOnce(std::optional<int32_t> id, std::vector<int32_t>* ids) {
  if (id && std::find(ids->begin(), ids->end(), *id) == ids->end()) ids->push_back(*id);
}

int64_t IdOrNone(bool wanted, std::optional<int32_t> id) { return wanted && id ? *id : -1; }

Status CheckGguf(const GgufTokenizer& source) {
  if (source.model != "gpt2") {
    return MakeError(ErrorKind::kUnsupported,
                     "tokenizer.ggml.model \"" + source.model +
                         "\" is not served: only byte-level BPE (gpt2) is");
  }
  if (std::find(kPreTokenizers.begin(), kPreTokenizers.end(), source.pre) == kPreTokenizers.end()) {
    return MakeError(ErrorKind::kUnsupported,
                     "tokenizer.ggml.pre \"" + source.pre +
                         "\" is not served: gpt-2, llama-bpe, qwen2 and smollm are");
  }
  if (source.tokens.empty())
    return MakeError(ErrorKind::kUnsupported, "tokenizer.ggml.tokens is empty");
  if (!source.token_types.empty() && source.token_types.size() != source.tokens.size()) {
    return MakeError(ErrorKind::kUnsupported,
                     "tokenizer.ggml.token_type and tokenizer.ggml.tokens differ in length");
  }
  return {};
}

std::vector<trs_slice> SlicesOf(const std::vector<std::string>& texts) {
  std::vector<trs_slice> slices;
  slices.reserve(texts.size());
  for (const std::string& text : texts) slices.push_back(SliceOf(text));
  return slices;
}

}  // namespace

void Tokenizer::Free::operator()(TrsTokenizer* handle) const { trs_tokenizer_free(handle); }

Tokenizer::Tokenizer(TrsTokenizer* handle)
    : handle_(handle),
      vocab_size_(static_cast<int32_t>(trs_vocab_size(handle))),
      byte_level_(trs_is_byte_level(handle)) {
  trs_special_ids(handle, SinkTo(&special_ids_));
  std::sort(special_ids_.begin(), special_ids_.end());
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromFolder(
    const std::filesystem::path& folder) {
  TANGRAM_ASSIGN_OR_RETURN(const std::string json, ReadFile(folder / "tokenizer.json"));
  TANGRAM_ASSIGN_OR_RETURN(const auto config, ReadTokenizerConfig(folder));
  TrsTokenizer* handle = nullptr;
  std::string error;
  const int32_t code =
      trs_tokenizer_from_json(SliceOf(json), SliceOf(config.dump()), &handle, SinkTo(&error));
  TANGRAM_RETURN_IF_ERROR(StatusOf(code, folder.string() + ": " + error, ErrorKind::kUnsupported));
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer(handle));
  tokenizer->bos_id_ = tokenizer->TokenToId(SpecialTokenText(config, "bos_token"));
  AddOnce(tokenizer->TokenToId(SpecialTokenText(config, "eos_token")), &tokenizer->eos_ids_);
  return tokenizer;
}

Result<std::shared_ptr<const Tokenizer>> Tokenizer::FromGguf(const GgufTokenizer& source) {
  TANGRAM_RETURN_IF_ERROR(CheckGguf(source));
  const std::vector<trs_slice> tokens = SlicesOf(source.tokens);
  const std::vector<trs_slice> merges = SlicesOf(source.merges);
  std::vector<int32_t> types = source.token_types;
  types.resize(tokens.size(), kNormalToken);
  // Llama 3's files may leave the flag out: its published tokenizer always begins with a BOS.
  const bool add_bos = source.add_bos.value_or(source.pre == "llama-bpe");
  const trs_gguf raw{.pre = SliceOf(source.pre),
                     .tokens = tokens.data(),
                     .token_types = types.data(),
                     .token_count = tokens.size(),
                     .merges = merges.data(),
                     .merge_count = merges.size(),
                     .prefix_id = IdOrNone(add_bos, source.bos_id),
                     .suffix_id = IdOrNone(source.add_eos.value_or(false), source.eos_id)};
  TrsTokenizer* handle = nullptr;
  std::string error;
  const int32_t code = trs_tokenizer_from_gguf(&raw, &handle, SinkTo(&error));
  TANGRAM_RETURN_IF_ERROR(
      StatusOf(code, "the GGUF's tokenizer: " + error, ErrorKind::kUnsupported));
  std::shared_ptr<Tokenizer> tokenizer(new Tokenizer(handle));
  tokenizer->bos_id_ = source.bos_id;
  AddOnce(source.eos_id, &tokenizer->eos_ids_);
  AddOnce(source.eot_id, &tokenizer->eos_ids_);
  for (const char* text : kTurnEnds) {
    const std::optional<int32_t> id = tokenizer->TokenToId(text);
    if (id && tokenizer->IsSpecial(*id)) AddOnce(id, &tokenizer->eos_ids_);
  }
  return tokenizer;
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                               bool add_special_tokens) const {
  std::vector<int32_t> ids;
  std::string error;
  const int32_t code =
      trs_encode(handle_.get(), SliceOf(text), add_special_tokens, SinkTo(&ids), SinkTo(&error));
  TANGRAM_RETURN_IF_ERROR(StatusOf(code, "the text is " + error, ErrorKind::kInvalidArgument));
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string text, error;
  const auto* raw = reinterpret_cast<const uint32_t*>(ids.data());
  const int32_t code = trs_decode(handle_.get(), raw, ids.size(), skip_special_tokens,
                                  SinkTo(&text), SinkTo(&error));
  // The decoders of tokenizer.json return errors for none of the ids.
  TANGRAM_CHECK(code == 0, "decoding {} ids: {}", ids.size(), error);
  return text;
}

std::string Tokenizer::TokenString(int32_t id) const {
  std::string text, error;
  const int32_t code =
      trs_token_string(handle_.get(), static_cast<uint32_t>(id), SinkTo(&text), SinkTo(&error));
  TANGRAM_CHECK(code == 0, "token {}: {}", id, error);
  return text;
}

std::string Tokenizer::TokenBytes(int32_t id) const {
  std::string bytes, error;
  const int32_t code =
      trs_token_bytes(handle_.get(), static_cast<uint32_t>(id), SinkTo(&bytes), SinkTo(&error));
  TANGRAM_CHECK(code == 0, "token {}: {}", id, error);
  return bytes;
}

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  const int64_t id = trs_token_id(handle_.get(), SliceOf(token));
  return id < 0 ? std::nullopt : std::optional<int32_t>(static_cast<int32_t>(id));
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return std::binary_search(special_ids_.begin(), special_ids_.end(), id);
}

}  // namespace tangram

// ThreadSanitizer sees what the Rust library reads and writes through memcpy and malloc, but not
// the locks that it holds meanwhile (the BPE cache's): they are not compiled with it. Called by the
// sanitizer's runtime, if there is one.
extern "C" const char* __tsan_default_suppressions() {
  return "race:tokenizers::\nrace:minijinja::\n";
}
