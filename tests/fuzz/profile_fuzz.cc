// Any bytes as a profile, in our form or the published one: what is taken for good must be
// consistent enough to serve with.

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "engine/profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tangram;
  if (size == 0) return 0;
  // On the heap, so that a read beyond the end is seen.
  std::shared_ptr<uint8_t[]> copy(new uint8_t[size]);
  std::memcpy(copy.get(), data, size);
  const auto profile = ParseProfile(Buffer(copy, size), "input");
  if (!profile) return 0;
  const auto heads = static_cast<size_t>(profile->num_layers) * profile->num_kv_heads;
  for (const auto& [scorer, measured] : profile->scorers) {
    const HeadDemand& demand = measured.demand;
    TANGRAM_CHECK(!demand.ratios.empty() && demand.shares.size() == demand.ratios.size() * heads,
                  "{} shares", demand.shares.size());
    TANGRAM_CHECK(measured.spread.size() == demand.shares.size(), "{}", measured.spread.size());
    TANGRAM_CHECK(static_cast<int>(measured.stability.size()) == profile->num_samples, "{}",
                  measured.stability.size());
    for (const float share : demand.shares) TANGRAM_CHECK(share >= 0 && share <= 1, "{}", share);
  }
  const size_t gate = profile->gate_weight.size();
  TANGRAM_CHECK(gate == 0 || gate == heads * static_cast<size_t>(profile->hidden_size), "{}", gate);
  return 0;
}
