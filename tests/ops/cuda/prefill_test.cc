#include "ops/cuda/attention/prefill.h"

#include <cuda_fp8.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ops/cuda/device.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/numeric.h"

namespace tangram::ops::cuda {
namespace {

using Bf16 = __nv_bfloat16;
constexpr int kHp = 2;
constexpr int kBlocks = 13;  // an odd number of thread blocks

float Value(Bf16 v) { return __bfloat162float(v); }

struct Shape {
  int num_q_heads, num_kv_heads, head_dim;
  DType dtype = DType::kBF16;
  float query_scale = 1.f;
};

// Sequences of `tokens` each, behind histories that differ from row to row; pages in random order,
// NaN wherever no key or value was written.
class PrefillProblem {
 public:
  // history[s][row] of every sequence; rows hold kHp heads each, in a shuffled order.
  PrefillProblem(const Shape& shape, const std::vector<int>& tokens,
                 const std::vector<std::vector<int>>& history)
      : shape_(shape), tokens_(tokens), history_(history) {
    num_rows_ = shape.num_kv_heads / kHp;
    for (int h = 0; h < shape.num_kv_heads; ++h) {
      const int shuffled = (h * 3 + 1) % shape.num_kv_heads;
      head_row_.push_back(shuffled / kHp), head_column_.push_back(shuffled % kHp);
    }
    total_tokens_ = std::accumulate(tokens.begin(), tokens.end(), 0);
    const int heads = shape.num_q_heads + 2 * shape.num_kv_heads;
    qkv_ = RandomBf16(size_t(total_tokens_) * heads * shape.head_dim, 1, shape.query_scale);
    MakePages();
    device_qkv_ = DeviceArray<Bf16>(qkv_);
  }

  using Run = void (*)(const PrefillArgs&, cudaStream_t);

  // Output [T, Hq * d] with the tokens of each sequence cut into steps of at most `slice`.
  std::vector<Bf16> Attend(Run run, bool invariant = true, int slice = 1 << 30) {
    DeviceArray<Bf16> out(size_t(total_tokens_) * shape_.num_q_heads * shape_.head_dim);
    out.FillBytes(0xff);
    const PrefillShape plan{shape_.num_q_heads,  shape_.num_kv_heads, head_row_.data(),
                            head_column_.data(), num_rows_,           max_pages_};
    const int longest = *std::max_element(tokens_.begin(), tokens_.end());
    for (int at = 0; at < longest; at += slice) {
      std::vector<std::vector<int>> history = history_;
      std::vector<PrefillSequence> sequences;
      for (int s = 0, first = 0; s < int(tokens_.size()); first += tokens_[s++]) {
        if (at >= tokens_[s]) continue;
        for (int& length : history[s]) length += at;
        sequences.push_back({s, first + at, std::min(slice, tokens_[s] - at), history[s].data()});
      }
      const PrefillPlan planned = PlanPrefill(plan, sequences, kBlocks, invariant);
      num_cut_ = int(planned.merges.size());
      DeviceArray<int32_t> ranges(planned.ranges);
      DeviceArray<PrefillMerge> merges(planned.merges);
      DeviceArray<float> scratch(PrefillScratchBytes(planned, shape_.head_dim) / sizeof(float));
      scratch.FillBytes(0xff);
      DeviceArray<PrefillItem> items(planned.items);
      DeviceArray<PrefillRow> rows(planned.rows);
      DeviceArray<Bf16> expanded(planned.num_pages * 2 * kPageTokens * shape_.head_dim);
      expanded.FillBytes(0xff);
      run({device_qkv_.data(), out.data(), total_tokens_, shape_.num_q_heads, shape_.num_kv_heads,
           scale(), View(), items.data(), int(items.size()), ranges.data(), kBlocks, merges.data(),
           int(merges.size()), scratch.data(), rows.data(), int(rows.size()), expanded.data(),
           planned.num_pages},
          nullptr);
      TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
    }
    return out.Download();
  }

  // In double; with `rounded`, probabilities are rounded to bf16 before they weigh the values, as
  // bf16 kernels do.
  std::vector<double> Reference(bool rounded) const {
    const int d = shape_.head_dim, g = shape_.num_q_heads / shape_.num_kv_heads;
    std::vector<double> out(size_t(total_tokens_) * shape_.num_q_heads * d);
    for (int s = 0, first = 0; s < int(tokens_.size()); first += tokens_[s++]) {
      for (int t = 0; t < tokens_[s]; ++t) {
        for (int h = 0; h < shape_.num_q_heads; ++h) {
          const auto& k = keys_[s][h / g];
          const auto& v = values_[s][h / g];
          const int heads = shape_.num_q_heads + 2 * shape_.num_kv_heads;
          const Bf16* q = &qkv_[(size_t(first + t) * heads + h) * d];
          std::vector<double> p(history_[s][head_row_[h / g]] + t + 1);
          for (size_t i = 0; i < p.size(); ++i) {
            for (int j = 0; j < d; ++j) p[i] += double(Value(q[j])) * k[i * d + j];
            p[i] *= scale();
          }
          const double top = *std::max_element(p.begin(), p.end());
          double total = 0;
          double* to = &out[(size_t(first + t) * shape_.num_q_heads + h) * d];
          for (size_t i = 0; i < p.size(); ++i) {
            p[i] = std::exp(p[i] - top);
            total += p[i];
            if (rounded) p[i] = Value(__float2bfloat16(float(p[i])));
            for (int j = 0; j < d; ++j) to[j] += p[i] * v[i * d + j];
          }
          for (int j = 0; j < d; ++j) {
            to[j] /= total;
            if (rounded) to[j] = Value(__float2bfloat16(float(to[j])));
          }
        }
      }
    }
    return out;
  }

