#include "ops/cuda/backend/attention_runner.h"

#include <algorithm>
#include <span>

#include "base/cores.h"
#include "ops/cuda/device.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kPlanners = 8;
// Up to so many tokens the products around attention are links of the chain: their blocks ask for
// weights ahead on the multiprocessors that attention leaves to them, half of all, which gains more
// than attention loses (docs/results.md).
constexpr int kMostChained = 32;

int PlannerThreads() { return std::clamp(AvailableCores() / 2, 1, kPlanners); }

// Whether all groups of each span have the same length, so that layers differ in pages alone.
bool SameLengths(const StepInput& input, const ops::KvView& kv, const Round& round) {
  for (int i = 0; i < round.num_spans; ++i) {
    const SequenceSpan& span = input.spans[static_cast<size_t>(round.first_span + i)];
    const int first = RowLength(kv.host_retention, span.retention, 0, span.position + 1);
    for (int g = 1; g < kv.num_groups; ++g) {
      if (RowLength(kv.host_retention, span.retention, g, span.position + 1) != first) return false;
    }
  }
  return true;
}

}  // namespace

AttentionRunner::AttentionRunner(int max_seqs, bool invariant)
    : max_seqs_(max_seqs),
      mode_(invariant ? SplitMode::kBatchInvariant : SplitMode::kEqualRanges),
      num_sms_(CurrentDevice().num_sms),
      planners_(PlannerThreads()) {}

void AttentionRunner::Prepare(const ops::KvView& kv) {
  if (maps_.contains(kv.pool)) return;
  maps_.emplace(kv.pool, MakeKvTensorMap(KernelView(kv)));
}

int AttentionRunner::NumRanges(int num_decodes) const {
  return num_decodes <= kMostChained ? std::max(1, num_sms_ / 2 - 2) : num_sms_;
}

DecodePlanBuffers AttentionRunner::PlanBuffers(const ops::KvView& kv, int num_decodes) {
  const int num_ranges = NumRanges(num_decodes);
  const size_t layers = static_cast<size_t>(kv.num_layers);
  const int most_entries = max_seqs_ * kv.num_kv_heads, num_entries = num_decodes * kv.num_kv_heads;
  const int max_splits = MaxSplits(mode_, num_entries, num_ranges);
  const int most_splits = MaxSplits(mode_, most_entries, num_sms_);
  return {entries_.Get<PlanEntry>(layers * static_cast<size_t>(most_entries + 1)),
          ranges_.Get<PlanRange>(layers * static_cast<size_t>(num_sms_ + 1)),
          splits_.Get<PlanSplit>(layers * static_cast<size_t>(most_splits)),
          num_splits_.Get<int32_t>(layers),
          kv.num_layers,
          num_entries,
          num_ranges,
          max_splits};
}

void AttentionRunner::PlanDecodes(const CudaStep& step, cudaStream_t stream) {
  const ops::KvView& kv = step.kv;
  RunDecodePlan({.batch = {step.padded_decodes, step.arrays.slots, step.arrays.num_tokens,
                           step.arrays.retentions},
                 .tables = KernelTables(kv.retention),
                 .head_row = kv.heads.group,
                 .head_column = kv.heads.column,
                 .num_kv_heads = kv.num_kv_heads,
                 .mode = mode_,
                 .costs = {},
                 .plan = PlanBuffers(kv, step.padded_decodes)},
                stream);
}

PrefillPlan AttentionRunner::Plan(const StepInput& input, const ops::KvView& kv, int round,
                                  int layer) const {
  const Round& of = input.rounds[static_cast<size_t>(round)];
  const int decodes = round == 0 ? input.num_decodes : 0;
  std::vector<int32_t> history(static_cast<size_t>((of.num_spans - decodes) * kv.num_groups));
  std::vector<PrefillSequence> sequences;
  for (int i = decodes; i < of.num_spans; ++i) {
    const SequenceSpan& span = input.spans[static_cast<size_t>(of.first_span + i)];
    int32_t* rows = history.data() + static_cast<ptrdiff_t>(sequences.size()) * kv.num_groups;
    for (int g = 0; g < kv.num_groups; ++g) {
      rows[g] = RowLength(kv.host_retention, span.retention, g, span.position + 1) - 1;
    }
    sequences.push_back({span.slot, span.first_token, span.num_tokens, rows});
  }
  const PrefillShape shape{kv.num_q_heads,
                           kv.num_kv_heads,
                           kv.host_heads.group + layer * kv.num_kv_heads,
                           kv.host_heads.column + layer * kv.num_kv_heads,
                           kv.num_groups,
                           kv.max_pages};
  return PlanPrefill(shape, sequences, num_sms_,
                     mode_ == SplitMode::kBatchInvariant || !RunsHopperCode());
}

