// tangram bench multi-turn: conversations against a server, as vLLM's benchmarks/multi_turn.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <fstream>
#include <map>
#include <thread>

#include "bench/bench_commands.h"
#include "bench/conversations.h"
#include "bench/progress.h"
#include "bench/statistics.h"
#include "client/openai_client.h"
#include "exit_codes.h"
#include "text_model.h"

namespace tangram::apps::bench {
namespace {

using nlohmann::json;

struct MultiTurnConfig {
  std::string url = "http://127.0.0.1:8000", model, tokenizer, api_key, input_file, result_file;
  int num_clients = 2, max_active_conversations = 0, max_turns = 0;
  int ready_timeout = 600;
  uint64_t seed = 0;
  bool early_stop = true, warmup_step = false;
};

void Declare(Options& options, MultiTurnConfig& config) {
  options.Group("Server");
  options.Add("url", &config.url, "URL of the server").Positional();
  options.Add("model", &config.model, "name of the model in requests; empty: the server's first");
  options.Add("tokenizer", &config.tokenizer, "GGUF file or folder whose tokenizer counts tokens");
  options.Add("api-key", &config.api_key, "API key of the server")
      .Secret()
      .Variable("OPENAI_API_KEY");
  options.Add("ready-check-timeout-sec", &config.ready_timeout,
              "longest time to wait for the server");
  options.Group("Conversations");
  options.Add("input-file", &config.input_file,
              "JSON list of conversations, or a generator; empty: 24 generated ones");
  options.Add("num-clients", &config.num_clients, "clients, each with one request at a time");
  options.Add("max-active-conversations", &config.max_active_conversations,
              "conversations that all clients together hold at once; 0: one each");
  options.Add("max-turns", &config.max_turns, "most questions per conversation; 0: all");
  options.Add("seed", &config.seed, "random seed for generated conversations");
  options.Add("early-stop", &config.early_stop, "end when the first client has no more to do");
  options.Add("warmup-step", &config.warmup_step, "ask all first questions once before measuring");
  options.Add("result-filename", &config.result_file, "JSON file to write");
}

// One question and its answer.
struct TurnRecord {
  int turn = 0;      // from 0
  int messages = 0;  // of the request
  int history = 0;   // tokens of the prompt that an earlier turn has processed
  client::StreamedAnswer answer;
};

// A conversation under way.
struct Active {
  const Conversation* script = nullptr;
  size_t turn = 0;
  int processed = 0;  // tokens so far, prompt and answer
  json messages = json::array();
};

// A client: holds some conversations and asks their questions round-robin.
class Client {
 public:
  Client(const MultiTurnConfig& config, client::Url url, std::string model)
      : config_(config), client_(std::move(url), config.api_key), model_(std::move(model)) {}

  void Give(const Conversation& script) { waiting_.push_back(&script); }

  // Until nothing is left to ask, `stop` is set, or the server fails.
  void Run(size_t max_active, const std::atomic<bool>& stop, Progress& progress) {
    std::deque<Active> active;
    while (!stop) {
      while (active.size() < max_active && !waiting_.empty()) {
        active.push_back({waiting_.front()});
        waiting_.pop_front();
      }
      if (active.empty()) return;
      Active now = std::move(active.front());
      active.pop_front();
      if (status = Ask(now); !status) return;
      progress.Add();
      if (now.turn < NumTurns(*now.script)) active.push_back(std::move(now));
    }
  }

  size_t NumTurns(const Conversation& script) const {
    const size_t all = script.turns.size();
    return config_.max_turns > 0 ? std::min<size_t>(all, config_.max_turns) : all;
  }

  Status status;
  std::vector<TurnRecord> records;

