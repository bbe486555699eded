#include "server/openai_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "server/chat_messages.h"
#include "server/json_fields.h"

namespace tangram::server {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
constexpr size_t kMaxPrompts = 4096;
constexpr size_t kMaxSaltBytes = 1024;         // the prefix cache keeps it
constexpr size_t kMaxBadWords = 1000;          // each is looked for at every token
constexpr float kSmallestTemperature = 0.01f;  // below, logits overflow; vLLM clamps there too

// Fields of features that are not served. A value that asks for nothing is accepted.
void RefuseUnserved(JsonFields* fields) {
  constexpr std::string_view kUnserved[] = {
      "structured_outputs", "guided_json",   "guided_regex", "guided_choice", "guided_grammar",
      "prompt_logprobs",    "suffix",        "tools",        "functions",     "function_call",
      "logits_processors",  "prompt_embeds", "audio"};
  for (const std::string_view name : kUnserved) {
    const Json* value = fields->Find(name);
    if (!value || ((value->is_array() || value->is_object()) && value->empty())) continue;
    if (name == "suffix" && *value == "") continue;
    fields->Fail(name, "is not supported by this server");
  }
  const Json* choice = fields->Find("tool_choice");
  if (choice && *choice != "none") {
    fields->Fail("tool_choice", "must be \"none\": tools are not supported by this server");
  }
  const Json* format = fields->Find("response_format");
  if (format && !(format->is_object() && format->value("type", Json()) == "text")) {
    fields->Fail("response_format",
                 "must have the type \"text\": this server does not constrain output");
  }
  bool beam_search = false;
  fields->Read("use_beam_search", &beam_search);
  if (beam_search) fields->Fail("use_beam_search", "is not supported by this server");
  int n = 1, best_of = 1;
  fields->Read("n", &n, 1, kMaxInt);
  if (n > 1) fields->Fail("n", "must be 1: several choices are not supported by this server");
  fields->Read("best_of", &best_of, 1, kMaxInt);
  if (best_of != 1) fields->Fail("best_of", "must equal `n`");
}

void ReadLogitBias(JsonFields* fields, int vocab_size, SamplingParams* sampling) {
  const Json* bias = fields->Find("logit_bias");
  if (!bias) return;
  if (!bias->is_object()) return fields->Fail("logit_bias", "must be an object of token ids");
  for (const auto& [key, value] : bias->items()) {
    int id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size()) {
      return fields->Fail("logit_bias", "has a key that is not a token id");
    }
    if (id < 0 || id >= vocab_size) {
      return fields->Fail("logit_bias",
                          fmt::format("names token id {}, which is out of vocabulary: "
                                      "ids are 0 to {}",
                                      id, vocab_size - 1));
    }
    if (!value.is_number()) return fields->Fail("logit_bias", "must map token ids to numbers");
    const double clamped = std::clamp(value.get<double>(), -100.0, 100.0);
    sampling->logit_bias.emplace_back(id, static_cast<float>(clamped));
  }
}

void ReadSampling(JsonFields* fields, const OpenAiLimits& limits, OpenAiRequest* request) {
  SamplingParams& s = request->sampling;
  s = limits.info.default_sampling;
  fields->Read("temperature", &s.temperature, 0);
  if (!s.greedy()) s.temperature = std::max(s.temperature, kSmallestTemperature);
  fields->Read("top_p", &s.top_p, 0, 1);
  if (s.top_p == 0) fields->Fail("top_p", "must be above 0");
  fields->Read("top_k", &s.top_k, -1, kMaxInt);
  s.top_k = std::max(s.top_k, 0);
  fields->Read("min_p", &s.min_p, 0, 1);
  fields->Read("presence_penalty", &s.presence_penalty, -2, 2);
  fields->Read("frequency_penalty", &s.frequency_penalty, -2, 2);
  fields->Read("repetition_penalty", &s.repetition_penalty, 0);
  if (s.repetition_penalty == 0) fields->Fail("repetition_penalty", "must be above 0");
  std::optional<int64_t> seed;
  fields->Read("seed", &seed);
  if (seed && *seed != -1) s.seed = static_cast<uint64_t>(*seed);
  ReadLogitBias(fields, limits.info.vocab_size, &s);
  if (fields->Find("allowed_token_ids")) {
    fields->Read("allowed_token_ids", &s.allowed_token_ids, 0, limits.info.vocab_size - 1);
    if (s.allowed_token_ids.empty()) fields->Fail("allowed_token_ids", "must not be empty");
  }
  fields->Read("bad_words", &request->bad_words);
  if (request->bad_words.size() > kMaxBadWords) {
    fields->Fail("bad_words", fmt::format("holds more than {} words", kMaxBadWords));
  }
}

