#include "model/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

namespace tangram {
namespace {

std::string ShapeText(const Shape& shape) {
  std::vector<int64_t> dims(shape.rank());
  for (int i = 0; i < shape.rank(); ++i) dims[i] = shape[i];
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

// Buffers that older exporters saved beside the weights; they follow from the config.
bool IsDerived(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

constexpr uint64_t kHashStart = 0xcbf29ce484222325;

uint64_t Hash(std::string_view bytes, uint64_t hash = kHashStart) {  // FNV-1a
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
uint64_t SplitMix(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

void WeightSource::AddToFingerprint(const std::string& name, const TensorView& view) {
  constexpr size_t kBytes = 256;  // enough to tell two trainings apart, and one page to read
  const std::string_view head(view.as<char>(), std::min(kBytes, view.bytes()));
  fingerprint_ = Hash(head, Hash(name, fingerprint_));
}

Status StoredWeights::Add(const std::vector<StoredTensor>& tensors,
                          const std::vector<Buffer>& owners) {
  // All owners of a file live as long as any of its tensors.
  auto all = std::make_shared<std::vector<Buffer>>(owners);
  for (const StoredTensor& tensor : tensors) {
    Buffer owner(std::shared_ptr<void>(all, tensor.view.data), 0);
    if (!tensors_.emplace(tensor.name, Entry{tensor, std::move(owner)}).second) {
      return MakeError(ErrorKind::kUnsupported,
                       fmt::format("{}: tensor '{}' appears twice", path_, tensor.name));
    }
  }
  return {};
}

Result<Weight> StoredWeights::Take(const std::string& name, const Shape& shape) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: tensor '{}' is missing", path_, name));
  }
  const auto& [tensor, owner] = it->second;
  if (tensor.view.shape != shape) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: tensor '{}' is {}, and not {} as the config says", path_,
                                 name, ShapeText(tensor.view.shape), ShapeText(shape)));
  }
  if (tensor.view.empty()) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: tensor '{}' is stored as {}, which is not served", path_,
                                 name, tensor.type));
  }
  taken_.insert(name);
  AddToFingerprint(name, tensor.view);
  return Weight{tensor.view, owner};
}

Status StoredWeights::CheckAllTaken() const {
  for (const auto& [name, entry] : tensors_) {
    if (taken_.contains(name) || IsDerived(name)) continue;
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: tensor '{}' is no part of the architecture that the config "
                                 "names; the result would lack it",
                                 path_, name));
  }
  return {};
}

Result<Weight> DummyWeights::Take(const std::string& name, const Shape& shape) {
  const bool is_norm = name.find("norm") != std::string::npos;
  const DType dtype = is_norm ? DType::kF32 : DType::kBF16;
  const auto count = static_cast<size_t>(shape.count());
  // Whole 8-byte words, so that the loop below has no tail.
  Buffer memory = Buffer::AllocateHost((BytesFor(dtype, shape.count()) + 7) / 8 * 8);
  if (memory.data() == nullptr) {
    return MakeError(ErrorKind::kOutOfMemory,
                     fmt::format("no memory for the random weights of '{}'", name));
  }
  if (is_norm) {
    std::fill_n(static_cast<float*>(memory.data()), count, 1.0f);
  } else {
    // Sign and mantissa are random, the exponent is fixed: +-[1/64, 1/32), about as large as
    // trained weights.
    constexpr uint64_t kRandomBits = 0x807f807f807f807f, kExponent = 0x3c803c803c803c80;
    uint64_t state = seed_ ^ Hash(name);
    auto* words = static_cast<uint64_t*>(memory.data());
    for (size_t i = 0; i < memory.bytes() / 8; ++i) {
      words[i] = (SplitMix(state) & kRandomBits) | kExponent;
    }
  }
  const TensorView view = memory.View(dtype, shape);
  AddToFingerprint(name, view);
  return Weight{view, std::move(memory)};
}

}  // namespace tangram
