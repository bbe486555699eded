#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace tangram {

// Tokens to text, one at a time: the pieces end to end are Tokenizer::Decode of all the ids.
class TokenStream {
 public:
  TokenStream(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens);

  // The text that is certain now: never a part of a character.
  std::string Push(int32_t id);
  std::string Finish();

 private:
  std::string PushWindow(int32_t id);

  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_tokens_;
  Utf8Reader utf8_;  // byte-level vocabularies need no more

  // The others' decoders look at their neighbours (a leading space, runs of byte tokens): tokens
  // are decoded together with those of the last piece.
  std::vector<int32_t> window_;
  size_t shown_tokens_ = 0;  // of window_, those of the last piece
  std::string shown_;        // their text
};

struct StreamOptions {
  std::vector<std::string> stop;  // stop strings; empty ones are ignored
  bool include_stop = false;      // whether the stop string belongs to the text
  bool skip_special_tokens = true;
  int min_tokens = 0;  // a stop string does not count if it ends within so many tokens
};

// The text of one answer, as it may be sent. Text that may be the beginning of a stop string is
// held back until that is decided, unless the stop string belongs to the text. Push only tokens
// that belong to the answer: an EOS or a stop token that is not to be shown does not.
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, StreamOptions options);

  // The new text, up to the stop string. Once stopped, nothing more comes.
  std::string Push(int32_t id);

  // The answer ended otherwise: what was held back. It may hold a stop string too.
  std::string Finish();

  // The stop string that ended the text, null if none did. Where several match, the one that
  // begins first does; at one place, the first in the list.
  const std::string* stopped_by() const {
    return stop_index_ ? &options_.stop[*stop_index_] : nullptr;
  }

 private:
  std::string Release(std::string_view text);
  size_t FindStop(size_t searched);
  size_t HeldBack() const;

  TokenStream tokens_;
  StreamOptions options_;
  int count_ = 0;        // tokens pushed
  std::string pending_;  // what a stop string may yet begin in
  size_t released_ = 0;  // bytes of pending_; 0 unless include_stop
  std::optional<size_t> stop_index_;
};

}  // namespace tangram
