#include "eval/records.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace tangram::apps::eval {

using nlohmann::json;

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EvalSetting, source, scorer, level, ratio, length, chunk, window,
                                   later)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EvalRecord, setting, task, context, loss, num_scored, scores,
                                   answers, agreement, memory, memory_mean)

std::string ToJson(const EvalRecord& record) {
  // Bytes of an answer that are not UTF-8 are replaced, not thrown over.
  return json(record).dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<std::vector<EvalRecord>> ReadRecords(const std::string& path) {
  std::ifstream file(path);
  if (!file) return MakeError(ErrorKind::kInvalidArgument, path + ": no such file", "merge");
  std::vector<EvalRecord> records;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    try {
      records.push_back(json::parse(line).get<EvalRecord>());
    } catch (const json::exception& e) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("{}:{}: not a record of tangram eval ({})", path, number, e.what()), "merge");
    }
  }
  return records;
}

}  // namespace tangram::apps::eval
