#pragma once

#include <string>
#include <vector>

#include "sched/request.h"
#include "server/server.h"

namespace tangram::server {

// The bodies of the small endpoints.
std::string VersionJson();
std::string ModelsJson(const ServedModel& model);
std::string ModelJson(const ServedModel& model, const std::string& name);
std::string TokenizeJson(const std::vector<TokenId>& ids, bool with_strings,
                         const ServedModel& model);
std::string DetokenizeJson(const std::vector<TokenId>& ids, const ServedModel& model);

// "%2F" to "/"; what is no escape stays.
std::string PercentDecode(const std::string& text);

}  // namespace tangram::server
