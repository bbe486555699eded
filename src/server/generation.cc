#include "server/generation.h"

#include <algorithm>
#include <functional>

#include "text/tokenizer.h"

namespace tangram::server {
namespace {

std::string_view NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    default:
      return "abort";
  }
}

std::vector<std::vector<TokenId>> Ids(const std::vector<PreparedPrompt>& prompts, bool wanted) {
  std::vector<std::vector<TokenId>> ids(prompts.size());
  for (size_t i = 0; wanted && i < prompts.size(); ++i) ids[i] = prompts[i].ids;
  return ids;
}

double Seconds(Generation::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

Generation::Generation(Setup setup)
    : request_(std::move(setup.request)),
      prompts_(std::move(setup.prompts)),
      model_(std::move(setup.model)),
      metrics_(setup.metrics),
      received_(setup.received),
      reply_(request_, std::move(setup.id), model_->names.front(), model_->tokenizer,
             std::move(setup.http), Ids(prompts_, request_.return_token_ids)) {
  for (PreparedPrompt& prompt : prompts_) {
    Choice choice{.decoder = StreamDecoder(model_->tokenizer,
                                           {.stop = request_.stop_strings,
                                            .include_stop = request_.include_stop_string,
                                            .skip_special_tokens = request_.skip_special_tokens,
                                            .min_tokens = request_.stop.min_tokens}),
                  .echo = std::move(prompt.echo)};
    choice.usage.prompt_tokens = choice.record.prompt_tokens = static_cast<int>(prompt.ids.size());
    choice.record.max_tokens = prompt.max_tokens;
    choice.usage.ratio = request_.compression_ratio;
    choices_.push_back(std::move(choice));
  }
}

Status Generation::Submit(const ListenerFactory& make_listener) {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (prompts_[i].max_tokens == 0) continue;
    Request request;
    request.prompt = std::move(prompts_[i].ids);
    request.sampling = request_.sampling;
    request.stop = StopOf(i);
    request.priority = request_.priority;
    request.compression_ratio = request_.compression_ratio;
    request.cache_salt = request_.cache_salt;
    auto id = model_->engine->Submit(std::move(request), make_listener(static_cast<int>(i)));
    if (!id) {
      AbortRunning();
      Fail(id.error());
      return MakeError(id.error().kind, id.error().message);
    }
    choices_[i].engine_id = *id;
  }
  // Echoes of a prompt alone need no engine.
  for (size_t i = 0; i < choices_.size() && !done_; ++i) {
    if (prompts_[i].max_tokens > 0) continue;
    Finish(FinishReason::kLength, &choices_[i]);
    Deliver(static_cast<int>(i), {.finish_reason = "length"});
  }
  return {};
}

StopParams Generation::StopOf(size_t choice) const {
  StopParams stop = request_.stop;
  stop.max_tokens = prompts_[choice].max_tokens;
  stop.min_tokens = std::min(stop.min_tokens, stop.max_tokens);
  return stop;
}

bool Generation::IsOwnStopToken(TokenId id) const {
  return std::ranges::find(request_.stop.stop_token_ids, id) != request_.stop.stop_token_ids.end();
}

void Generation::OnEvent(int index, const TokenEvent& event) {
  Choice& choice = choices_[index];
  if (done_ || choice.finished) return;
  if (event.finished && event.reason == FinishReason::kError) {
    Finish(FinishReason::kError, &choice);
    AbortRunning();
    return Fail({ErrorKind::kInternal, "the engine failed on this request", ""});
  }
  Delta delta;
  if (event.token >= 0) {
    Time(event, &choice);
    delta = Decode(event, &choice);
  }
  if (const std::string* stop = choice.decoder.stopped_by()) {
    if (!event.finished) model_->engine->Abort(choice.engine_id);
    delta.finish_reason = "stop";
    delta.stop_reason = *stop;
    Finish(FinishReason::kStop, &choice);
  } else if (event.finished) {
    delta.finish_reason = NameOf(event.reason);
    if (event.stop_token >= 0 && IsOwnStopToken(event.stop_token)) {
      delta.stop_reason = event.stop_token;
    }
    Finish(event.reason, &choice);
  }
  Deliver(index, std::move(delta));
}

