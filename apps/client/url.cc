#include "client/url.h"

#include <fmt/format.h>

#include "base/numbers.h"

namespace tangram::apps::client {

Result<Url> ParseUrl(std::string_view text) {
  const auto wrong = [text](std::string_view why) {
    return MakeError(ErrorKind::kInvalidArgument, fmt::format("'{}' {}", text, why), "url");
  };
  std::string_view rest = text;
  if (rest.starts_with("https://")) return wrong("is https, but only http is supported");
  if (rest.starts_with("http://")) rest.remove_prefix(7);
  Url url;
  const size_t slash = rest.find('/');
  std::string_view authority = rest.substr(0, slash);
  if (slash != std::string_view::npos) url.prefix = rest.substr(slash);
  while (url.prefix.ends_with('/')) url.prefix.pop_back();
  if (url.prefix.ends_with("/v1")) url.prefix.resize(url.prefix.size() - 3);

  const size_t bracket = authority.starts_with('[') ? authority.find(']') : 0;  // IPv6
  if (bracket == std::string_view::npos) return wrong("lacks a ]");
  const size_t colon = authority.find(':', bracket);
  if (colon != std::string_view::npos) {
    url.port = authority.substr(colon + 1);
    const auto port = ParseInteger(url.port);
    if (!port || *port < 1 || *port > 65535) return wrong("has no valid port");
  }
  url.host = bracket > 0 ? authority.substr(1, bracket - 1) : authority.substr(0, colon);
  if (url.host.empty()) return wrong("has no host name");
  return url;
}

}  // namespace tangram::apps::client
