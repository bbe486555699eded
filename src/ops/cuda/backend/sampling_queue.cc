#include "ops/cuda/backend/sampling_queue.h"

#include <algorithm>
#include <span>

#include "ops/cuda/check.h"
#include "ops/cuda/sampling/sampling.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kResultArrays = 3;  // tokens, logprobs, ranks

}  // namespace

SamplingQueue::SamplingQueue(int max_rows) {
  for (Draw& draw : draws_) {
    TANGRAM_CUDA_CHECK(cudaEventCreateWithFlags(&draw.done, cudaEventDisableTiming));
    Reserve(draw, static_cast<size_t>(kResultArrays * max_rows));
  }
}

SamplingQueue::~SamplingQueue() {
  for (Draw& draw : draws_) {
    if (draw.host != nullptr) cudaFreeHost(draw.host);
    if (draw.done != nullptr) cudaEventDestroy(draw.done);
  }
}

void SamplingQueue::Reserve(Draw& draw, size_t elements) {
  if (elements <= draw.capacity) return;
  if (draw.host != nullptr) cudaFreeHost(draw.host);
  draw.host = nullptr;
  TANGRAM_CUDA_CHECK(cudaMallocHost(&draw.host, elements * sizeof(int32_t)));
  draw.capacity = elements;
}

Ticket SamplingQueue::Sample(const TensorView& logits, const SamplingInput& input, int32_t* drawn,
                             cudaStream_t stream) {
  Draw& draw = draws_[next_ % draws_.size()];
  const auto vocabulary = static_cast<int>(logits.shape[1]);
  const auto count = static_cast<int>(input.rows.size());
  draw.rows = input.rows;
  draw.raw.clear();
  draw.num_top = 0;
  if (count == 0) {
    TANGRAM_CUDA_CHECK(cudaEventRecord(draw.done, stream));
    return next_++;
  }
  bool logprobs = false, adjusted = false, whole_rows = false;
  for (const SamplingRow& row : input.rows) {
    logprobs = logprobs || row.num_logprobs >= 0;
    adjusted = adjusted || row.adjusted();
    if (row.num_logprobs > kMostTop) {
      whole_rows = true;
    } else {
      draw.num_top = std::max(draw.num_top, row.num_logprobs);
    }
  }
  staging_.Begin();
  const size_t rows = staging_.Add(std::span<const SamplingRow>(input.rows));
  const size_t seen = staging_.Add(std::span<const SeenToken>(input.seen));
  const size_t biases = staging_.Add(std::span<const TokenBias>(input.biases));
  const size_t allowed = staging_.Add(std::span<const uint32_t>(input.allowed));
  staging_.Copy(stream);
  const auto s = static_cast<size_t>(count), top = s * static_cast<size_t>(draw.num_top);
  const size_t elements = kResultArrays * s + 2 * top;
  Reserve(draw, elements);
  auto* results = results_.Get<int32_t>(elements);
  auto* floats = reinterpret_cast<float*>(results);
  float* scratch = adjusted ? adjusted_.Get<float>(s * static_cast<size_t>(vocabulary)) : nullptr;
  RunSampling({.logits = logits.as<float>(),
               .stride = vocabulary,
               .rows = staging_.device<SamplingRow>(rows),
               .seen = input.seen.empty() ? nullptr : staging_.device<SeenToken>(seen),
               .biases = input.biases.empty() ? nullptr : staging_.device<TokenBias>(biases),
               .allowed = input.allowed.empty() ? nullptr : staging_.device<uint32_t>(allowed),
               .scratch = scratch,
               .tokens = results,
               .drawn = drawn,
               .logprobs = logprobs ? floats + s : nullptr,
               .ranks = results + 2 * s,
               .top_tokens = top > 0 ? results + 3 * s : nullptr,
               .top_logprobs = top > 0 ? floats + 3 * s + top : nullptr,
               .num_top = draw.num_top,
               .num_rows = count,
               .vocabulary = vocabulary},
              stream);
  const size_t back = logprobs ? elements : s;
  TANGRAM_CUDA_CHECK(
      cudaMemcpyAsync(draw.host, results, back * sizeof(int32_t), cudaMemcpyDeviceToHost, stream));
  if (whole_rows) FetchWholeRows(draw, logits, stream);
  TANGRAM_CUDA_CHECK(cudaEventRecord(draw.done, stream));
  return next_++;
}

void SamplingQueue::FetchWholeRows(Draw& draw, const TensorView& logits, cudaStream_t stream) {
  const auto vocabulary = static_cast<size_t>(logits.shape[1]);
  draw.raw.resize(draw.rows.size());
  for (size_t i = 0; i < draw.rows.size(); ++i) {
    if (draw.rows[i].num_logprobs <= kMostTop) continue;
    draw.raw[i].resize(vocabulary);
    const float* from =
        logits.as<float>() + static_cast<size_t>(draw.rows[i].logit_row) * vocabulary;
    TANGRAM_CUDA_CHECK(cudaMemcpyAsync(draw.raw[i].data(), from, vocabulary * sizeof(float),
                                       cudaMemcpyDeviceToHost, stream));
  }
}

const SamplingOutput& SamplingQueue::Wait(Ticket ticket) {
  Draw& draw = draws_[ticket % draws_.size()];
  TANGRAM_CUDA_CHECK(cudaEventSynchronize(draw.done));
  Unpack(draw);
  return draw.output;
}

void SamplingQueue::Unpack(Draw& draw) {
  const size_t count = draw.rows.size();
  const auto num_top = static_cast<size_t>(draw.num_top);
  const auto* floats = reinterpret_cast<const float*>(draw.host);
  const int32_t* top_tokens = draw.host + kResultArrays * count;
  const float* top_logprobs = floats + kResultArrays * count + count * num_top;
  SamplingOutput& out = draw.output;
  out.tokens.assign(draw.host, draw.host + count);
  out.logprobs.resize(count);
  out.top.resize(count);
  for (size_t i = 0; i < count; ++i) {
    out.top[i].clear();
    const int wanted = draw.rows[i].num_logprobs;
    if (wanted < 0 || out.tokens[i] < 0) continue;
    out.logprobs[i] = {out.tokens[i], floats[count + i], draw.host[2 * count + i]};
    if (!draw.raw.empty() && !draw.raw[i].empty()) {
      sampler_.Logprobs(draw.raw[i], out.tokens[i], static_cast<size_t>(wanted), out.logprobs[i],
                        out.top[i]);
      continue;
    }
    for (size_t k = 0; k < static_cast<size_t>(wanted) && k < num_top; ++k) {
      const int32_t token = top_tokens[i * num_top + k];
      if (token < 0) break;
      out.top[i].push_back({token, top_logprobs[i * num_top + k], static_cast<int32_t>(k) + 1});
    }
  }
}

}  // namespace tangram::ops::cuda
