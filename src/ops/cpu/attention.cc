#include "ops/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

// Highway includes this file again for each target: the order matters.
// clang-format off
#include "ops/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/attention.cc"
#include <hwy/foreach_target.h>
#include "ops/cpu/simd-inl.h"
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace tangram::ops {
namespace HWY_NAMESPACE {

constexpr int kPartTokens = 256;  // K and V of a part at head_dim 64 fit a small L2, scores fit L1
constexpr int kQueryRows = 48;    // query rows (tokens x heads) that share loads of K and V
constexpr int kRegisterRows = kLanes == 16 ? 6 : 4;
constexpr int kVectors = kLanes == 16 ? 4 : 2;

// Tokens [first, first + count) of one head's row: where K and V of each page lie.
template <class T>
struct PartPages {
  const T* key[kPartTokens];
  const T* value[kPartTokens];
};

// What a part adds for one query row: sum of exp(score - maximum), and with V.
struct RowState {
  float maximum = -std::numeric_limits<float>::infinity();
  float total = 0;
};

// One tile's memory: queries [rows][d rounded up], scores [rows][columns], sums [rows][d rounded
// up].
struct Tile {
  int rows, dim, padded_dim, columns;
  float* queries;
  float* scores;
  float* sums;
  RowState* states;
};

// A vector of V or of K; the last of a head or page may have fewer than kLanes values.
template <class T>
HWY_INLINE VF LoadSome(const T* p, int count) {
  if (HWY_LIKELY(count >= kLanes)) return LoadAsFloat(p);
  T values[kLanes] = {};
  std::memcpy(values, p, count * sizeof(T));
  return LoadAsFloat(values);
}

// scores[row][column of key] = q . k for kR rows and kV vectors of keys. All keys of a vector lie
// in one page; `key[v]` is where its first key's first dimension lies, dimensions are `page_size`
// apart.
template <int kR, int kV, bool kWhole, class T>
HWY_INLINE void ScoreKeys(const Tile& tile, int row, const T* const* key, int page_size, int count,
                          float* HWY_RESTRICT scores) {
  const DF df;
  VF dot[kR][kV];
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) dot[r][v] = hn::Zero(df);
  }
  const float* queries = tile.queries + row * tile.padded_dim;
  for (int i = 0; i < tile.dim; ++i) {
    VF k[kV];
    for (int v = 0; v < kV; ++v) {
      const T* from = key[v] + i * page_size;
      k[v] = kWhole ? LoadAsFloat(from) : LoadSome(from, count);
    }
    for (int r = 0; r < kR; ++r) {
      const VF q = hn::Set(df, queries[r * tile.padded_dim + i]);
      for (int v = 0; v < kV; ++v) dot[r][v] = hn::MulAdd(q, k[v], dot[r][v]);
    }
  }
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) hn::StoreU(dot[r][v], df, scores + r * tile.columns + v * kLanes);
  }
}

// sums[row][dims] = scores . V for kR rows and kV vectors of dimensions from `at` on; kWhole: all
// of them exist.
template <int kR, int kV, bool kWhole, class T>
HWY_INLINE void SumValues(const Tile& tile, int row, const T* const* value, int page_size,
                          int page_columns, int num_keys, int at) {
  const DF df;
  VF sum[kR][kV];
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) sum[r][v] = hn::Zero(df);
  }
  const int left = tile.dim - at;
  for (int page = 0; page * page_size < num_keys; ++page) {
    const int keys = std::min(page_size, num_keys - page * page_size);
    const float* scores = tile.scores + row * tile.columns + page * page_columns;
    const T* from = value[page] + at;
    for (int j = 0; j < keys; ++j, from += tile.dim) {
      VF values[kV];
      for (int v = 0; v < kV; ++v) {
        values[v] = kWhole ? LoadAsFloat(from + v * kLanes)
                           : LoadSome(from + v * kLanes, left - v * kLanes);
      }
      for (int r = 0; r < kR; ++r) {
        const VF weight = hn::Set(df, scores[r * tile.columns + j]);
        for (int v = 0; v < kV; ++v) sum[r][v] = hn::MulAdd(weight, values[v], sum[r][v]);
      }
    }
  }
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) {
      hn::StoreU(sum[r][v], df, tile.sums + (row + r) * tile.padded_dim + at + v * kLanes);
    }
  }
}

