#include "ops/host/host_backend.h"

#include <algorithm>
#include <cstring>

#include "base/memory.h"

namespace tangram::ops {
namespace {

void CopyBlocks(void* memory, int64_t bytes, const std::vector<PageCopy>& copies) {
  auto* base = static_cast<std::byte*>(memory);
  for (const PageCopy& copy : copies) {
    std::memcpy(base + copy.to * bytes, base + copy.from * bytes, static_cast<size_t>(bytes));
  }
}

}  // namespace

Limits HostBackend::limits() const {
  return {.kv_dtypes = {DType::kF16, DType::kBF16, DType::kF32}};
}

BackendMemory HostBackend::memory() const { return {.available = AvailableMemory()}; }

HostBackend::Joined HostBackend::Join(std::span<const TensorView> parts) {
  if (parts.size() == 1) return {parts.front(), {}};
  int64_t rows = 0;
  size_t bytes = 0;
  for (const TensorView& part : parts) {
    rows += part.shape[0];
    bytes += part.bytes();
  }
  Joined joined{{}, Buffer::AllocateHost(bytes)};
  auto* at = static_cast<std::byte*>(joined.memory.data());
  if (at == nullptr) return joined;
  for (const TensorView& part : parts) {
    std::memcpy(at, part.data, part.bytes());
    at += part.bytes();
  }
  joined.view = joined.memory.View(parts.front().dtype, {rows, parts.front().shape[1]});
  return joined;
}

void HostBackend::Write(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
void HostBackend::Read(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

const Step& HostBackend::Begin(const StepInput& input, const KvView& kv, float* pool_scores) {
  for (const PageWrite& write : input.page_writes) kv.page_table[write.place] = write.page;
  CopyBlocks(kv.pool, kv.page_bytes(), input.page_copies);
  if (pool_scores != nullptr) {
    CopyBlocks(pool_scores, int64_t{kv.group_size} * kv.page_size * 4, input.page_copies);
  }
  tokens_ = input.tokens;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i] == StepInput::kLastDrawn) {
      tokens_[i] = drawn_[static_cast<size_t>(input.slots[i])];
    }
  }
  step_.kv = kv;
  step_.num_tokens = static_cast<int>(tokens_.size());
  step_.num_logit_rows = static_cast<int>(input.logit_rows.size());
  step_.tokens = tokens_.data();
  step_.input = &input;
  return step_;
}

void HostBackend::GatherRows(const GatherRowsParams& p) {
  const size_t bytes = BytesFor(p.in.dtype, p.in.shape[1]);
  auto* out = p.out.as<std::byte>();
  for (const int32_t row : p.step->input->logit_rows) {
    std::memcpy(out, p.in.as<std::byte>() + static_cast<size_t>(row) * bytes, bytes);
    out += bytes;
  }
}

Ticket HostBackend::Sample(const TensorView& logits, const SamplingInput& input) {
  const auto vocabulary = static_cast<size_t>(logits.shape[1]);
  const size_t count = input.rows.size();
  output_.tokens.resize(count);
  output_.logprobs.resize(count);
  output_.top.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const auto slot = static_cast<size_t>(input.rows[i].slot);
    const auto logit_row = static_cast<size_t>(input.rows[i].logit_row);
    sampler_.Sample({logits.as<float>() + logit_row * vocabulary, vocabulary}, input, i, output_);
    if (drawn_.size() <= slot) drawn_.resize(slot + 1);
    drawn_[slot] = std::max(output_.tokens[i], 0);  // a draw that failed: its sequence ends
  }
  return 0;
}

}  // namespace tangram::ops
