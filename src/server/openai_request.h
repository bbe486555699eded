#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "sched/request.h"
#include "server/server_config.h"

namespace tangram::server {

// What the bodies of /v1/chat/completions, /v1/completions and /tokenize can say, checked and in
// Tangram's terms.
struct OpenAiRequest {
  // A prompt is text or token ids.
  struct Prompt {
    std::string text;
    std::vector<TokenId> ids;
    bool is_ids = false;
  };

  bool chat = false;
  std::string model;
  std::string request_id;

  std::vector<Prompt> prompts;     // completions: at least one
  bool add_special_tokens = true;  // default false for chat

  // Chat: JSON texts for the template.
  std::string messages, tools, documents, template_kwargs;
  std::string chat_template;            // the request's own; empty: the model's
  std::string last_role, last_content;  // of the last message
  bool later_turn = false;              // an assistant's message is among them
  bool add_generation_prompt = true;
  bool continue_final_message = false;

  SamplingParams sampling;
  StopParams stop;                              // max_tokens: see below
  std::optional<int> max_tokens;                // chat without one: the rest of the context
  std::string max_tokens_param = "max_tokens";  // what the client called it
  std::vector<std::string> stop_strings;
  std::vector<std::string> bad_words;  // sampling.bad_words: once they are tokenized
  bool include_stop_string = false;
  bool skip_special_tokens = true;
  std::optional<int> truncate_prompt_tokens;  // keep the last so many; -1: what fits
  bool echo = false;
  int priority = 0;
  std::string cache_salt;
  float compression_ratio = 1.0f;  // the share of the KV cache that is kept

  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool return_token_ids = false;
  bool tokens_as_ids = false;  // logprobs name tokens "token_id:17"

  std::vector<std::string> unknown_fields;
};

// What parsing needs to know of the server and the model.
struct OpenAiLimits {
  const EngineInfo& info;
  const ServerConfig& config;
};

// Errors name the field in `param`.
Result<OpenAiRequest> ParseChatRequest(std::string_view body, const OpenAiLimits& limits);
Result<OpenAiRequest> ParseCompletionRequest(std::string_view body, const OpenAiLimits& limits);

struct TokenizeRequest {
  OpenAiRequest input;  // one prompt, or chat
  bool return_token_strings = false;
};
Result<TokenizeRequest> ParseTokenizeRequest(std::string_view body, const OpenAiLimits& limits);

struct DetokenizeRequest {
  std::string model;
  std::vector<TokenId> tokens;
};
Result<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body, const OpenAiLimits& limits);

}  // namespace tangram::server
