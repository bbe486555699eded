#pragma once

#include <string>
#include <vector>

#include "base/options.h"
#include "server/server_config.h"

namespace tangram::apps {

// What `tangram serve` itself needs beside the engine's and the server's configs.
struct ServeConfig {
  std::vector<std::string> served_model_names;  // empty: the model's path
  std::string log_level = "info";
};

// The server's options: one for each field of both configs.
void DeclareServerOptions(Options& options, server::ServerConfig& server, ServeConfig& serve);

// Server flags of vLLM that change nothing here, or whose place is in a later version.
void DeclareForeignServerOptions(Options& options);

}  // namespace tangram::apps
