#include "support/model_session.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "base/check.h"

namespace tangram {
namespace {

constexpr int kChunk = 512;  // of the table that keeps everything

KvStorage MakeStorage(ops::Backend& backend, const KvLayout& layout, int max_tokens) {
  const int64_t pages =
      int64_t{layout.heads.num_groups()} * ((max_tokens + layout.page_size - 1) / layout.page_size);
  const auto table = RetentionTable::Full(layout.heads.num_groups(), kChunk);
  auto storage = KvStorage::Create(backend, layout, {pages, 1, max_tokens}, {&table, 1});
  TANGRAM_CHECK(storage.has_value(), "{}", storage.error().message);
  return std::move(*storage);
}

}  // namespace

ModelSession::ModelSession(Model& model, ops::Backend& backend, DType kv_dtype, int max_tokens,
                           int page_size, int group_size, uint64_t seed)
    : model_(model),
      backend_(backend),
      kv_(MakeStorage(backend,
                      {kv_dtype, page_size, model.config().head_dim,
                       HeadGroupMap::Natural(model.config().num_layers,
                                             model.config().num_key_value_heads, group_size)},
                      max_tokens)) {
  const ops::KvView& kv = kv_.view();
  std::vector<int32_t> ids(kv_.num_pages());
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937_64(seed));
  const int pages_per_group = static_cast<int>(kv.num_pages) / kv.num_groups;
  for (int i = 0; i < kv.num_pages; ++i) {
    const int64_t place = kv.Place(0, i / pages_per_group) + i % pages_per_group;
    page_writes_.push_back({static_cast<int32_t>(place), ids[i]});
  }
}

std::vector<float> ModelSession::Step(std::span<const int32_t> tokens,
                                      std::span<const int32_t> rows) {
  builder_.Clear();
  builder_.Add({.tokens = tokens, .num_computed = num_tokens_},
               RetentionTable::Full(kv_.view().num_groups, kChunk));
  ops::StepInput& input = builder_.Finish();
  input.logit_rows.assign(rows.begin(), rows.end());
  input.page_writes = std::exchange(page_writes_, {});
  const TensorView logits =
      model_.Forward(backend_.Begin(input, kv_.view(), kv_.scores()), nullptr);
  num_tokens_ += static_cast<int>(tokens.size());
  std::vector<float> copy(logits.shape.count());
  backend_.Read(copy.data(), logits.data, copy.size() * sizeof(float));
  return copy;
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