void ReadStop(JsonFields* fields, OpenAiRequest* request) {
  StopParams& stop = request->stop;
  fields->Read("stop", &request->stop_strings);
  fields->Read("stop_token_ids", &stop.stop_token_ids, std::numeric_limits<int32_t>::min(),
               kMaxInt);
  fields->Read("ignore_eos", &stop.ignore_eos);
  fields->Read("min_tokens", &stop.min_tokens, 0, kMaxInt);
  fields->Read("include_stop_str_in_output", &request->include_stop_string);
  fields->Read("skip_special_tokens", &request->skip_special_tokens);
  if (request->max_tokens && stop.min_tokens > *request->max_tokens) {
    fields->Fail("min_tokens", fmt::format("must be at most max_tokens ({}), not {}",
                                           *request->max_tokens, stop.min_tokens));
  }
}

void ReadStream(JsonFields* fields, const ServerConfig& config, OpenAiRequest* request) {
  fields->Read("stream", &request->stream);
  request->include_usage = config.force_include_usage;
  const Json* options = fields->Find("stream_options");
  if (!options) return;
  if (!request->stream)
    return fields->Fail("stream_options", "is only allowed when `stream` is true");
  if (!options->is_object()) return fields->Fail("stream_options", "must be an object");
  JsonFields inner(*options, "stream_options.");
  request->include_usage = true;
  inner.Read("include_usage", &request->include_usage);
  inner.Read("continuous_usage_stats", &request->continuous_usage);
  request->include_usage |= config.force_include_usage;
  if (!inner.ok()) fields->Fail("stream_options", inner.status().error().message);
}

// As a field of its own, or where clients of vLLM put what theirs does not know. Which ratios there
// are is the engine's to say.
void ReadCompression(JsonFields* fields, const EngineInfo& info, OpenAiRequest* request) {
  request->compression_ratio = info.compression.ratio;
  if (const Json* more = fields->Find("vllm_xargs")) {
    if (!more->is_object()) return fields->Fail("vllm_xargs", "must be an object");
    JsonFields inner(*more, "vllm_xargs.");
    inner.Read("compression_ratio", &request->compression_ratio, 0, 1);
    if (!inner.ok()) fields->Fail("vllm_xargs", inner.status().error().message);
    for (const std::string& name : inner.Unknown()) {
      request->unknown_fields.push_back("vllm_xargs." + name);
    }
  }
  fields->Read("compression_ratio", &request->compression_ratio, 0, 1);
  if (request->compression_ratio == 0) fields->Fail("compression_ratio", "must be above 0");
}

// Fields that both APIs share. max_tokens and logprobs come before: others refer to them.
void ReadCommon(JsonFields* fields, const OpenAiLimits& limits, OpenAiRequest* request) {
  RefuseUnserved(fields);
  fields->Read("model", &request->model);
  fields->Read("request_id", &request->request_id);
  ReadSampling(fields, limits, request);
  ReadStop(fields, request);
  ReadStream(fields, limits.config, request);
  ReadCompression(fields, limits.info, request);
  fields->Read("truncate_prompt_tokens", &request->truncate_prompt_tokens, -1, kMaxInt);
  if (request->truncate_prompt_tokens == 0) fields->Fail("truncate_prompt_tokens", "must not be 0");
  fields->Read("priority", &request->priority, std::numeric_limits<int32_t>::min(), kMaxInt);
  if (request->priority != 0 && !limits.info.priority_policy) {
    fields->Fail("priority", "needs a server with --scheduling-policy priority");
  }
  fields->Read("cache_salt", &request->cache_salt);
  const size_t salt_bytes = request->cache_salt.size();
  if (fields->Find("cache_salt") && (salt_bytes == 0 || salt_bytes > kMaxSaltBytes)) {
    fields->Fail("cache_salt", fmt::format("must have 1 to {} bytes", kMaxSaltBytes));
  }
  fields->Read("return_token_ids", &request->return_token_ids);
  fields->Read("return_tokens_as_token_ids", &request->tokens_as_ids);
  fields->Read("echo", &request->echo);
  fields->Read("add_special_tokens", &request->add_special_tokens);
  for (const char* name : {"user", "metadata", "store", "service_tier", "parallel_tool_calls",
                           "safety_identifier", "prompt_cache_key"}) {
    fields->Ignore(name);
  }
}