  // Ours errs at most twice as much as the rounded reference.
  void Check(Run run, bool cut = false) {
    const auto expected = Reference(false);
    const double bound = 2 * RelativeError(Reference(true), expected);
    EXPECT_LE(RelativeError(Attend(run), expected), bound);
    if (cut) {
      EXPECT_LE(RelativeError(Attend(run, false), expected), bound) << "cut along the keys";
    }
  }

  int num_cut() const { return num_cut_; }  // tiles of the last plan

 private:
  float scale() const { return 1.f / std::sqrt(float(shape_.head_dim)); }

  KvView View() const {
    return {pool_.data(),       shape_.dtype, shape_.head_dim, kHp,     num_pages_,
            page_table_.data(), num_rows_,    max_pages_,      nullptr, nullptr};
  }

  // As stored: rounded to the pages' type.
  float Round(float v) const {
    return shape_.dtype == DType::kBF16 ? Value(__float2bfloat16(v)) : float(__nv_fp8_e4m3(v));
  }

  void MakePages() {
    const int d = shape_.head_dim, element = shape_.dtype == DType::kBF16 ? 2 : 1;
    for (size_t s = 0; s < tokens_.size(); ++s) {
      for (int length : history_[s]) {
        max_pages_ = std::max(max_pages_, (length + tokens_[s] + kPageTokens - 1) / kPageTokens);
      }
    }
    num_pages_ = int64_t(tokens_.size()) * num_rows_ * max_pages_ + 3;
    std::vector<int32_t> ids(num_pages_);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(9));
    std::vector<char> pool(size_t(num_pages_) * kHp * 2 * kPageTokens * d * element, char(0xff));
    std::mt19937 generator(10);
    std::normal_distribution<float> normal;
    keys_.resize(tokens_.size()), values_.resize(tokens_.size());
    for (int s = 0; s < int(tokens_.size()); ++s) {
      keys_[s].resize(shape_.num_kv_heads), values_[s].resize(shape_.num_kv_heads);
      for (int h = 0; h < shape_.num_kv_heads; ++h) {
        const int length = history_[s][head_row_[h]] + tokens_[s];
        for (int i = 0; i < length; ++i) {
          const int64_t page =
              ids[(int64_t(s) * num_rows_ + head_row_[h]) * max_pages_ + i / kPageTokens];
          for (int part = 0; part < 2; ++part) {
            auto& values = part == 0 ? keys_[s][h] : values_[s][h];
            for (int j = 0; j < d; ++j) {
              const float v = Round(normal(generator));
              values.push_back(v);
              const size_t at =
                  (((page * kHp + head_column_[h]) * 2 + part) * kPageTokens + i % kPageTokens) *
                      d +
                  j;
              if (element == 2) {
                reinterpret_cast<Bf16*>(pool.data())[at] = __float2bfloat16(v);
              } else {
                reinterpret_cast<__nv_fp8_e4m3*>(pool.data())[at] = __nv_fp8_e4m3(v);
              }
            }
          }
        }
      }
    }
    pool_ = DeviceArray<char>(pool);
    // What no row uses must not be looked at: page ids far outside of the pool.
    for (int s = 0; s < int(tokens_.size()); ++s) {
      for (int row = 0; row < num_rows_; ++row) {
        const int used = (history_[s][row] + tokens_[s] + kPageTokens - 1) / kPageTokens;
        const auto begin = ids.begin() + (int64_t(s) * num_rows_ + row) * max_pages_;
        std::fill(begin + used, begin + max_pages_, 1 << 28);
      }
    }
    page_table_ = DeviceArray<int32_t>(ids);
  }

