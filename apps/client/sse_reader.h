#pragma once

#include <string>
#include <string_view>

namespace tangram::apps::client {

// Cuts a text/event-stream into the payloads of its `data:` lines, however the bytes arrive.
// Comments and other fields are left out.
class SseReader {
 public:
  // Calls on_data(std::string_view) for each payload that is complete now.
  template <class OnData>
  void Push(std::string_view bytes, OnData on_data) {
    buffer_ += bytes;
    size_t start = 0;
    for (size_t end; (end = buffer_.find('\n', start)) != std::string::npos; start = end + 1) {
      std::string_view line(buffer_.data() + start, end - start);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.starts_with("data:")) continue;
      line.remove_prefix(line.starts_with("data: ") ? 6 : 5);
      on_data(line);
    }
    buffer_.erase(0, start);
  }

 private:
  std::string buffer_;
};

}  // namespace tangram::apps::client
