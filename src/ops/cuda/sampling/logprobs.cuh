#pragma once

#include "ops/cuda/sampling/sampling.h"
#include "ops/cuda/sampling/select.cuh"

// Log probabilities of a row's logits as they came.

namespace tangram::ops::cuda::sampling {

struct LogprobRow {
  const SamplingArgs& args;
  int index;      // of the row
  Scores logits;  // as they came, undivided
  int num_top;
  float log_sum;  // log(sum(exp(logits)))

  // By one thread of the row.
  __device__ __forceinline__ void WriteTop(int place, int token, float logit) const {
    const int64_t at = static_cast<int64_t>(index) * args.num_top + place;
    args.top_tokens[at] = token;
    args.top_logprobs[at] = token < 0 ? -INFINITY : logit - log_sum;
  }
};

// Where more tie with the last one than a list holds: a pass for each.
__device__ inline void WriteTopOneByOne(Team& team, const LogprobRow& row) {
  Wide last = ~Wide{0};
  for (int place = 0; place < row.num_top; ++place) {
    Best best;
    ForEach(row.logits.slice, 1, [&](float logit, int token) {
      if (logit > -INFINITY && Best{logit, token}.Pack() < last) best.Offer(logit, token);
    });
    last = team.Max(best.Pack());
    best = Best::Unpack(last);
    const bool any = best.value > -INFINITY;
    if (team.rank == 0 && threadIdx.x == 0) row.WriteTop(place, any ? best.token : -1, best.value);
  }
}

__device__ inline void WriteTop(Team& team, const LogprobRow& row, Shared& shared) {
  const Goal goal{false, static_cast<Wide>(row.num_top)};
  const Cut cut = SelectWithin(team, row.logits, kNone, goal, shared);
  if (!cut.listed) {
    WriteTopOneByOne(team, row);
    return;
  }
  const int count = ListWithin(team, row.logits, cut.limit, shared);
  const int i = threadIdx.x;
  if (team.rank != 0) return;  // nothing below is done together
  if (i >= count && i < row.num_top) row.WriteTop(i, -1, 0);
  if (i >= count) return;
  const float logit = shared.all.value[i];
  const int token = shared.all.token[i];
  int place = 0;
  for (int j = 0; j < count; ++j) {
    const float other = shared.all.value[j];
    place += other > logit || (other == logit && shared.all.token[j] < token);
  }
  if (place < row.num_top) row.WriteTop(place, token, logit);
}

// The log probability and the rank of the row's token, and of the likeliest ones, as far as the
// row wants them. `logits`: as they came; `largest` of all of them.
__device__ inline void WriteLogprobs(const SamplingArgs& args, int index, Team& team,
                                     const Slice& logits, float largest, int token,
                                     Shared& shared) {
  const SamplingRow& how = shared.row;
  const bool writes = team.rank == 0 && threadIdx.x == 0;
  LogprobRow row{args, index, {logits, 1, largest}, min(how.num_logprobs, args.num_top), 0};
  if (token < 0) {
    if (writes) {
      args.logprobs[index] = 0, args.ranks[index] = 0;
      for (int i = 0; i < row.num_top; ++i) row.WriteTop(i, -1, 0);
    }
    return;
  }
  const float logit = args.logits[how.logit_row * args.stride + token];
  Wide mass = 0, better = 0;
  ForEach(logits, 1, [&](float other, int) {
    if (other > -INFINITY) mass += row.logits.Mass(other);
    better += other > logit;
  });
  mass = team.Sum(mass), better = team.Sum(better);
  row.log_sum = largest + static_cast<float>(log(static_cast<double>(mass) * 0x1p-40));
  if (writes) {
    args.logprobs[index] = logit - row.log_sum;
    args.ranks[index] = static_cast<int>(better) + 1;
  }
  if (row.num_top > 0) WriteTop(team, row, shared);
}

}  // namespace tangram::ops::cuda::sampling
