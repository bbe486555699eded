// Whole forward steps of SmolLM2-135M's shapes on random weights, and how the time divides among
// the ops. Args: sequences, tokens of each in the step, tokens before it. On all cores that the
// process may use, by the wall clock; the parts by the calling thread's CPU time. On a busy
// machine, compare under `taskset -c 0`.

#include <benchmark/benchmark.h>

#include <ctime>
#include <random>

#include "ops/backend.h"

namespace tangram::ops {
namespace {

constexpr int kLayers = 30, kWidth = 576, kInner = 1536, kQHeads = 9, kKvHeads = 3, kDim = 64;
constexpr int kVocabulary = 49152, kPageSize = 16, kGroupSize = 3, kChunk = 512;
constexpr int kQkv = (kQHeads + 2 * kKvHeads) * kDim;

enum Part { kEmbed, kNorm, kProducts, kAppend, kAttend, kSilu, kHead, kParts };
constexpr const char* kPartNames[] = {"embed",     "norm", "products", "append",
                                      "attention", "silu", "head"};

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class Forward {
 public:
  Forward(int sequences, int tokens, int history)
      : backend_(CreateCpuBackend(0)), num_sequences_(sequences), num_tokens_(sequences * tokens) {
    for (int i = 0; i < kLayers; ++i) {
      layers_.push_back({Weight(DType::kQ4_1, kQkv, kWidth), Weight(DType::kQ4_1, kWidth, kWidth),
                         Weight(DType::kQ4_1, 2 * kInner, kWidth),
                         Weight(DType::kQ4_1, kWidth, kInner)});
    }
    head_ = Weight(DType::kQ8_0, kVocabulary, kWidth);
    for (int i = 0; i < kDim / 2; ++i) inv_freq_.push_back(std::pow(10000.0f, -2.0f * i / kDim));
    for (auto [buffer, width] : {std::pair{&residual_, kWidth},
                                 {&x_, kWidth},
                                 {&normed_, kWidth},
                                 {&qkv_, kQkv},
                                 {&gate_up_, 2 * kInner},
                                 {&inner_, kInner}}) {
      *buffer = backend_->Allocate(size_t(num_tokens_) * width * 4);
    }
    logits_ = backend_->Allocate(size_t(num_sequences_) * kVocabulary * 4);
    norm_ = backend_->Allocate(kWidth * 4);
    std::fill_n(static_cast<float*>(norm_.data()), kWidth, 1.0f);
    MakePool(history + tokens);
    MakeInput(tokens, history);
    step_ = &backend_->Begin(input_, kv_, nullptr);
  }

  void Run() {
    Time(kEmbed, [&] { backend_->Embedding({step_, head_, View(residual_, kWidth)}); });
    for (int i = 0; i < kLayers; ++i) Layer(i);
    Norm(true);
    const TensorView last = x_.View(DType::kF32, {num_sequences_, kWidth});
    Time(kHead, [&] {
      backend_->MatMul({last, head_, {}, logits_.View(DType::kF32, {num_sequences_, kVocabulary})});
    });
  }
  double seconds(int part) const { return seconds_[part]; }

 private:
  struct Weights {
    TensorView qkv, o, gate_up, down;
  };

  // A group of pages for each layer.
  void MakePool(int length) {
    for (int l = 0; l < kLayers; ++l) {
      for (int h = 0; h < kKvHeads; ++h) {
        groups_.push_back(l);
        columns_.push_back(h);
      }
    }
    const int num_boundaries = length / kChunk + 1;
    for (int k = 0; k < num_boundaries; ++k) retained_.insert(retained_.end(), kLayers, k * kChunk);
    kv_ = {.dtype = DType::kF16,
           .page_size = kPageSize,
           .group_size = kGroupSize,
           .head_dim = kDim,
           .num_groups = kLayers,
           .max_pages = (length + kPageSize - 1) / kPageSize,
           .num_kv_heads = kKvHeads};
    kv_.heads = kv_.host_heads = {groups_.data(), columns_.data()};
    kv_.retention = kv_.host_retention = {retained_.data(), num_boundaries, kLayers, kChunk};
    kv_.num_pages = kv_.Place(num_sequences_, 0);
    for (int i = 0; i < kv_.num_pages; ++i) page_table_.push_back(i);
    std::shuffle(page_table_.begin(), page_table_.end(), random_);
    kv_.page_table = page_table_.data();
    const size_t bytes = size_t(kv_.num_pages) * kv_.page_bytes();
    pool_ = backend_->Allocate(bytes);
    std::fill_n(static_cast<uint16_t*>(pool_.data()), bytes / 2, uint16_t{0x2E66});
    kv_.pool = pool_.data();
  }
  void MakeInput(int tokens, int history) {
    for (int s = 0; s < num_sequences_; ++s) {
      input_.spans.push_back({s, 0, s * tokens, tokens, history});
      for (int i = 0; i < tokens; ++i) {
        input_.tokens.push_back(static_cast<int>(random_() % kVocabulary));
        input_.positions.push_back(history + i);
        input_.slots.push_back(s);
        input_.retentions.push_back(0);
      }
    }
    input_.rounds = {{0, num_sequences_, 0, 0}};
  }
  TensorView Weight(DType type, int64_t rows, int64_t depth) {
    std::vector<uint8_t> bytes(BytesFor(type, rows * depth));
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random_() & 0x1B);
    return backend_->Upload({bytes.data(), type, {rows, depth}});
  }
  TensorView View(const Buffer& b, int64_t width) const {
    return b.View(DType::kF32, {num_tokens_, width});
  }
  template <class Body>
  void Time(Part part, const Body& body) {
    const double start = CpuSeconds();
    body();
    seconds_[part] += CpuSeconds() - start;
  }
  void Norm(bool with_x) {
    Time(kNorm, [&] {
      backend_->RmsNorm({with_x ? View(x_, kWidth) : TensorView{}, View(residual_, kWidth),
                         norm_.View(DType::kF32, {kWidth}), View(normed_, kWidth), 1e-5f});
    });
  }
  void Multiply(const Buffer& in, int64_t depth, const TensorView& weight, const Buffer& out,
                int64_t width) {
    Time(kProducts, [&] { backend_->MatMul({View(in, depth), weight, {}, View(out, width)}); });
  }
  void Layer(int i) {
    const LayerRound at{step_, 0, i};
    Norm(i > 0);
    Multiply(normed_, kWidth, layers_[i].qkv, qkv_, kQkv);
    const TensorView qkv = View(qkv_, kQkv);
    Time(kAppend, [&] {
      backend_->Append({.at = at,
                        .qkv = qkv,
                        .num_q_heads = kQHeads,
                        .rope = {inv_freq_.data(), 1, RopeStyle::kInterleaved}});
    });
    Time(kAttend, [&] { backend_->Attention({at, qkv, View(normed_, kWidth), kQHeads, 0.125f}); });
    Multiply(normed_, kWidth, layers_[i].o, x_, kWidth);
    Norm(true);
    Multiply(normed_, kWidth, layers_[i].gate_up, gate_up_, 2 * kInner);
    Time(kSilu, [&] { backend_->SiluMul({View(gate_up_, 2 * kInner), View(inner_, kInner)}); });
    Multiply(inner_, kInner, layers_[i].down, x_, kWidth);
  }

