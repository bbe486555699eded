#pragma once

#include "ops/cuda/sampling/sampling.h"
#include "ops/cuda/sampling/select.cuh"

// From a row's logits to its token.

namespace tangram::ops::cuda::sampling {

struct Loaded {
  Slice slice;         // the logits, adjusted
  Best best, winner;   // of the row: the likeliest, and the one that is drawn if nothing is cut off
  float largest_came;  // logit of the row before adjustments; if log probabilities are wanted
};

// Whether min-p, top-k or top-p may cut something off.
__device__ __forceinline__ bool IsFiltered(const SamplingRow& row) {
  return row.temperature > 0 && (row.min_p > 0 || row.top_k > 0 || row.top_p < 1);
}

// The block's best token; with `racing` it also runs the race over all tokens.
template <class Seen>
__device__ __forceinline__ Best Scan(const Slice& slice, const SamplingRow& row, bool racing,
                                     Race& race, const Seen& seen) {
  Best best;
  ForEachFour<4>(
      slice,
      [&](const float4& v, int i) {
        best.OfferFour(v, slice.first + i);
        seen(v, i);
        if (!racing) return;
        race.OfferFour(Divide(v, row.temperature), slice.first + i, [](float) { return true; });
      },
      [&] {
        if (racing) race.Share();
      });
  return best;
}

// Biases and penalties, as far as they concern the slice. Separately rounded, as on the host.
__device__ inline void AdjustSlice(const SamplingArgs& args, const SamplingRow& row,
                                   const Slice& slice, float* logits) {
  const int thread = threadIdx.x;
  // A token may be named several times, so that all its biases are one thread's.
  for (int i = 0; i < row.num_biases; ++i) {
    const TokenBias bias = args.biases[row.first_bias + i];
    const int at = bias.token - slice.first;
    if (at >= 0 && at < slice.count && at % kThreads == thread) {
      logits[at] = __fadd_rn(logits[at], bias.bias);
    }
  }
  __syncthreads();
  for (int i = thread; i < row.num_seen; i += kThreads) {
    const SeenToken seen = args.seen[row.first_seen + i];
    const int at = seen.token - slice.first;
    if (at < 0 || at >= slice.count) continue;
    const float logit = logits[at], p = row.repetition_penalty;
    const float penalty = __fadd_rn(
        row.presence_penalty, __fmul_rn(row.frequency_penalty, static_cast<float>(seen.times)));
    const float repeated = logit > 0 ? __fdiv_rn(logit, p) : __fmul_rn(logit, p);
    logits[at] = seen.times > 0 ? __fsub_rn(repeated, penalty) : repeated;
  }
  __syncthreads();
}

// Reads the slice once, into `room` if it is read again and there is room, or if it is adjusted,
// which takes room.
__device__ inline Loaded Load(const SamplingArgs& args, const SamplingRow& row, const Slice& came,
                              bool logprobs, float* room, Team& team) {
  const bool adjusted = row.adjusted(), racing = row.temperature > 0 && !IsFiltered(row);
  const bool keeps = room != nullptr && (adjusted || logprobs || IsFiltered(row));
  const uint32_t* allowed =
      row.first_allowed < 0 ? nullptr : args.allowed + row.first_allowed + came.first / 32;
  const int shift = came.first % 32;
  Race race{row.seed, row.draw};
  Best best = Scan(came, row, racing && !adjusted, race, [&](float4 v, int i) {
    if (allowed != nullptr) {
      const int at = shift + i;
      const uint32_t bits = allowed[at / 32] >> at % 32;
      if ((bits & 1) == 0) v.x = -INFINITY;
      if ((bits & 2) == 0) v.y = -INFINITY;
      if ((bits & 4) == 0) v.z = -INFINITY;
      if ((bits & 8) == 0) v.w = -INFINITY;
    }
    if (keeps) *reinterpret_cast<float4*>(room + i) = v;
  });
  Loaded loaded{came, {}, {}, -INFINITY};
  if (keeps) loaded.slice.values = room;
  if (adjusted) {
    if (logprobs) loaded.largest_came = Best::Unpack(team.Max(best.Pack())).value;
    __syncthreads();
    AdjustSlice(args, row, came, room);
    best = Scan(loaded.slice, row, racing, race, [](const float4&, int) {});
  }
  // This also lets each thread read what others have stored.
  loaded.best = Best::Unpack(team.Max(best.Pack()));
  if (!adjusted) loaded.largest_came = loaded.best.value;
  if (racing) loaded.winner = Best::Unpack(team.Max(race.best.Pack()));
  return loaded;
}

// Among the listed ones, which are no less than those that top-k keeps or, where `mass` is not 0,
// those that weigh it. A token is kept if those before it, which win all ties, are too few.
__device__ inline int DrawListed(Team& team, const Scores& scores, int count, Wide mass,
                                 Shared& shared) {
  const SamplingRow& row = shared.row;
  const int i = threadIdx.x;
  const bool listed = i < count, top_p = row.top_p < 1;
  const float score = listed ? shared.all.value[i] : -INFINITY;
  const int token = listed ? shared.all.token[i] : 0;
  const uint32_t distance = listed ? scores.Distance(score) : kNone;
  const Wide weight = listed && top_p ? scores.Mass(score) : 0;
  shared.listed.distance[i] = distance, shared.listed.mass[i] = weight;
  __syncthreads();
  int nearer = 0;
  Wide before = 0;
  if (listed) {
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      if (shared.listed.distance[j] >= distance) continue;
      ++nearer;
      before += shared.listed.mass[j];
    }
  }
  bool kept = listed && (row.top_k <= 0 || nearer < row.top_k);
  if (top_p) {
    if (mass == 0) mass = ShareOf(team.SumInBlock(kept ? weight : 0), row.top_p);
    kept = kept && before < mass;
  }
  Best best;
  if (kept) {
    const Philox4 bits = NoiseBits(token / 4, row.draw, row.seed);
    const uint32_t low = token % 2 == 0 ? bits.x : bits.y, high = token % 2 == 0 ? bits.z : bits.w;
    best.Offer(__fadd_rn(score, Gumbel(token % 4 < 2 ? low : high)), token);
  }
  return Best::Unpack(team.MaxInBlock(best.Pack())).token;
}

