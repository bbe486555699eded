#pragma once

// The C interface of src/text/rust, used through rust_bridge.h by src/text only. Functions with an
// `error` sink return 0, or a code and a message for people written to it: 1, the input is at
// fault; 2, the library broke (a Rust panic, caught). Handles may be used from any threads at once
// until freed.

#include <cstddef>
#include <cstdint>

extern "C" {

struct trs_slice {
  const char* data;
  size_t size;
};

// `write` is called with bytes that it must copy at once; it may be called more than once.
struct trs_sink {
  void (*write)(void* target, const char* data, size_t size);
  void* target;
};

struct trs_gguf {
  trs_slice pre;
  const trs_slice* tokens;     // [token_count]
  const int32_t* token_types;  // [token_count]
  size_t token_count;
  const trs_slice* merges;  // [merge_count], "left right"
  size_t merge_count;
  int64_t prefix_id;  // put before every text when special tokens are added; -1: nothing
  int64_t suffix_id;
};

struct TrsTokenizer;
struct TrsTemplate;

// `config`: tokenizer_config.json, or empty.
int32_t trs_tokenizer_from_json(trs_slice json, trs_slice config, TrsTokenizer** out,
                                trs_sink error);
int32_t trs_tokenizer_from_gguf(const trs_gguf* source, TrsTokenizer** out, trs_sink error);
void trs_tokenizer_free(TrsTokenizer* tokenizer);
// Writes the ids as uint32_t.
int32_t trs_encode(const TrsTokenizer* tokenizer, trs_slice text, bool add_special_tokens,
                   trs_sink ids, trs_sink error);
int32_t trs_decode(const TrsTokenizer* tokenizer, const uint32_t* ids, size_t count,
                   bool skip_special_tokens, trs_sink text, trs_sink error);
int32_t trs_token_string(const TrsTokenizer* tokenizer, uint32_t id, trs_sink text, trs_sink error);
int32_t trs_token_bytes(const TrsTokenizer* tokenizer, uint32_t id, trs_sink bytes, trs_sink error);
void trs_special_ids(const TrsTokenizer* tokenizer, trs_sink ids);
int64_t trs_token_id(const TrsTokenizer* tokenizer, trs_slice token);
size_t trs_vocab_size(const TrsTokenizer* tokenizer);
bool trs_is_byte_level(const TrsTokenizer* tokenizer);

int32_t trs_template_compile(trs_slice source, TrsTemplate** out, trs_sink error);
void trs_template_free(TrsTemplate* compiled);
// `variables`: a JSON object.
int32_t trs_template_render(const TrsTemplate* compiled, trs_slice variables, trs_sink text,
                            trs_sink error);

}  // extern "C"
