#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/http_server.h"

namespace tangram::server {

// Whether the request carries one of the keys as `Authorization: Bearer KEY`. Takes the same time
// wherever a wrong key differs. No keys: everybody may.
bool HasKey(const HttpRequest& request, const std::vector<std::string>& keys);

// The CORS headers of a reply to the request; none if it has no Origin, or not an allowed one.
HttpHeaders CorsHeaders(const HttpRequest& request, const std::vector<std::string>& allowed);

// Shortened and without control characters, for a line of the log.
std::string ForLog(std::string_view text, size_t max_length);

}  // namespace tangram::server