void Generation::Time(const TokenEvent& event, Choice* choice) {
  const auto now = Clock::now();
  if (choice->usage.completion_tokens == 0) {
    choice->usage.cached_tokens = event.num_cached_tokens;
    choice->record.queue = event.queue_seconds;
    choice->record.prefill = event.prefill_seconds;
    metrics_->OnFirstToken({.seconds = Seconds(now - received_),
                            .cached_tokens = event.num_cached_tokens,
                            .chat = request_.chat,
                            .later_turn = request_.later_turn});
  } else {
    const double seconds = Seconds(now - choice->last_token);
    choice->record.decode += seconds;
    metrics_->OnNextToken(seconds);
  }
  choice->usage.logical_tokens = event.logical_tokens;
  choice->usage.resident_tokens = event.resident_tokens;
  choice->last_token = now;
  ++choice->usage.completion_tokens;
}

Delta Generation::Decode(const TokenEvent& event, Choice* choice) {
  Delta delta{.tokens = {event.token}};
  if (request_.sampling.num_logprobs >= 0) delta.logprobs.push_back(event);
  // The token that ends the text belongs to it only if the client says so.
  if (event.stop_token < 0 || request_.include_stop_string) {
    delta.text = choice->decoder.Push(event.token);
  }
  if (event.finished && !choice->decoder.stopped_by()) delta.text += choice->decoder.Finish();
  return delta;
}

void Generation::Finish(FinishReason reason, Choice* choice) {
  choice->finished = true;
  ++num_finished_;
  RequestRecord& record = choice->record;
  record.reason = reason;
  record.generation_tokens = choice->usage.completion_tokens;
  const Usage& usage = choice->usage;
  if (usage.logical_tokens > 0) record.retention = usage.resident_tokens / usage.logical_tokens;
  record.e2e = Seconds(Clock::now() - received_);
  metrics_->OnFinished(record);
}

void Generation::Deliver(int index, Delta delta) {
  delta.choice = index;
  if (!choices_[index].echo.empty()) {
    delta.text.insert(0, std::exchange(choices_[index].echo, {}));
  }
  reply_.Add(std::move(delta), choices_[index].usage);
  // The client may have been cut off while this was written.
  if (done_ || num_finished_ < choices_.size()) return;
  done_ = true;
  reply_.Finish(TotalUsage());
}

void Generation::Fail(const Error& error) {
  done_ = true;
  reply_.Fail(error);
}

void Generation::AbortRunning() {
  for (Choice& choice : choices_) {
    if (!choice.finished && choice.engine_id != 0) model_->engine->Abort(choice.engine_id);
  }
}

void Generation::Cancel() {
  if (done_) return;
  done_ = true;
  AbortRunning();
  for (Choice& choice : choices_) {
    if (!choice.finished) Finish(FinishReason::kAbort, &choice);
  }
}

void Generation::EndWithAbort() {
  AbortRunning();
  for (size_t i = 0; i < choices_.size() && !done_; ++i) {
    if (choices_[i].finished) continue;
    Delta delta{.text = choices_[i].decoder.Finish(), .finish_reason = "abort"};
    Finish(FinishReason::kAbort, &choices_[i]);
    Deliver(static_cast<int>(i), std::move(delta));
  }
}

Usage Generation::TotalUsage() const {
  Usage total{.ratio = request_.compression_ratio};
  for (const Choice& choice : choices_) {
    total.prompt_tokens += choice.usage.prompt_tokens;
    total.completion_tokens += choice.usage.completion_tokens;
    total.cached_tokens += choice.usage.cached_tokens;
    total.logical_tokens += choice.usage.logical_tokens;
    total.resident_tokens += choice.usage.resident_tokens;
  }
  return total;
}

}  // namespace tangram::server