// Calls body(first row, number of rows as a type) for the tile's rows, as many at once as registers
// hold.
template <class Body>
HWY_INLINE void ForRegisterRows(int rows, const Body& body) {
  for (int row = 0; row < rows; row += kRegisterRows) {
    switch (rows - row) {
      case 1:
        body(row, std::integral_constant<int, 1>());
        break;
      case 2:
        body(row, std::integral_constant<int, 2>());
        break;
      case 3:
        body(row, std::integral_constant<int, 3>());
        break;
      case 4:
        body(row, std::integral_constant<int, 4>());
        break;
      case 5:
        body(row, std::integral_constant<int, HWY_MIN(kRegisterRows, 5)>());
        break;
      default:
        body(row, std::integral_constant<int, kRegisterRows>());
        break;
    }
  }
}

// Calls body(first vector, number as a type) for `count` vectors.
template <class Body>
HWY_INLINE void ForVectors(int count, const Body& body) {
  int v = 0;
  for (; v + kVectors <= count; v += kVectors) body(v, std::integral_constant<int, kVectors>());
  for (; v < count; ++v) body(v, std::integral_constant<int, 1>());
}

// Turns the scores of a row into weights exp(score - maximum), 0 for keys from `num_keys` on.
// Columns of a page are padded to whole vectors.
HWY_INLINE RowState WeighKeys(float* HWY_RESTRICT scores, int columns, int page_columns,
                              int page_size, int num_keys) {
  const DF df;
  const VF minus_infinity = hn::Set(df, -std::numeric_limits<float>::infinity());
  if (num_keys <= 0) {
    std::fill_n(scores, columns, 0.0f);
    return {};
  }
  VF largest = minus_infinity;
  for (int c = 0; c < columns; c += kLanes) {
    const int in_page = c % page_columns;
    const int valid =
        std::min(page_size - in_page, num_keys - c / page_columns * page_size - in_page);
    VF s = hn::LoadU(df, scores + c);
    if (valid < kLanes) {
      s = hn::IfThenElse(hn::FirstN(df, std::max(valid, 0)), s, minus_infinity);
      hn::StoreU(s, df, scores + c);
    }
    largest = hn::Max(largest, s);
  }
  RowState state;
  const VF maximum = hn::MaxOfLanes(df, largest);
  state.maximum = hn::GetLane(maximum);
  VF total = hn::Zero(df);
  for (int c = 0; c < columns; c += kLanes) {
    const VF weight =
        hn::Exp(df, hn::Max(hn::Sub(hn::LoadU(df, scores + c), maximum), hn::Set(df, -1000.0f)));
    hn::StoreU(weight, df, scores + c);
    total = hn::Add(total, weight);
  }
  state.total = hn::GetLane(hn::SumOfLanes(df, total));
  return state;
}

// The scores of `kV` vectors of keys from vector `first` of the part on.
template <int kR, int kV, bool kWhole, class T>
HWY_INLINE void ScoreVectors(const Tile& tile, const PartPages<T>& pages, int page_size, int row,
                             int first) {
  const int vectors_a_page = (page_size + kLanes - 1) / kLanes;
  const T* key[kV];
  for (int i = 0; i < kV; ++i) {
    key[i] = pages.key[(first + i) / vectors_a_page] + (first + i) % vectors_a_page * kLanes;
  }
  const int count = page_size - first % vectors_a_page * kLanes;
  ScoreKeys<kR, kV, kWhole>(tile, row, key, page_size, count,
                            tile.scores + row * tile.columns + first * kLanes);
}

// One part of the row for all rows of the tile. `visible(row)`: the keys of the part that it
// attends to.
template <class T, class Visible>
void AttendPart(const Tile& tile, const PartPages<T>& pages, int page_size, int num_keys,
                const Visible& visible) {
  const int vectors_a_page = (page_size + kLanes - 1) / kLanes;
  const int page_columns = vectors_a_page * kLanes;
  const int num_vectors = (num_keys + page_size - 1) / page_size * vectors_a_page;
  ForRegisterRows(tile.rows, [&](int row, auto r) HWY_ATTR {
    constexpr int kR = decltype(r)::value;
    if (page_size % kLanes == 0) {
      ForVectors(num_vectors, [&](int first, auto v) HWY_ATTR {
        ScoreVectors<kR, decltype(v)::value, true>(tile, pages, page_size, row, first);
      });
    } else {
      for (int v = 0; v < num_vectors; ++v) {
        ScoreVectors<kR, 1, false>(tile, pages, page_size, row, v);
      }
    }
  });
  for (int row = 0; row < tile.rows; ++row) {
    tile.states[row] = WeighKeys(tile.scores + row * tile.columns, num_vectors * kLanes,
                                 page_columns, page_size, visible(row));
  }
  ForRegisterRows(tile.rows, [&](int row, auto r) HWY_ATTR {
    constexpr int kR = decltype(r)::value;
    ForVectors(tile.dim / kLanes, [&](int first, auto v) HWY_ATTR {
      SumValues<kR, decltype(v)::value, true>(tile, row, pages.value, page_size, page_columns,
                                              num_keys, first * kLanes);
    });
    if (tile.dim % kLanes != 0) {
      SumValues<kR, 1, false>(tile, row, pages.value, page_size, page_columns, num_keys,
                              tile.padded_dim - kLanes);
    }
  });
}

