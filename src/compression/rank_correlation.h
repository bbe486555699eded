#pragma once

#include <vector>

namespace tangram {

// Spearman's rank correlation of two lists of one length, equal values sharing their mean rank; 1
// where one of the two does not vary.
double Spearman(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace tangram