void AttentionRunner::StagePrefills(const StepInput& input, const ops::KvView& kv,
                                    Staging& staging) {
  plans_.clear();
  const int rounds = static_cast<int>(input.rounds.size()), layers = kv.num_layers;
  const int decodes = input.num_decodes;
  if (rounds == 1 && input.rounds[0].num_spans == decodes) return;
  std::vector<PrefillPlan> made(static_cast<size_t>(rounds * layers));
  std::vector<int> jobs;
  for (int i = 0; i < rounds * layers; ++i) {
    if (i % layers == 0 || !SameLengths(input, kv, input.rounds[static_cast<size_t>(i / layers)])) {
      jobs.push_back(i);
    }
  }
  planners_.Run(static_cast<int>(jobs.size()), [&](int job, int) {
    const int i = jobs[static_cast<size_t>(job)];
    made[static_cast<size_t>(i)] = Plan(input, kv, i / layers, i % layers);
  });
  for (int i = 0; i < rounds * layers; ++i) {
    PrefillPlan& plan = made[static_cast<size_t>(i)];
    if (plan.ranges.empty()) {  // that of the first layer, on this one's pages
      const int layer = i % layers;
      plan = made[static_cast<size_t>(i - layer)];
      const Round& of = input.rounds[static_cast<size_t>(i / layers)];
      for (PrefillItem& item : plan.items) {
        const int place = layer * kv.num_kv_heads + item.kv_head;
        int slot = 0;
        for (int s = 0; s < of.num_spans; ++s) {
          const SequenceSpan& span = input.spans[static_cast<size_t>(of.first_span + s)];
          if (item.first_token >= span.first_token &&
              item.first_token < span.first_token + span.num_tokens) {
            slot = span.slot;
          }
        }
        item.column = kv.host_heads.column[place];
        item.page_table = kv.Place(slot, kv.host_heads.group[place]);
      }
    }
    StagedPlan& staged = plans_.emplace_back();
    staged.items = staging.Add(std::span<const PrefillItem>(plan.items));
    staged.ranges = staging.Add(std::span<const int32_t>(plan.ranges));
    staged.merges = staging.Add(std::span<const PrefillMerge>(plan.merges));
    staged.num_items = static_cast<int>(plan.items.size());
    staged.num_blocks = static_cast<int>(plan.ranges.size()) - 1;
    staged.num_merges = static_cast<int>(plan.merges.size());
    staged.scratch_floats = PrefillScratchBytes(plan, kv.head_dim) / sizeof(float);
    max_scratch_floats_ = std::max(max_scratch_floats_, staged.scratch_floats);
  }
  parts_.Get<float>(max_scratch_floats_);
}

void AttentionRunner::Run(const AttentionParams& params, const Staging& staging,
                          cudaStream_t stream) {
  const auto& step = static_cast<const CudaStep&>(*params.at.step);
  if (params.at.round == 0 && step.padded_decodes > 0) RunDecodes(params, stream);
  if (!step.recorded && !plans_.empty()) RunPrefills(params, staging, stream);
}

void AttentionRunner::RunDecodes(const AttentionParams& p, cudaStream_t stream) {
  const auto& step = static_cast<const CudaStep&>(*p.at.step);
  const ops::KvView& kv = step.kv;
  const int g = p.num_q_heads / kv.num_kv_heads;
  // In batch-invariant mode every unit of 64 pages has a partial: no more than there are pages, and
  // one more for each entry.
  const int64_t units =
      kv.num_pages * kv.group_size / kInvariantUnitPages + int64_t{max_seqs_} * kv.num_kv_heads;
  const auto partials =
      static_cast<size_t>(MaxPartials(mode_, num_sms_, units)) * static_cast<size_t>(g);
  const DecodeAttentionParams params{
      .q = p.qkv.as<__nv_bfloat16>(),
      .q_stride = int64_t{p.num_q_heads + 2 * kv.num_kv_heads} * kv.head_dim,
      .out = p.out.as<__nv_bfloat16>(),
      .num_q_heads = p.num_q_heads,
      .num_kv_heads = kv.num_kv_heads,
      .scale = p.scale,
      .kv = KernelView(kv),
      .plan = PlanBuffers(kv, step.padded_decodes).layer(p.at.layer, mode_),
      .partial_out = partial_out_.Get<float>(partials * static_cast<size_t>(kv.head_dim)),
      .partial_max_sum = partial_max_sum_.Get<float2>(partials),
      .early_start = step.padded_decodes <= kMostChained};
  RunDecodeAttention(params, maps_.at(kv.pool), stream);
  RunDecodeCombine(params, stream);
}

void AttentionRunner::RunPrefills(const AttentionParams& p, const Staging& staging,
                                  cudaStream_t stream) {
  const ops::KvView& kv = p.at.kv();
  const StagedPlan& plan = plans_[static_cast<size_t>(p.at.round * kv.num_layers + p.at.layer)];
  if (plan.num_items == 0) return;
  RunPrefill({.qkv = p.qkv.as<__nv_bfloat16>(),
              .out = p.out.as<__nv_bfloat16>(),
              .num_tokens = static_cast<int>(p.qkv.shape[0]),
              .num_q_heads = p.num_q_heads,
              .num_kv_heads = kv.num_kv_heads,
              .scale = p.scale,
              .kv = KernelView(kv),
              .items = staging.device<PrefillItem>(plan.items),
              .num_items = plan.num_items,
              .ranges = staging.device<int32_t>(plan.ranges),
              .num_blocks = plan.num_blocks,
              .merges = staging.device<PrefillMerge>(plan.merges),
              .num_merges = plan.num_merges,
              .scratch = parts_.Get<float>(0),
              .rows = nullptr,
              .num_rows = 0,
              .expanded = nullptr,
              .num_expanded = 0},
             stream);
}

}  // namespace tangram::ops::cuda
