#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tangram::server {

// Every field is one option of the command line (apps/serve_options).
struct ServerConfig {
  std::string host;       // empty: every address, IPv6 too where the machine has it
  int port = 8000;        // 0: the system picks one (tests)
  std::string root_path;  // a prefix that a proxy in front adds to every path

  std::vector<std::string> api_keys;                 // empty: everybody may ask
  std::string admin_api_key;                         // of what operators do; empty: nobody may
  std::vector<std::string> allowed_origins = {"*"};  // CORS

  size_t max_body_size = 64u << 20;     // bytes; more is answered 413
  size_t max_header_size = 64u << 10;   // bytes; more is answered 431
  size_t max_output_buffer = 4u << 20;  // bytes that a slow reader may leave unread of a stream
  int max_connections = 8192;
  std::chrono::milliseconds keep_alive_timeout{75'000};  // idle, between requests
  std::chrono::milliseconds header_timeout{10'000};      // from a request's first byte to its body
  std::chrono::milliseconds body_timeout{120'000};
  std::chrono::milliseconds write_timeout{60'000};     // a reader that takes nothing for so long
  std::chrono::milliseconds shutdown_timeout{30'000};  // for requests in flight, after SIGTERM
  std::chrono::milliseconds sse_ping_interval{0};      // 0: no `: ping` comments in streams
  int num_text_threads = 2;                            // that parse, render templates and tokenize
  int max_pending_requests = 1024;                     // received but not yet with the engine

  bool trust_request_chat_template = false;
  int max_logprobs = 20;  // -1: up to the whole vocabulary
  bool force_include_usage = false;
  bool server_load_tracking = false;

  bool log_requests = false;
  int max_log_len = -1;  // characters of a prompt in the log; -1: all
  bool log_stats = true;
  std::chrono::milliseconds log_stats_interval{10'000};
  bool access_log = true;
  bool handle_signals = true;  // SIGINT and SIGTERM drain, a second one ends at once
};

}  // namespace tangram::server
