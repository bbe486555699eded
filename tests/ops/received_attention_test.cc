// What keys get from a step's queries, against float64.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ops/kv_world.h"

namespace tangram::ops {
namespace {

const KvWorldShape kShapes[] = {
    {DType::kF32, 64, 16, 3, 3, 3, {{0, 40}}},
    {DType::kF16, 64, 16, 2, 2, 4, {{70, 1}, {250, 33}}},
    {DType::kBF16, 20, 8, 2, 1, 1, {{300, 9}}},
};

// Attention [query token, query head of the group, key] of one head of a sequence, in float64.
class Attention64 {
 public:
  Attention64(const KvWorld& world, const std::vector<float>& qkv, int sequence, int head)
      : group_(world.shape().q_per_kv),
        history_(world.history(sequence, head)),
        tokens_(world.sequences()[sequence].num_tokens) {
    const int d = world.shape().head_dim;
    const int64_t first = world.sequences()[sequence].first_token;
    for (int q = 0; q < tokens_ * group_; ++q) {
      const float* query = &qkv[(first + q / group_) * world.qkv_width() +
                                (int64_t{head} * group_ + q % group_) * d];
      std::vector<double>& row = rows_.emplace_back();
      double sum = 0;
      for (int t = 0; t <= history_ + q / group_; ++t) {
        double dot = 0;
        for (int i = 0; i < d; ++i) {
          dot += double(query[i]) * world.Get(sequence, head, t, false, i);
        }
        sum += row.emplace_back(std::exp(dot / std::sqrt(double(d))));
      }
      for (double& x : row) x /= sum;
    }
  }
  int history() const { return history_; }
  int length() const { return history_ + tokens_; }
  double Largest(int key) const {
    double largest = 0;
    for (const auto& row : rows_) largest = std::max(largest, row[static_cast<size_t>(key)]);
    return largest;
  }
  // Over the queries that are at least `window` tokens behind the key.
  double Sum(int key, int window) const {
    double sum = 0;
    for (int q = 0; q < tokens_ * group_; ++q) {
      if (history_ + q / group_ >= key + window) sum += rows_[static_cast<size_t>(q)][key];
    }
    return sum;
  }

 private:
  int group_, history_, tokens_;
  std::vector<std::vector<double>> rows_;
};

class ReceivedAttentionTest : public testing::TestWithParam<TestedBackend> {
 protected:
  // Calls check(world, step, float64) for every shape, sequence and head.
  template <class Check>
  void ForSteps(const Check& check) {
    for (const KvWorldShape& shape : kShapes) {
      KvWorld world(*backend_, shape, 31);
      const std::vector<float> qkv = Random(32).Normals(world.num_tokens() * world.qkv_width());
      world.AppendPlain(qkv);
      const Guarded in(*backend_, {world.num_tokens(), world.qkv_width()}, qkv);
      for (size_t s = 0; s < world.sequences().size(); ++s) {
        const StepQueries step{.at = world.Begin(*backend_, {world.sequences()[s]}),
                               .qkv = in.view(),
                               .num_q_heads = world.num_q_heads(),
                               .scale = 1 / std::sqrt(static_cast<float>(shape.head_dim))};
        std::vector<Attention64> heads;
        for (int h = 0; h < shape.num_kv_heads; ++h) {
          heads.emplace_back(world, qkv, static_cast<int>(s), h);
        }
        check(step, heads);
      }
    }
  }

  std::unique_ptr<Backend> backend_ = GetParam().create(2);
};

TEST_P(ReceivedAttentionTest, LargestAgreesWithDouble) {
  ForSteps([&](const StepQueries& step, const std::vector<Attention64>& heads) {
    int count = 21;
    for (const auto& head : heads) count = std::min(count, head.history());
    if (count == 0) return;  // no token stands before the step
    const auto width = static_cast<int64_t>(heads.size());
    const Guarded out(*backend_, {count, width});
    backend_->MaxAttention({step, count, out.view().as<float>()});
    out.ExpectGuardsIntact();
    const auto values = out.values();
    for (int t = 0; t < count; ++t) {
      for (size_t h = 0; h < heads.size(); ++h) {
        const double expected = heads[h].Largest(heads[h].history() - count + t);
        EXPECT_NEAR(values[static_cast<size_t>(t) * heads.size() + h], expected, 1e-5 * expected);
      }
    }
  });
}

TEST_P(ReceivedAttentionTest, SumAgreesWithDoubleAndAddsUp) {
  constexpr int kWindow = 5;
  ForSteps([&](const StepQueries& step, const std::vector<Attention64>& heads) {
    int length = 0;
    for (const auto& head : heads) length = std::max(length, head.length());
    const std::vector<float> before(static_cast<size_t>(length) * heads.size(), 0.5f);
    const Guarded out(*backend_, {length, static_cast<int64_t>(heads.size())}, before);
    backend_->SumAttention({step, kWindow, out.view().as<float>()});
    out.ExpectGuardsIntact();
    const auto values = out.values();
    for (size_t h = 0; h < heads.size(); ++h) {
      for (int t = 0; t < length; ++t) {
        const double sum = t < heads[h].length() ? heads[h].Sum(t, kWindow) : 0;
        EXPECT_NEAR(values[static_cast<size_t>(t) * heads.size() + h], 0.5 + sum, 1e-5 * (1 + sum));
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, ReceivedAttentionTest, testing::ValuesIn(TestedBackends()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tangram::ops
