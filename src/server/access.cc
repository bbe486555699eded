#include "server/access.h"

#include <algorithm>
#include <cctype>

namespace tangram::server {
namespace {

// Depends on the length of `given` alone, which its sender knows.
bool SameKey(std::string_view given, std::string_view key) {
  if (key.empty()) return false;
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    difference |=
        static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(key[i % key.size()]);
  }
  return difference == 0;
}

bool IsBearer(std::string_view scheme) {
  constexpr std::string_view kBearer = "bearer ";
  return scheme.size() == kBearer.size() && std::ranges::equal(scheme, kBearer, [](char a, char b) {
           return std::tolower(static_cast<unsigned char>(a)) == b;
         });
}

}  // namespace

bool HasKey(const HttpRequest& request, const std::vector<std::string>& keys) {
  if (keys.empty()) return true;
  const std::string_view header = request.Header("authorization");
  if (header.size() < 7 || !IsBearer(header.substr(0, 7))) return false;
  bool found = false;
  for (const std::string& key : keys) found |= SameKey(header.substr(7), key);
  return found;
}

HttpHeaders CorsHeaders(const HttpRequest& request, const std::vector<std::string>& allowed) {
  const std::string origin(request.Header("origin"));
  if (origin.empty()) return {};
  const bool any = std::ranges::find(allowed, "*") != allowed.end();
  if (!any && std::ranges::find(allowed, origin) == allowed.end()) return {};
  HttpHeaders headers = {{"Access-Control-Allow-Origin", any ? "*" : origin},
                         {"Access-Control-Expose-Headers", "X-Request-Id"}};
  if (!any) headers.emplace_back("Vary", "Origin");
  if (request.method == "OPTIONS") {
    const std::string asked(request.Header("access-control-request-headers"));
    headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    headers.emplace_back("Access-Control-Allow-Headers", asked.empty() ? "*" : asked);
    headers.emplace_back("Access-Control-Max-Age", "600");
  }
  return headers;
}

std::string ForLog(std::string_view text, size_t max_length) {
  std::string out(text.substr(0, max_length));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > max_length) out += "...";
  return out;
}

}  // namespace tangram::server
