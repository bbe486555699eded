#include "client/openai_client.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>

namespace tangram::apps::client {
namespace {

using nlohmann::json;

// The message of an OpenAI error body, or the body itself.
std::string ErrorMessage(const std::string& body) {
  const json parsed = json::parse(body, nullptr, false);
  if (!parsed.is_object()) return body;
  const json error = parsed.value("error", json());
  if (error.is_object()) return error.value("message", body);
  return error.is_string() ? error.get<std::string>() : body;
}

// A member that is an object, or an empty one: servers write null for what they leave out.
json Member(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_object() ? *found : json::object();
}

std::string Text(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

int Int(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number() ? found->get<int>() : 0;
}

// Adds the chunks of one stream to an answer.
class ChunkReader {
 public:
  ChunkReader(StreamedAnswer& answer, const OpenAiClient::OnText& on_text)
      : answer_(answer), on_text_(on_text), start_(SteadySeconds()) {}

  // False: the stream is over, or nobody wants more of it.
  bool Push(std::string_view data) {
    if (data == "[DONE]") return true;  // the connection ends by itself
    const json chunk = json::parse(data, nullptr, false);
    if (!chunk.is_object()) {
      error = fmt::format("the server sent a frame that is not a JSON object: {}", data);
      return false;
    }
    if (chunk.contains("error")) {
      error = ErrorMessage(std::string(data));
      return false;
    }
    ReadUsage(Member(chunk, "usage"));
    const auto choices = chunk.find("choices");
    const bool has_choice = choices != chunk.end() && choices->is_array() && !choices->empty();
    return has_choice ? ReadChoice((*choices)[0]) : true;
  }

  std::string error;

 private:
  void ReadUsage(const json& usage) {
    if (usage.empty()) return;
    answer_.prompt_tokens = Int(usage, "prompt_tokens");
    answer_.output_tokens = Int(usage, "completion_tokens");
    answer_.cached_tokens = Int(Member(usage, "prompt_tokens_details"), "cached_tokens");
    answer_.logical_tokens = Int(Member(usage, "kv"), "logical_tokens");
    answer_.resident_tokens = Int(Member(usage, "kv"), "resident_tokens");
  }

  bool ReadChoice(const json& choice) {
    const double now = SteadySeconds();
    if (answer_.num_chunks++ == 0) {
      answer_.first_chunk_seconds = now - start_;
    } else {
      answer_.chunk_gaps.push_back(now - start_ - answer_.last_chunk_seconds);
    }
    answer_.last_chunk_seconds = now - start_;
    answer_.chunk_times.push_back(now);
    if (auto reason = Text(choice, "finish_reason"); !reason.empty()) {
      answer_.finish_reason = std::move(reason);
    }
    const std::string text = Text(choice, "text") + Text(Member(choice, "delta"), "content");
    answer_.text += text;
    return text.empty() || !on_text_ || on_text_(text);
  }

  StreamedAnswer& answer_;
  const OpenAiClient::OnText& on_text_;
  double start_;
};

}  // namespace

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Result<StreamedAnswer> OpenAiClient::Stream(const std::string& path, json body,
                                            const OnText& on_text) {
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  StreamedAnswer answer;
  ChunkReader reader(answer, on_text);
  TANGRAM_ASSIGN_OR_RETURN(
      const HttpReply reply,
      http_.PostForEvents(path, body.dump(-1, ' ', false, json::error_handler_t::replace),
                          [&](std::string_view data) { return reader.Push(data); }));
  if (reply.status != 200) {
    return MakeError(ErrorKind::kUnavailable,
                     fmt::format("HTTP {}: {}", reply.status, ErrorMessage(reply.body)));
  }
  if (!reader.error.empty()) return MakeError(ErrorKind::kInternal, reader.error);
  if (answer.num_chunks == 0) {
    return MakeError(ErrorKind::kInternal, "the server answered without a single chunk");
  }
  if (answer.output_tokens == 0) answer.output_tokens = answer.num_chunks;
  return answer;
}

Result<std::string> OpenAiClient::FirstModel() {
  TANGRAM_ASSIGN_OR_RETURN(const HttpReply reply, http_.Get("/v1/models"));
  const json parsed = json::parse(reply.body, nullptr, false);
  const json data = parsed.is_object() ? parsed.value("data", json::array()) : json::array();
  if (reply.status != 200 || !data.is_array() || data.empty()) {
    return MakeError(ErrorKind::kUnavailable,
                     fmt::format("/v1/models: HTTP {}: {}", reply.status, reply.body));
  }
  return Text(data[0], "id");
}

Status OpenAiClient::WaitUntilReady(double seconds) {
  const double end = SteadySeconds() + seconds;
  for (bool told = false;; told = true) {
    const auto reply = http_.Get("/health");
    if (reply && reply->status == 200) return {};
    if (SteadySeconds() >= end) {
      return reply ? MakeError(ErrorKind::kUnavailable,
                               fmt::format("/health: HTTP {}: {}", reply->status,
                                           ErrorMessage(reply->body)))
                   : Status(tl::unexpected(reply.error()));
    }
    if (!told) {
      fmt::print(stderr, "Waiting for the server, {} s at most: {}\n", seconds,
                 reply ? fmt::format("/health: HTTP {}", reply->status) : reply.error().message);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace tangram::apps::client
