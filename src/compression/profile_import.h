#pragma once

#include <string>

#include "base/result.h"
#include "compression/profile.h"
#include "model/npz.h"

namespace tangram {

// A profile in the published .npz form as ours: how much of the cache each head keeps when heads
// compete, measured by the published system (arXiv 2606.06302) for one scorer. It holds raw_ratio
// [R, S, L, H], the kept share of a head's tokens outside sinks and window, base_ratios [R], the
// nominal ratios with those, and meta, JSON as bytes.
//
// As sinks and window are left out, the mean of raw_ratio over heads is the ratio that was really
// measured: the means over samples become the demand there. Where that is below the nominal one
// (windows were large), the demand at the nominal ratio is the same shares, enlarged to that mean
// with none above 1. There is no gate, and no fingerprint.
//
// kUnsupported for what is missing or makes no sense, for layers left out (sliding windows) and
// scorers that are not known here.
Result<Profile> ImportProfile(const NpzFile& file, const std::string& name);

}  // namespace tangram