// Joins a part's result to what the parts before it gave (Milakov and Gimelshein 2018, equation 4).
void JoinPart(const RowState& part, const float* part_sum, int dim, RowState* state, float* sum) {
  if (part.total == 0) return;  // no key of the part is visible
  const DF df;
  const float maximum = std::max(state->maximum, part.maximum);
  const float old_scale = std::exp(state->maximum - maximum);
  const float new_scale = std::exp(part.maximum - maximum);
  state->maximum = maximum;
  state->total = state->total * old_scale + part.total * new_scale;
  const VF a = hn::Set(df, old_scale), b = hn::Set(df, new_scale);
  for (int i = 0; i < dim; i += kLanes) {
    const VF joined =
        hn::MulAdd(hn::LoadU(df, part_sum + i), b, hn::Mul(hn::LoadU(df, sum + i), a));
    hn::StoreU(joined, df, sum + i);
  }
}

void WriteRow(const RowState& state, const float* sum, int dim, float* out) {
  const float inverse = 1.0f / state.total;
  for (int i = 0; i < dim; ++i) out[i] = sum[i] * inverse;
}

// Where the work of one call lies. Floats of a partial result: maximum, total, sum [padded_dim].
template <class T>
struct Attention {
  const AttentionParams& p;
  const KvView& kv;
  float* partials;
  int group, dim, padded_dim, part_pages, part_tokens, columns;

  Attention(const AttentionParams& params, float* partial_memory)
      : p(params), kv(params.at.kv()), partials(partial_memory) {
    group = p.num_q_heads / kv.num_kv_heads;
    dim = kv.head_dim;
    padded_dim = (dim + kLanes - 1) / kLanes * kLanes;
    part_pages = std::max(1, kPartTokens / kv.page_size);
    part_tokens = part_pages * kv.page_size;
    columns = part_pages * ((kv.page_size + kLanes - 1) / kLanes * kLanes);
  }
  int partial_floats() const { return 2 + padded_dim; }

  const SequenceSpan& Sequence(const AttentionItem& item) const { return p.at.span(item.sequence); }
  int History(const AttentionItem& item) const {
    return p.at.History(Sequence(item), p.at.group(item.kv_head));
  }
  float* Out(const AttentionItem& item, int row) const {
    const int64_t token = Sequence(item).first_token + item.first_token + row / group;
    return p.out.as<float>() + (token * p.num_q_heads + item.kv_head * group + row % group) * dim;
  }

  void FindPages(const AttentionItem& item, int part, int num_keys, PartPages<T>* pages) const {
    const int32_t* ids =
        kv.page_table + kv.Place(Sequence(item).slot, p.at.group(item.kv_head)) + part * part_pages;
    const int64_t block = int64_t{kv.page_size} * dim;
    for (int i = 0; i * kv.page_size < num_keys; ++i) {
      const int64_t page = int64_t{ids[i]} * kv.group_size + p.at.column(item.kv_head);
      pages->key[i] = static_cast<const T*>(kv.pool) + page * 2 * block;
      pages->value[i] = pages->key[i] + block;
    }
  }

  void LoadQueries(const AttentionItem& item, const Tile& tile) const {
    const int64_t stride = int64_t{p.num_q_heads + 2 * kv.num_kv_heads} * dim;
    for (int row = 0; row < tile.rows; ++row) {
      const int64_t token = Sequence(item).first_token + item.first_token + row / group;
      const float* query =
          p.qkv.as<float>() + token * stride + (item.kv_head * group + row % group) * dim;
      for (int i = 0; i < dim; ++i) tile.queries[row * padded_dim + i] = query[i] * p.scale;
    }
  }

