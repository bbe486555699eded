#include "serve_options.h"

namespace tangram::apps {
namespace {

using Kind = Options::Option::Kind;

void DeclareApi(Options& options, server::ServerConfig& server, ServeConfig& serve) {
  options.Group("API");
  options.Add("host", &server.host, "address to listen on; empty: all").Variable("VLLM_HOST_IP");
  options.Add("port", &server.port, "TCP port; 0: any free one").Alias("-p");
  options.Add("root-path", &server.root_path, "prefix that a proxy adds to every path");
  options.Add("served-model-name", &serve.served_model_names,
              "names of the model in requests; replies carry the first");
  options.Add("api-key", &server.api_keys, "keys; every request must send one of them")
      .Secret()
      .Variable("VLLM_API_KEY");
  options
      .Add("admin-api-key", &server.admin_api_key,
           "key of operators, for POST /reset_prefix_cache; empty: refused")
      .Secret()
      .Variable("TANGRAM_ADMIN_API_KEY");
  options.Add("allowed-origins", &server.allowed_origins,
              "browser origins that may call the API (CORS)");
  options.Add("trust-request-chat-template", &server.trust_request_chat_template,
              "accept chat templates that are sent in requests");
  options.Add("max-logprobs", &server.max_logprobs,
              "most logprobs that a request may ask for; -1: any number");
  options.Add("enable-force-include-usage", &server.force_include_usage,
              "end every stream with usage");
  options.Add("enable-server-load-tracking", &server.server_load_tracking,
              "count the requests in flight for /load");
}

void DeclareLimits(Options& options, server::ServerConfig& server) {
  options.Group("Limits (times in seconds, sizes in bytes)");
  options.Add("max-body-size", &server.max_body_size, "largest request body; more is answered 413");
  options.Add("max-header-size", &server.max_header_size,
              "largest request header; more is answered 431");
  options.Add("max-output-buffer", &server.max_output_buffer,
              "most of a stream that may wait for a slow reader, before it is cut off");
  options.Add("max-connections", &server.max_connections, "most open connections");
  options.Add("max-pending-requests", &server.max_pending_requests,
              "most requests that are received but not yet handed to the engine");
  options
      .Add("keep-alive-timeout", &server.keep_alive_timeout, "longest idle time between requests")
      .Alias("--timeout-keep-alive")
      .Variable("VLLM_HTTP_TIMEOUT_KEEP_ALIVE");
  options.Add("header-timeout", &server.header_timeout,
              "longest time from a request's first byte to its body");
  options.Add("body-timeout", &server.body_timeout, "longest time until a request's body is there");
  options.Add("write-timeout", &server.write_timeout,
              "longest time for which a client may read nothing");
  options.Add("shutdown-timeout", &server.shutdown_timeout,
              "time that requests in flight get after SIGTERM");
  options.Add("sse-ping-interval", &server.sse_ping_interval,
              "time between comments that keep a silent stream open; 0: none");
  options.Add("num-text-threads", &server.num_text_threads,
              "threads that parse, render templates and tokenize");
}

void DeclareLogs(Options& options, server::ServerConfig& server, ServeConfig& serve) {
  options.Group("Logs");
  options.Add("log-level", &serve.log_level, "lowest level that is logged")
      .OneOf({"debug", "info", "warning", "error", "DEBUG", "INFO", "WARNING", "ERROR"})
      .Alias("--uvicorn-log-level")
      .Variable("VLLM_LOGGING_LEVEL");
  options.Add("enable-log-requests", &server.log_requests, "log prompts and parameters");
  options.Add("max-log-len", &server.max_log_len, "characters of a prompt in the log; -1: all");
  options.Add("log-stats", &server.log_stats, "log throughput and queues regularly")
      .Alias("--disable-log-stats", "--no-log-stats");
  options.Add("log-stats-interval", &server.log_stats_interval, "seconds between these lines")
      .Variable("VLLM_LOG_STATS_INTERVAL");
  options.Add("access-log", &server.access_log, "log one line for each request")
      .Alias("--disable-uvicorn-access-log", "--no-access-log");
}

}  // namespace

void DeclareServerOptions(Options& options, server::ServerConfig& server, ServeConfig& serve) {
  DeclareApi(options, server, serve);
  DeclareLimits(options, server);
  DeclareLogs(options, server, serve);
}

void DeclareForeignServerOptions(Options& options) {
  options.Accept("enable-request-id-headers", Kind::kFlag, "replies always carry X-Request-Id");
  options.Accept("enable-prompt-tokens-details", Kind::kFlag, "usage always includes them");
  options.Accept("api-server-count", Kind::kValue, "one process has threads for all connections");
  for (const char* name : {"ssl-keyfile", "ssl-certfile", "ssl-ca-certs"}) {
    options.Refuse(name, Kind::kValue, "", "TLS is not supported: put a proxy in front");
  }
  options.Refuse("uds", Kind::kValue, "", "only TCP is supported");
  options.Refuse("enable-auto-tool-choice", Kind::kFlag, "false", "tools are not served yet");
  options.Refuse("tool-call-parser", Kind::kValue, "", "tools are not served yet");
  options.Refuse("reasoning-parser", Kind::kValue, "", "reasoning is not parsed yet");
  options.Refuse("otlp-traces-endpoint", Kind::kValue, "", "traces are not exported; see /metrics");
  options.Refuse("kv-events-config", Kind::kValue, "", "cache events are not published");
  options.Refuse("stream-interval", Kind::kValue, "1",
                 "every token is sent as soon as it is generated");
  options.Refuse("logprobs-mode", Kind::kValue, "raw_logprobs", "only raw_logprobs are computed");
  options.Refuse("max-num-queued-tokens", Kind::kValue, "",
                 "the queue is bounded in requests: --max-queued-requests");
  options.Accept("multi-turn", Kind::kFlag,
                 "the prefix cache finds a conversation's earlier turns by itself");
}

}  // namespace tangram::apps
