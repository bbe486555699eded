// What keys get from a step's queries, against the reference.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "ops/kv_world.h"

namespace tangram::ops {
namespace {

const KvWorldShape kShapes[] = {
    {DType::kF32, 64, 16, 3, 3, 3, {{0, 40}}},
    {DType::kF16, 64, 16, 2, 2, 4, {{70, 1}, {250, 33}}},
    {DType::kBF16, 20, 8, 2, 1, 1, {{300, 9}}},
};

constexpr int kWindow = 5;

// What an op writes for one sequence: [tokens, Hkv]. Empty if no token stands before the step.
using RunOp = std::function<std::vector<float>(Backend&, const StepQueries&, int least_history,
                                               int longest_row)>;

std::vector<float> Largest(Backend& backend, const StepQueries& step, int least_history, int) {
  const int count = std::min(21, least_history);
  if (count == 0) return {};
  const Guarded out(backend, {count, step.at.kv().num_kv_heads});
  backend.MaxAttention({step, count, out.view().as<float>()});
  out.ExpectGuardsIntact();
  return out.values();
}

std::vector<float> Sums(Backend& backend, const StepQueries& step, int, int longest_row) {
  const Shape shape{longest_row, step.at.kv().num_kv_heads};
  const Guarded out(backend, shape, std::vector<float>(static_cast<size_t>(shape.count()), 0.5f));
  backend.SumAttention({step, kWindow, out.view().as<float>()});
  out.ExpectGuardsIntact();
  return out.values();
}

// Of every sequence of a world, one behind the other.
std::vector<float> RunAll(Backend& backend, const KvWorldShape& shape, const RunOp& run) {
  KvWorld world(backend, shape, 31);
  const std::vector<float> qkv = Random(32).Normals(world.num_tokens() * world.qkv_width());
  world.AppendPlain(qkv);
  const Guarded in(backend, {world.num_tokens(), world.qkv_width()}, qkv);
  std::vector<float> all;
  for (size_t s = 0; s < world.sequences().size(); ++s) {
    const SequenceSpan& span = world.sequences()[s];
    std::vector<int> history;
    for (int h = 0; h < shape.num_kv_heads; ++h) {
      history.push_back(world.history(static_cast<int>(s), h));
    }
    const StepQueries step{.at = world.Begin(backend, {span}),
                           .qkv = in.view(),
                           .num_q_heads = world.num_q_heads(),
                           .scale = 1 / std::sqrt(static_cast<float>(shape.head_dim))};
    const auto values =
        run(backend, step, std::ranges::min(history), std::ranges::max(history) + span.num_tokens);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

class ReceivedAttentionTest : public testing::TestWithParam<TestedBackend> {
 protected:
  void ExpectReference(const RunOp& run) {
    const auto reference = CreateReferenceBackend(), backend = GetParam().create(2);
    for (const KvWorldShape& shape : kShapes) {
      const std::vector<float> expected = RunAll(*reference, shape, run);
      const std::vector<float> values = RunAll(*backend, shape, run);
      ASSERT_EQ(values.size(), expected.size());
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_NEAR(values[i], expected[i], 1e-5 * std::max(1e-3f, expected[i])) << i;
      }
    }
  }
};

TEST_P(ReceivedAttentionTest, LargestEqualsTheReference) { ExpectReference(Largest); }
TEST_P(ReceivedAttentionTest, SumEqualsTheReference) { ExpectReference(Sums); }

// With no window the sums of all keys are the queries' number; what was there is added to.
TEST(ReceivedAttentionSumTest, AddsUp) {
  const auto reference = CreateReferenceBackend();
  const KvWorldShape& shape = kShapes[0];
  const auto values = RunAll(
      *reference, shape, [](Backend& backend, const StepQueries& step, int, int longest_row) {
        const Guarded out(backend, {longest_row, kShapes[0].num_kv_heads},
                          std::vector<float>(size_t(longest_row * kShapes[0].num_kv_heads), 1.0f));
        backend.SumAttention({step, 0, out.view().as<float>()});
        return out.values();
      });
  const auto tokens = static_cast<double>(shape.sequences[0].second);
  EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0),
              tokens * shape.num_kv_heads * (1 + shape.q_per_kv), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Backends, ReceivedAttentionTest, testing::ValuesIn(TestedBackends()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tangram::ops
