#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct TrsTokenizer;

namespace tangram {

// The tokenizer metadata of a GGUF file (keys "tokenizer.*"), as the file has it.
struct GgufTokenizer {
  std::string model;                              // ggml.model; byte-level BPE ("gpt2") is served
  std::string pre;                                // ggml.pre: gpt-2, llama-bpe, qwen2 or smollm
  std::vector<std::string> tokens;                // ggml.tokens, by id, in the byte-level alphabet
  std::vector<int32_t> token_types;               // ggml.token_type; empty if the file has none
  std::vector<std::string> merges;                // ggml.merges, "left right", best first
  std::optional<int32_t> bos_id, eos_id, eot_id;  // ggml.bos_token_id, ...
  std::optional<bool> add_bos, add_eos;           // ggml.add_bos_token, ...
  std::string chat_template;                      // chat_template, or empty
};

// Text to token ids and back, as the transformers library's fast tokenizers do it. Immutable:
// every method may be called from any threads at once.
class Tokenizer {
 public:
  // Reads tokenizer.json, and tokenizer_config.json and special_tokens_map.json if they are there.
  // A file that is missing is kLoad, one that does not parse kUnsupported.
  static Result<std::shared_ptr<const Tokenizer>> FromFolder(const std::filesystem::path& folder);

  // Unknown kinds of tokenizer, and metadata that does not fit together, are kUnsupported.
  static Result<std::shared_ptr<const Tokenizer>> FromGguf(const GgufTokenizer& source);

  // Special tokens written out in the text become their ids. `add_special_tokens` puts what the
  // model wants around a text (a BOS, say): not for rendered chat templates, which hold it already.
  // Text that is not UTF-8 is kInvalidArgument.
  Result<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens) const;

  // Bytes that are not UTF-8 become U+FFFD; ids without a token add nothing.
  // `clean_up_tokenization_spaces` of old configs is not followed: streams cannot.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // The token as the vocabulary writes it ("Ġthe"), empty for an id without a token.
  std::string TokenString(int32_t id) const;

  // The bytes that the token adds to a text: possibly a part of a character. Empty as above.
  std::string TokenBytes(int32_t id) const;

  std::optional<int32_t> TokenToId(std::string_view token) const;

  // Whether `skip_special_tokens` leaves the token out.
  bool IsSpecial(int32_t id) const;

  // One more than the largest id. A model may have more rows than that: padding, never decoded.
  int32_t vocab_size() const { return vocab_size_; }
  std::optional<int32_t> bos_id() const { return bos_id_; }

  // The tokens that end a text or a turn, as far as the tokenizer's own files say; a folder's
  // generation_config.json may name more. Without duplicates, the EOS token first.
  const std::vector<int32_t>& eos_ids() const { return eos_ids_; }

  // Whether Decode is the tokens' bytes end to end, read as UTF-8.
  bool byte_level() const { return byte_level_; }

 private:
  struct Free {
    void operator()(TrsTokenizer* handle) const;
  };

  explicit Tokenizer(TrsTokenizer* handle);

  std::unique_ptr<TrsTokenizer, Free> handle_;
  std::vector<int32_t> special_ids_;  // sorted
  std::vector<int32_t> eos_ids_;
  std::optional<int32_t> bos_id_;
  int32_t vocab_size_ = 0;
  bool byte_level_ = false;
};

}  // namespace tangram