  void Run(const AttentionItem& item, Scratch& scratch) const {
    const int rows = item.num_tokens * group;
    auto* memory = scratch.Get<float>(rows * (3 * padded_dim + columns + 4));
    auto* states = reinterpret_cast<RowState*>(memory + rows * (3 * padded_dim + columns));
    RowState* joined = states + rows;
    std::fill_n(joined, rows, RowState());
    const Tile tile{rows,
                    dim,
                    padded_dim,
                    columns,
                    memory,
                    memory + rows * padded_dim,
                    memory + rows * (padded_dim + columns),
                    states};
    float* sums = memory + rows * (2 * padded_dim + columns);
    std::fill_n(sums, rows * padded_dim, 0.0f);
    LoadQueries(item, tile);
    const int history = History(item) + item.first_token;
    PartPages<T> pages;
    for (int part = item.first_part; part < item.first_part + item.num_parts; ++part) {
      const int start = part * part_tokens;
      const int num_keys = std::min(part_tokens, history + item.num_tokens - start);
      FindPages(item, part, num_keys, &pages);
      AttendPart(tile, pages, kv.page_size, num_keys,
                 [&](int row) { return std::min(part_tokens, history + row / group + 1 - start); });
      for (int row = 0; row < rows; ++row) {
        const float* part_sum = tile.sums + row * padded_dim;
        if (item.partial >= 0) {
          float* to = partials + (item.partial + row) * partial_floats();
          to[0] = states[row].maximum;
          to[1] = states[row].total;
          std::copy_n(part_sum, padded_dim, to + 2);
        } else {
          JoinPart(states[row], part_sum, padded_dim, &joined[row], sums + row * padded_dim);
        }
      }
    }
    if (item.partial >= 0) return;
    for (int row = 0; row < rows; ++row) {
      WriteRow(joined[row], sums + row * padded_dim, dim, Out(item, row));
    }
  }

  // Joins the parts of a tile that were dealt to threads, one item each.
  void Join(const AttentionItem* items, int num_parts, Scratch& scratch) const {
    const int rows = items->num_tokens * group;
    auto* sum = scratch.Get<float>(padded_dim);
    for (int row = 0; row < rows; ++row) {
      RowState state;
      std::fill_n(sum, padded_dim, 0.0f);
      for (int i = 0; i < num_parts; ++i) {
        const float* from = partials + (items[i].partial + row) * partial_floats();
        JoinPart({from[0], from[1]}, from + 2, padded_dim, &state, sum);
      }
      WriteRow(state, sum, dim, Out(*items, row));
    }
  }
};

// Cuts the step into items: tiles of query rows, and where these are fewer than threads can share,
// parts.
template <class T>
int64_t PlanItems(const Attention<T>& attention, bool split, std::vector<AttentionItem>* items) {
  const LayerRound& at = attention.p.at;
  items->clear();
  int64_t num_partials = 0;
  const int tile_tokens = std::max(1, kQueryRows / attention.group);
  for (int s = 0; s < at.num_spans(); ++s) {
    for (int head = 0; head < at.kv().num_kv_heads; ++head) {
      for (int t = 0; t < at.span(s).num_tokens; t += tile_tokens) {
        AttentionItem item{s, head, t, std::min(tile_tokens, at.span(s).num_tokens - t), 0, 0, -1};
        const int length = attention.History(item) + t + item.num_tokens;
        const int parts = (length + attention.part_tokens - 1) / attention.part_tokens;
        item.num_parts = split ? 1 : parts;
        for (int part = 0; part < (split ? parts : 1); ++part) {
          item.first_part = part;
          if (split) item.partial = num_partials;
          num_partials += split ? item.num_tokens * attention.group : 0;
          items->push_back(item);
        }
      }
    }
  }
  return num_partials;
}

template <class T>
void AttendAll(const AttentionParams& p, AttentionContext& context) {
  Attention<T> attention(p, nullptr);
  std::vector<AttentionItem>& items = context.items;
  PlanItems(attention, false, &items);
  const bool split = static_cast<int>(items.size()) < 4 * context.pool.num_threads() &&
                     context.pool.num_threads() > 1;
  if (split) {
    const int64_t rows = PlanItems(attention, true, &items);
    attention.partials = context.partials.Get<float>(rows * attention.partial_floats());
  }
  context.pool.Run(static_cast<int>(items.size()),
                   [&](int i, int worker) { attention.Run(items[i], context.worker[worker]); });
  if (!split) return;
  for (size_t i = 0, end; i < items.size(); i = end) {
    for (end = i + 1; end < items.size() && items[end].first_part > 0;) ++end;
    attention.Join(&items[i], static_cast<int>(end - i), context.worker[0]);
  }
}

void AttentionCpu(const AttentionParams& p, AttentionContext& context) {
  switch (p.at.kv().dtype) {
    case DType::kF32:
      return AttendAll<float>(p, context);
    case DType::kF16:
      return AttendAll<hwy::float16_t>(p, context);
    case DType::kBF16:
      return AttendAll<hwy::bfloat16_t>(p, context);
    default:
      TANGRAM_CHECK(false, "KV cache of type {}", DTypeName(p.at.kv().dtype));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tangram::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tangram::ops {

HWY_EXPORT(AttentionCpu);
void AttentionCpu(const AttentionParams& p, AttentionContext& context) {
  HWY_DYNAMIC_DISPATCH(AttentionCpu)(p, context);
}

}  // namespace tangram::ops
#endif