 private:
  Status Ask(Active& active) {
    const Conversation::Turn& turn = active.script->turns[active.turn];
    active.messages.push_back({{"role", "user"}, {"content", turn.question}});
    const json body = {
        {"model", model_}, {"messages", active.messages},   {"temperature", 0},
        {"seed", 0},       {"min_tokens", turn.answer_len}, {"max_tokens", turn.answer_len}};
    TANGRAM_ASSIGN_OR_RETURN(client::StreamedAnswer answer,
                             client_.Stream("/v1/chat/completions", body));
    const int num_messages = static_cast<int>(active.messages.size());
    active.messages.push_back({{"role", "assistant"}, {"content", answer.text}});
    // Of an answer's last token nothing is computed.
    const int history =
        std::exchange(active.processed, answer.prompt_tokens + answer.output_tokens - 1);
    records.push_back({static_cast<int>(active.turn++), num_messages, history, std::move(answer)});
    return {};
  }

  const MultiTurnConfig& config_;
  client::OpenAiClient client_;
  std::string model_;
  std::deque<const Conversation*> waiting_;
};

using Columns = std::vector<std::pair<std::string, std::vector<double>>>;

Columns Collect(const std::vector<TurnRecord>& records) {
  Columns columns = {{"ttft_ms", {}},
                     {"tpot_ms", {}},
                     {"latency_ms", {}},
                     {"input_num_turns", {}},
                     {"input_num_tokens", {}},
                     {"cached_num_tokens", {}},
                     {"recomputed_num_tokens", {}},
                     {"output_num_tokens", {}},
                     {"output_num_chunks", {}}};
  for (const TurnRecord& record : records) {
    const client::StreamedAnswer& answer = record.answer;
    const double decoding = answer.last_chunk_seconds - answer.first_chunk_seconds;
    const double tpot = answer.output_tokens > 1 ? decoding / (answer.output_tokens - 1) : 0;
    const double values[] = {
        answer.first_chunk_seconds * 1000,
        tpot * 1000,
        answer.last_chunk_seconds * 1000,
        static_cast<double>(record.messages),
        static_cast<double>(answer.prompt_tokens),
        static_cast<double>(answer.cached_tokens),
        std::max(0.0, static_cast<double>(record.history - answer.cached_tokens)),
        static_cast<double>(answer.output_tokens),
        static_cast<double>(answer.num_chunks)};
    for (size_t i = 0; i < columns.size(); ++i) columns[i].second.push_back(values[i]);
  }
  return columns;
}

json Statistics(const std::vector<double>& values) {
  json made = {
      {"count", values.size()}, {"mean", Mean(values)}, {"std", StandardDeviation(values)}};
  made["min"] = Percentile(values, 0);
  for (const int percent : {25, 50, 75, 90, 99}) {
    made[fmt::format("{}%", percent)] = Percentile(values, percent);
  }
  made["max"] = Percentile(values, 100);
  return made;
}

constexpr const char* kStatistics[] = {"count", "mean", "std", "min", "25%",
                                       "50%",   "75%",  "90%", "99%", "max"};

// The statistics of all requests, and the means of each turn: TTFT, prompt and cached tokens.
json Report(const std::vector<TurnRecord>& records, double seconds) {
  json result = {{"runtime_sec", seconds},
                 {"requests_per_sec", static_cast<double>(records.size()) / seconds}};
  fmt::print("\nruntime_sec = {:.3f}\nrequests_per_sec = {:.3f}\n\n{:<22}", seconds,
             static_cast<double>(records.size()) / seconds, "");
  for (const char* name : kStatistics) fmt::print("{:>10}", name);
  for (const auto& [name, values] : Collect(records)) {
    const json statistics = result[name] = Statistics(values);
    fmt::print("\n{:<22}", name);
    for (const char* key : kStatistics) fmt::print("{:>10.2f}", statistics[key].get<double>());
  }
  std::map<int, std::vector<TurnRecord>> by_turn;
  for (const TurnRecord& record : records) by_turn[record.turn].push_back(record);
  fmt::print("\n\n{:>5}{:>10}{:>12}{:>16}{:>16}\n", "turn", "requests", "TTFT (ms)",
             "prompt tokens", "cached tokens");
  for (const auto& [turn, of_turn] : by_turn) {
    const Columns columns = Collect(of_turn);
    const double ttft = Mean(columns[0].second), prompt = Mean(columns[4].second);
    const double cached = Mean(columns[5].second);
    fmt::print("{:>5}{:>10}{:>12.1f}{:>16.1f}{:>16.1f}\n", turn + 1, of_turn.size(), ttft, prompt,
               cached);
    result["turns"].push_back({{"turn", turn + 1},
                               {"requests", of_turn.size()},
                               {"mean_ttft_ms", ttft},
                               {"mean_input_num_tokens", prompt},
                               {"mean_cached_num_tokens", cached}});
  }
  return result;
}

Status WarmUp(const std::vector<Conversation>& conversations, const MultiTurnConfig& config,
              const client::Url& url, const std::string& model) {
  MultiTurnConfig first_turns = config;
  first_turns.max_turns = 1;
  Client client(first_turns, url, model);
  for (const Conversation& conversation : conversations) client.Give(conversation);
  Progress progress("Warm-up", static_cast<int>(conversations.size()));
  client.Run(1, false, progress);
  return client.status;
}

Status RunAndReport(const MultiTurnConfig& config) {
  TANGRAM_ASSIGN_OR_RETURN(const client::Url url, client::ParseUrl(config.url));
  TANGRAM_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(config.tokenizer));
  TANGRAM_ASSIGN_OR_RETURN(const auto conversations,
                           LoadConversations(config.input_file, config.seed, *tokenizer));
  client::OpenAiClient finder(url, config.api_key);
  TANGRAM_RETURN_IF_ERROR(finder.WaitUntilReady(config.ready_timeout));
  std::string model = config.model;
  if (model.empty()) {
    TANGRAM_ASSIGN_OR_RETURN(model, finder.FirstModel());
  }
  if (config.warmup_step) {
    TANGRAM_RETURN_IF_ERROR(WarmUp(conversations, config, url, model));
  }

