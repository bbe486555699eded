#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace tangram::apps::client {

// Where a server is: http://host:port/prefix. `prefix` has no slash at its end.
struct Url {
  std::string host, port = "80", prefix;
};

// kInvalidArgument for anything but http, or a port that is none. "host:port" will do. A trailing
// "/v1" is dropped: clients of OpenAI servers are often configured with it, and paths have it.
Result<Url> ParseUrl(std::string_view text);

}  // namespace tangram::apps::client
