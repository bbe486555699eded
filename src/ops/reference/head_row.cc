#include "ops/reference/head_row.h"

#include <algorithm>
#include <cmath>

namespace tangram::ops::reference {

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double Norm(const Vector& a) { return std::sqrt(Dot(a, a)); }

void Softmax(Vector* logits) {
  const double largest = *std::ranges::max_element(*logits);
  double sum = 0;
  for (double& x : *logits) sum += x = std::exp(x - largest);
  for (double& x : *logits) x /= sum;
}

Vector HeadRow::Load(int64_t first) const {
  Vector loaded;
  for (int i = 0; i < kv_.head_dim; ++i) loaded.push_back(LoadKv(kv_, first + i));
  return loaded;
}

void HeadRow::Set(int token, const Vector& key, const Vector& value) const {
  for (size_t i = 0; i < key.size(); ++i) {
    StoreKv(kv_, KeyIndex(token) + static_cast<int64_t>(i), static_cast<float>(key[i]));
    StoreKv(kv_, ValueIndex(token) + static_cast<int64_t>(i), static_cast<float>(value[i]));
  }
}

Vector HeadRow::Attention(const float* query, double scale, int length) const {
  const Vector q(query, query + kv_.head_dim);
  Vector weights;
  for (int t = 0; t < length; ++t) weights.push_back(Dot(q, Key(t)) * scale);
  Softmax(&weights);
  return weights;
}

}  // namespace tangram::ops::reference