void SetLogprobs(JsonFields* fields, std::string_view name, int count, const ServerConfig& config,
                 SamplingParams* sampling) {
  if (count == -1 && config.max_logprobs == -1) {
    sampling->num_logprobs = SamplingParams::kAllLogprobs;
  } else if (count < 0) {
    fields->Fail(name, fmt::format("must be at least 0, not {}", count));
  } else if (config.max_logprobs != -1 && count > config.max_logprobs) {
    fields->Fail(name, fmt::format("must be at most {} (--max-logprobs), not {}",
                                   config.max_logprobs, count));
  } else {
    sampling->num_logprobs = count;
  }
}

void ReadPrompt(const Json& prompt, int vocab_size, JsonFields* fields, OpenAiRequest* request) {
  const auto fail = [&](std::string_view what) { fields->Fail("prompt", std::string(what)); };
  const auto add_ids = [&](const Json& array) {
    OpenAiRequest::Prompt item{.is_ids = true};
    if (array.empty()) return fail("must not be empty");
    const Json holder = {{"prompt", array}};
    JsonFields inner(holder);
    inner.Read("prompt", &item.ids, 0, vocab_size - 1);
    if (!inner.ok()) {
      return fail(
          fmt::format("has an item that is not a token id, or out of vocabulary: ids are 0 to {}",
                      vocab_size - 1));
    }
    request->prompts.push_back(std::move(item));
  };
  const auto add_text = [&](const Json& text) {
    if (text.get_ref<const std::string&>().empty()) return fail("must not be empty");
    request->prompts.push_back({.text = text.get<std::string>()});
  };
  if (prompt.is_string()) return add_text(prompt);
  if (!prompt.is_array() || prompt.empty()) {
    return fail(
        "must be a string, an array of strings, of token ids, or of arrays of token ids, "
        "and not empty");
  }
  if (prompt[0].is_number()) return add_ids(prompt);
  if (prompt.size() > kMaxPrompts) {
    return fail(fmt::format("holds more than {} prompts", kMaxPrompts));
  }
  for (const Json& item : prompt) {
    if (item.type() != prompt[0].type()) return fail("must not mix kinds of prompts");
    if (item.is_string()) {
      add_text(item);
    } else if (item.is_array()) {
      add_ids(item);
    } else {
      return fail("must hold strings or token ids");
    }
  }
}

void ReadChatInput(JsonFields* fields, const ServerConfig& config, OpenAiRequest* request) {
  request->chat = true;
  const Json* messages = fields->Find("messages");
  if (!messages) {
    fields->Fail("messages", "is required");
  } else if (Status status = ReadChatMessages(*messages, request); !status) {
    fields->Fail("messages", status.error().message);
  }
  fields->Read("add_generation_prompt", &request->add_generation_prompt);
  fields->Read("continue_final_message", &request->continue_final_message);
  const Json* asked = fields->Find("add_generation_prompt");
  if (request->continue_final_message) {
    if (asked && request->add_generation_prompt) {
      fields->Fail("continue_final_message", "cannot be combined with `add_generation_prompt`");
    }
    request->add_generation_prompt = false;
    if (request->last_content.empty()) {
      fields->Fail("continue_final_message", "needs a last message with content");
    }
  }
  fields->Read("chat_template", &request->chat_template);
  if (!request->chat_template.empty() && !config.trust_request_chat_template) {
    fields->Fail("chat_template",
                 "is only accepted if the server runs with --trust-request-chat-template");
  }
  if (const Json* kwargs = fields->Find("chat_template_kwargs")) {
    if (!kwargs->is_object()) fields->Fail("chat_template_kwargs", "must be an object");
    request->template_kwargs = DumpJson(*kwargs);
  }
  if (const Json* documents = fields->Find("documents")) {
    if (!documents->is_array()) fields->Fail("documents", "must be an array of objects");
    request->documents = DumpJson(*documents);
  }
}

