// Any bytes as a profile, in our form or the published one: what is taken for good must be
// consistent enough to serve with. What begins as JSON is the meta of a published profile, and
// after a zero byte its shape and its ratios: no mutation of an archive keeps its checksums.

#include "base/check.h"
#include "compression/profile.h"
#include "support/npz_builder.h"

namespace {

std::string Published(std::string_view bytes) {
  const size_t end = bytes.find('\0');
  const std::string_view meta = bytes.substr(0, end);
  std::string rest(end == std::string_view::npos ? "" : bytes.substr(end + 1));
  rest.resize(std::max<size_t>(rest.size(), 4 + sizeof(float)));
  size_t count = 1;
  for (int i = 0; i < 4; ++i) count *= static_cast<size_t>(rest[i]) % 5;
  const std::string base = rest.substr(4, sizeof(float));
  std::string ratios = rest.substr(4 + sizeof(float));
  ratios.resize(count * sizeof(double));
  tangram::NpzBuilder builder;
  builder.Add("meta", "|u1", fmt::format("({},)", meta.size()), meta);
  builder.Add("base_ratios", "<f4", "(1,)", std::string_view(base));
  builder.Add("raw_ratio", "<f8",
              fmt::format("({}, {}, {}, {})", static_cast<size_t>(rest[0]) % 5,
                          static_cast<size_t>(rest[1]) % 5, static_cast<size_t>(rest[2]) % 5,
                          static_cast<size_t>(rest[3]) % 5),
              std::string_view(ratios));
  return builder.Build();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tangram;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.starts_with("{")) bytes = Published(bytes);
  const auto profile = ParseProfile(ToBuffer(bytes), "input");
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
