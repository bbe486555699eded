#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/stored_tensor.h"

namespace tangram {

// A weight in host memory, as stored.
struct Weight {
  TensorView view;
  Buffer owner;  // keeps the memory alive
};

// Where a model's weights come from, by the names of the source. Not thread safe.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool Has(const std::string& name) const = 0;
  // kUnsupported if the tensor is missing, of another shape, or of a type that is not computed
  // with.
  virtual Result<Weight> Take(const std::string& name, const Shape& shape) = 0;
  // kUnsupported, naming one, if there are tensors that were never taken: the result would lack
  // them.
  virtual Status CheckAllTaken() const = 0;

  // Tells models apart: a hash of the names, and of some bytes, of what was taken so far.
  uint64_t fingerprint() const { return fingerprint_; }

 protected:
  void AddToFingerprint(const std::string& name, const TensorView& view);

 private:
  uint64_t fingerprint_ = 0xcbf29ce484222325ULL;
};

// Tensors of mapped files.
class StoredWeights : public WeightSource {
 public:
  explicit StoredWeights(std::string path) : path_(std::move(path)) {}
  // kUnsupported if a name was added before.
  Status Add(const std::vector<StoredTensor>& tensors, const std::vector<Buffer>& owners);

  bool Has(const std::string& name) const override { return tensors_.contains(name); }
  Result<Weight> Take(const std::string& name, const Shape& shape) override;
  Status CheckAllTaken() const override;

 private:
  struct Entry {
    StoredTensor tensor;
    Buffer owner;
  };
  std::string path_;  // for messages
  std::map<std::string, Entry> tensors_;
  std::set<std::string> taken_;
};

// Seeded random weights of any shape: matrices and biases in bf16, norms (f32) of ones. The same
// seed and name give the same values on every machine.
class DummyWeights : public WeightSource {
 public:
  explicit DummyWeights(uint64_t seed) : seed_(seed) {}
  // Has what a decoder must have, and nothing optional.
  bool Has(const std::string&) const override { return false; }
  Result<Weight> Take(const std::string& name, const Shape& shape) override;
  Status CheckAllTaken() const override { return {}; }

 private:
  uint64_t seed_;
};

}  // namespace tangram