  Shape shape_;
  std::vector<int> tokens_;
  std::vector<std::vector<int>> history_;
  std::vector<int32_t> head_row_, head_column_;
  int num_rows_ = 0, max_pages_ = 0, total_tokens_ = 0, num_cut_ = 0;
  int64_t num_pages_ = 0;
  std::vector<Bf16> qkv_;
  std::vector<std::vector<std::vector<float>>> keys_, values_;  // [sequence][head][key * d]
  DeviceArray<Bf16> device_qkv_;
  DeviceArray<char> pool_;
  DeviceArray<int32_t> page_table_;
};

struct Case {
  Shape shape;
  std::vector<int> tokens;
  std::vector<std::vector<int>> history;
};

std::vector<Case> Cases() {
  return {
      {{8, 2, 128}, {1}, {{0}}},
      {{8, 2, 128}, {16}, {{0}}},
      {{8, 2, 128}, {17}, {{15}}},
      {{8, 2, 128}, {129}, {{0}}},
      {{16, 4, 128}, {150}, {{16, 333}}},
      {{8, 2, 128}, {64}, {{192}}},
      {{28, 4, 128}, {100, 3, 40}, {{7, 200}, {500, 127}, {128, 0}}},  // 7 heads to a KV head
      {{6, 2, 64}, {200, 31}, {{100}, {17}}},
      {{16, 2, 128}, {70}, {{260}}},
      {{32, 2, 128}, {20}, {{2900}}},  // 16 heads to a KV head, the most
      {{8, 2, 128}, {40, 20}, {{3000}, {700}}},
      {{2, 2, 64}, {130}, {{2100}}},
      {{2, 2, 128}, {300}, {{129}}},
      {{8, 2, 128, DType::kBF16, 60.f}, {80}, {{400}}},  // scores in the hundreds
  };
}

std::string Name(const Shape& shape) {
  return std::to_string(shape.num_q_heads) + "/" + std::to_string(shape.num_kv_heads) +
         " d=" + std::to_string(shape.head_dim) + (shape.dtype == DType::kF8E4M3 ? " fp8" : "");
}

void CheckAll(const std::vector<Case>& cases, PrefillProblem::Run run, bool cut) {
  for (const Case& c : cases) {
    SCOPED_TRACE(Name(c.shape) + " tokens " + std::to_string(c.tokens[0]));
    PrefillProblem(c.shape, c.tokens, c.history).Check(run, cut);
  }
}

TEST(PrefillSimple, AgreesWithDouble) { CheckAll(Cases(), RunPrefillSimple, false); }
TEST(PrefillSm90, AgreesWithDouble) { CheckAll(Cases(), RunPrefillSm90, true); }

std::vector<Case> Fp8Cases() {
  return {
      {{8, 2, 128, DType::kF8E4M3}, {100}, {{75}}},
      {{8, 4, 64, DType::kF8E4M3}, {40, 50}, {{75, 0}, {16, 300}}},
  };
}
TEST(PrefillSimple, ReadsFp8Pages) { CheckAll(Fp8Cases(), RunPrefillSimple, false); }
TEST(PrefillSm90, ReadsFp8Pages) { CheckAll(Fp8Cases(), RunPrefillSm90, false); }

// Little enough for a race detector.
TEST(PrefillSimple, FewTokens) {
  CheckAll({{{8, 2, 128}, {10}, {{100}}}, {{6, 2, 64}, {45}, {{17}}}}, RunPrefillSimple, false);
}

// Not its plan: a cut tile is computed for each of its parts.
TEST(PrefillSimple, IgnoresCuts) {
  PrefillProblem({8, 2, 128}, {4}, {{2500}}).Check(RunPrefillSimple, true);
}
TEST(RunPrefill, TakesAnyPlan) {
  PrefillProblem({8, 2, 128}, {4}, {{2500}}).Check(RunPrefill, true);
}

// Few tokens, so little enough for a race detector too.
TEST(PrefillSm90, AddsThePartsOfCutTiles) {
  for (const Case& c : std::vector<Case>{
           {{8, 2, 128}, {4}, {{2500}}},
           {{8, 2, 64}, {9}, {{2000}}},
           {{28, 4, 128}, {5}, {{3000, 1400}}},
           {{32, 2, 128}, {9}, {{2700}}},
           {{16, 4, 128}, {40}, {{1000, 3500}}},  // in strips, two tiles side by side
           {{8, 2, 128, DType::kF8E4M3}, {5}, {{2500}}},
           {{8, 4, 64, DType::kF8E4M3}, {3, 2}, {{1500, 2000}, {30, 2600}}},
       }) {
    SCOPED_TRACE(Name(c.shape));
    PrefillProblem problem(c.shape, c.tokens, c.history);
    problem.Check(RunPrefillSm90, true);
    EXPECT_GT(problem.num_cut(), 0);
  }
}

void ExpectSameBits(PrefillProblem::Run run) {
  for (const Shape& shape : {Shape{8, 4, 128}, Shape{8, 4, 64}, Shape{8, 4, 128, DType::kF8E4M3},
                             Shape{8, 4, 64, DType::kF8E4M3}}) {
    PrefillProblem problem(shape, {300, 77}, {{100, 201}, {0, 5}});
    const auto whole = problem.Attend(run);
    for (int slice : {64, 100, 37, 16, 300}) {
      const auto cut = problem.Attend(run, true, slice);
      EXPECT_EQ(std::memcmp(whole.data(), cut.data(), whole.size() * sizeof(Bf16)), 0)
          << Name(shape) << " in steps of " << slice;
    }
  }
}

TEST(PrefillSimple, GivesTheSameBitsHoweverTokensAreCut) { ExpectSameBits(RunPrefillSimple); }
TEST(PrefillSm90, GivesTheSameBitsHoweverTokensAreCut) { ExpectSameBits(RunPrefillSm90); }

}  // namespace
}  // namespace tangram::ops::cuda