  std::deque<Client> clients;
  for (int i = 0; i < config.num_clients; ++i) clients.emplace_back(config, url, model);
  int num_requests = 0;
  for (size_t i = 0; i < conversations.size(); ++i) {
    clients[i % clients.size()].Give(conversations[i]);
    num_requests += static_cast<int>(clients[0].NumTurns(conversations[i]));
  }
  const size_t max_active = std::max<size_t>(1, config.max_active_conversations / clients.size());
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  const double start = client::SteadySeconds();
  {
    Progress progress("Requests", num_requests);
    for (Client& client : clients) {
      threads.emplace_back([&client, &stop, &progress, max_active, &config] {
        client.Run(max_active, stop, progress);
        if (config.early_stop || !client.status) stop = true;
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const double seconds = client::SteadySeconds() - start;
  std::vector<TurnRecord> records;
  for (const Client& client : clients) {
    TANGRAM_RETURN_IF_ERROR(client.status);
    records.insert(records.end(), client.records.begin(), client.records.end());
  }
  const json result = Report(records, seconds);
  if (!config.result_file.empty()) std::ofstream(config.result_file) << result.dump(2) << "\n";
  return {};
}

}  // namespace

int RunBenchMultiTurn(Args args) {
  MultiTurnConfig config;
  Options options("tangram bench multi-turn [URL] --tokenizer MODEL [flags]",
                  "Holds conversations with a server of the OpenAI API: its answers become\n"
                  "part of the next prompt; the script sets their lengths.");
  Declare(options, config);
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (config.tokenizer.empty() || config.num_clients < 1) {
    return Fail({ErrorKind::kInvalidArgument,
                 "--tokenizer must name a GGUF file or a folder, and --num-clients be at least 1",
                 ""});
  }
  const Status status = RunAndReport(config);
  return status ? kExitOk : Fail(status.error());
}

}  // namespace tangram::apps::bench