Result<OpenAiRequest> Finish(const JsonFields& fields, OpenAiRequest request) {
  TANGRAM_RETURN_IF_ERROR(fields.status());
  for (std::string& name : fields.Unknown()) request.unknown_fields.push_back(std::move(name));
  return request;
}

}  // namespace

Result<OpenAiRequest> ParseChatRequest(std::string_view body, const OpenAiLimits& limits) {
  TANGRAM_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  JsonFields fields(json);
  OpenAiRequest request;
  request.add_special_tokens = false;
  ReadChatInput(&fields, limits.config, &request);
  fields.Read("max_tokens", &request.max_tokens, 1, kMaxInt);
  if (fields.Find("max_completion_tokens")) {
    fields.Read("max_completion_tokens", &request.max_tokens, 1, kMaxInt);
    request.max_tokens_param = "max_completion_tokens";
  }
  ReadCommon(&fields, limits, &request);
  bool logprobs = false;
  fields.Read("logprobs", &logprobs);
  int top_logprobs = 0;
  fields.Read("top_logprobs", &top_logprobs, -1, kMaxInt);
  if (logprobs) {
    SetLogprobs(&fields, "top_logprobs", top_logprobs, limits.config, &request.sampling);
  } else if (top_logprobs != 0) {
    fields.Fail("top_logprobs", "needs `logprobs` to be true");
  }
  return Finish(fields, std::move(request));
}

Result<OpenAiRequest> ParseCompletionRequest(std::string_view body, const OpenAiLimits& limits) {
  TANGRAM_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  JsonFields fields(json);
  OpenAiRequest request;
  const Json* prompt = fields.Find("prompt");
  if (!prompt) {
    fields.Fail("prompt", "is required");
  } else {
    ReadPrompt(*prompt, limits.info.vocab_size, &fields, &request);
  }
  request.max_tokens = 16;
  fields.Read("max_tokens", &request.max_tokens, 0, kMaxInt);
  ReadCommon(&fields, limits, &request);
  if (request.max_tokens == 0 && !request.echo) fields.Fail("max_tokens", "must be at least 1");
  std::optional<int> logprobs;
  fields.Read("logprobs", &logprobs, -1, kMaxInt);
  if (logprobs) SetLogprobs(&fields, "logprobs", *logprobs, limits.config, &request.sampling);
  if (logprobs && request.echo) {
    fields.Fail("logprobs",
                "cannot be combined with `echo`: this server does not give the prompt's logprobs");
  }
  return Finish(fields, std::move(request));
}

Result<TokenizeRequest> ParseTokenizeRequest(std::string_view body, const OpenAiLimits& limits) {
  TANGRAM_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  JsonFields fields(json);
  TokenizeRequest request;
  OpenAiRequest& input = request.input;
  if (fields.Find("messages")) {
    input.add_special_tokens = false;
    ReadChatInput(&fields, limits.config, &input);
  } else if (const Json* prompt = fields.Find("prompt"); prompt && prompt->is_string()) {
    input.prompts.push_back({.text = prompt->get<std::string>()});
  } else {
    fields.Fail("prompt", "must be a string, unless there are `messages`");
  }
  fields.Read("model", &input.model);
  fields.Read("add_special_tokens", &input.add_special_tokens);
  fields.Read("return_token_strs", &request.return_token_strings);
  TANGRAM_ASSIGN_OR_RETURN(input, Finish(fields, std::move(input)));
  return request;
}

Result<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body,
                                                 const OpenAiLimits& limits) {
  TANGRAM_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  JsonFields fields(json);
  DetokenizeRequest request;
  fields.Read("model", &request.model);
  if (!fields.Find("tokens")) fields.Fail("tokens", "is required");
  fields.Read("tokens", &request.tokens, 0, limits.info.vocab_size - 1);
  TANGRAM_RETURN_IF_ERROR(fields.status());
  return request;
}

}  // namespace tangram::server