  std::unique_ptr<Backend> backend_;
  int num_sequences_, num_tokens_;
  std::mt19937 random_{1};
  std::vector<Weights> layers_;
  TensorView head_;
  std::vector<float> inv_freq_;
  std::vector<int32_t> groups_, columns_, retained_, page_table_;
  Buffer pool_, residual_, x_, normed_, qkv_, gate_up_, inner_, logits_, norm_;
  KvView kv_{};
  StepInput input_;
  const Step* step_ = nullptr;
  double seconds_[kParts] = {};
};

void BM_Step(benchmark::State& state) {
  Forward forward(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)),
                  static_cast<int>(state.range(2)));
  for (auto _ : state) forward.Run();
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(state.range(0) * state.range(1)),
                         benchmark::Counter::kIsIterationInvariantRate);
  for (int i = 0; i < kParts; ++i) {
    state.counters[std::string(kPartNames[i]) + "_ms"] =
        1e3 * forward.seconds(i) / static_cast<double>(state.iterations());
  }
}
BENCHMARK(BM_Step)
    ->ArgNames({"sequences", "tokens", "history"})
    ->Args({1, 1, 64})
    ->Args({1, 512, 0})
    ->Args({16, 1, 512})
    ->Args({1, 512, 3584})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tangram::ops

BENCHMARK_MAIN();