// Of all tokens within the limit.
__device__ inline int DrawWithin(Team& team, const SamplingRow& row, const Scores& scores,
                                 uint32_t limit) {
  Race race{row.seed, row.draw};
  race.level = scores.best + kMinGumbel;
  ForEachFour<2>(
      scores.slice,
      [&](const float4& v, int i) {
        race.OfferFour(Divide(v, scores.divisor), scores.slice.first + i,
                       [&](float score) { return scores.Distance(score) <= limit; });
      },
      [&] { race.Share(); });
  return Best::Unpack(team.Max(race.best.Pack())).token;
}

// The token is the same in all blocks.
__device__ inline int Draw(Team& team, const SamplingRow& row, const Loaded& loaded, int vocabulary,
                           Shared& shared) {
  if (!(loaded.best.value > -INFINITY)) return -1;
  if (!(row.temperature > 0)) return loaded.best.token;
  const Scores scores{loaded.slice, row.temperature, __fdiv_rn(loaded.best.value, row.temperature)};
  if (!isfinite(scores.best)) return loaded.best.token;  // no noise would change it
  if (!IsFiltered(row)) return loaded.winner.token;
  Cut cut{kNone, false, 0};
  if (row.min_p > 0) cut.limit = scores.Distance(scores.best + fminf(0, logf(row.min_p)));
  if (row.top_k > 0 && row.top_k < vocabulary) {
    const Goal goal{false, static_cast<Wide>(row.top_k)};
    cut = SelectWithin(team, scores, cut.limit, goal, shared);
  }
  Wide mass = 0;
  if (row.top_p < 1 && !cut.listed) {
    cut = SelectWithin(team, scores, cut.limit, {true, 0, row.top_p}, shared);
    mass = cut.wanted;
  }
  if (!cut.listed) return DrawWithin(team, row, scores, cut.limit);
  const int count = ListWithin(team, scores, cut.limit, shared);
  return DrawListed(team, scores, count, mass, shared);
}

}  // namespace tangram::ops::cuda::sampling
