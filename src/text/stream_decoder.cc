#include "text/stream_decoder.h"

#include <algorithm>
#include <utility>

namespace tangram {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Vocabularies with byte fallback have tokens "<0x0A>".
bool IsFallbackByte(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
}

}  // namespace

TokenStream::TokenStream(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special_tokens)
    : tokenizer_(std::move(tokenizer)), skip_special_tokens_(skip_special_tokens) {}

std::string TokenStream::Push(int32_t id) {
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return {};
  return tokenizer_->byte_level() ? utf8_.Push(tokenizer_->TokenBytes(id)) : PushWindow(id);
}

std::string TokenStream::PushWindow(int32_t id) {
  const std::string token = tokenizer_->TokenString(id);
  if (token.empty()) return {};
  window_.push_back(id);
  // A run of byte tokens is one text or, if any of it is wrong, all U+FFFD: wait for its end.
  if (IsFallbackByte(token)) return {};
  const std::string text = tokenizer_->Decode(window_, skip_special_tokens_);
  if (text.size() <= shown_.size() || text.ends_with(kReplacement)) return {};
  std::string piece = text.substr(shown_.size());
  window_.erase(window_.begin(), window_.begin() + static_cast<ptrdiff_t>(shown_tokens_));
  shown_tokens_ = window_.size();
  shown_ = tokenizer_->Decode(window_, skip_special_tokens_);
  return piece;
}

std::string TokenStream::Finish() {
  if (tokenizer_->byte_level()) return utf8_.Finish();
  const std::string text = tokenizer_->Decode(window_, skip_special_tokens_);
  return text.size() > shown_.size() ? text.substr(shown_.size()) : std::string();
}

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, StreamOptions options)
    : tokens_(std::move(tokenizer), options.skip_special_tokens), options_(std::move(options)) {
  std::erase(options_.stop, "");
}

std::string StreamDecoder::Push(int32_t id) {
  if (stop_index_) return {};
  ++count_;
  return Release(tokens_.Push(id));
}

std::string StreamDecoder::Finish() {
  if (stop_index_) return {};
  std::string text = Release(tokens_.Finish());
  if (!stop_index_) text += std::string_view(pending_).substr(released_);
  pending_.clear();
  return text;
}

std::string StreamDecoder::Release(std::string_view text) {
  const size_t searched = pending_.size();
  pending_ += text;
  const size_t end = count_ > options_.min_tokens ? FindStop(searched) : std::string::npos;
  if (stop_index_) return pending_.substr(released_, end - released_);

  const size_t held = options_.include_stop ? 0 : HeldBack();
  std::string piece = pending_.substr(released_, pending_.size() - held - released_);
  // A stop string that belongs to the text may begin in what is released already.
  size_t kept = held;
  if (options_.include_stop) {
    for (const std::string& stop : options_.stop) kept = std::max(kept, stop.size() - 1);
    kept = std::min(kept, pending_.size());
  }
  pending_.erase(0, pending_.size() - kept);
  released_ = kept - held;
  return piece;
}

// Sets stop_index_ if a stop string ends beyond the first `searched` bytes of pending_, and
// returns where the text then ends.
size_t StreamDecoder::FindStop(size_t searched) {
  size_t first = std::string::npos;
  for (size_t i = 0; i < options_.stop.size(); ++i) {
    const std::string& stop = options_.stop[i];
    const size_t from = searched + 1 > stop.size() ? searched + 1 - stop.size() : 0;
    const size_t at = pending_.find(stop, from);
    if (at < first) {
      first = at;
      stop_index_ = i;
    }
  }
  if (!stop_index_ || !options_.include_stop) return first;
  return first + options_.stop[*stop_index_].size();
}

// Bytes at the end of pending_ that may be the beginning of a stop string.
size_t StreamDecoder::HeldBack() const {
  size_t held = 0;
  for (const std::string& stop : options_.stop) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  return held;
}

}  // namespace tangram
