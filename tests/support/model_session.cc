#include "support/model_session.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "base/check.h"

namespace tangram {
namespace {

KvStorage MakeStorage(const ModelConfig& config, ops::Backend& backend, DType dtype, int page_size,
                      int group_size, int64_t pages) {
  KvLayout layout{dtype, page_size, config.head_dim,
                  HeadGroupMap::Natural(config.num_layers, config.num_key_value_heads, group_size)};
  auto storage = KvStorage::Create(backend, std::move(layout), pages);
  TANGRAM_CHECK(storage.has_value(), "{}", storage.error().message);
  return std::move(*storage);
}

int NumRows(const ModelConfig& config, int group_size) {
  return config.num_layers * config.num_key_value_heads / group_size;
}

}  // namespace

ModelSession::ModelSession(Model& model, ops::Backend& backend, DType kv_dtype, int max_tokens,
                           int page_size, int group_size, uint64_t seed)
    : model_(model),
      backend_(backend),
      kv_(MakeStorage(model.config(), backend, kv_dtype, page_size, group_size,
                      int64_t{NumRows(model.config(), group_size)} *
                          ((max_tokens + page_size - 1) / page_size))),
      table_(1, NumRows(model.config(), group_size), (max_tokens + page_size - 1) / page_size) {
  std::vector<int32_t> ids(kv_.num_pages());
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937_64(seed));
  std::ranges::copy(ids, table_.row(0, 0));
}

std::vector<float> ModelSession::Step(std::span<const int32_t> tokens,
                                      std::span<const int32_t> rows) {
  std::vector<int32_t> positions(tokens.size());
  std::iota(positions.begin(), positions.end(), num_tokens_);
  const std::vector<int32_t> history(table_.num_rows(), num_tokens_);
  const ops::SequenceSpan span{0, 0, static_cast<int>(tokens.size()), history.data()};
  ForwardInput input;
  input.tokens = tokens;
  input.positions = positions;
  const ForwardRound round{{}, {&span, 1}};
  input.rounds = {&round, 1};
  input.pages = {table_.data(), table_.num_rows(), table_.max_pages_per_row()};
  input.kv = &kv_;
  input.logit_rows = rows;
  const TensorView logits = model_.Forward(input);
  backend_.Synchronize();
  num_tokens_ += static_cast<int>(tokens.size());
  return {logits.as<float>(), logits.as<float>() + logits.shape.count()};
}

std::vector<float> ModelSession::Prefill(std::span<const int32_t> tokens, int chunk) {
  std::vector<float> logits;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const auto step = tokens.subspan(begin, std::min<size_t>(chunk, tokens.size() - begin));
    const int32_t last = static_cast<int32_t>(step.size()) - 1;
    const bool final = begin + step.size() == tokens.size();
    logits = Step(step, {&last, final ? size_t{1} : size_t{0}});
  }
  return logits;
}

int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

}  // namespace tangram
