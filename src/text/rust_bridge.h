#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/rust_abi.h"

// What tokenizer.cc and chat_template.cc share in calling src/text/rust.
namespace tangram {

inline trs_slice SliceOf(std::string_view text) { return {text.data(), text.size()}; }

inline trs_sink SinkTo(std::string* target) {
  return {[](void* out, const char* data, size_t size) {
            static_cast<std::string*>(out)->append(data, size);
          },
          target};
}

// Appends the bytes of whole 32-bit integers.
inline trs_sink SinkTo(std::vector<int32_t>* target) {
  return {[](void* out, const char* data, size_t size) {
            auto* ids = static_cast<std::vector<int32_t>*>(out);
            const size_t old = ids->size();
            ids->resize(old + size / sizeof(int32_t));
            if (size > 0) std::memcpy(ids->data() + old, data, size);
          },
          target};
}

// The Status of a return code: an input's fault is `kind`.
inline Status StatusOf(int32_t code, std::string message, ErrorKind kind) {
  if (code == 0) return {};
  return MakeError(code == 1 ? kind : ErrorKind::kInternal, std::move(message));
}

}  // namespace tangram
