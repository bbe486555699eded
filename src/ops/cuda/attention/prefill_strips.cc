#include "ops/cuda/attention/prefill_strips.h"

#include <algorithm>

namespace tangram::ops::cuda {
namespace {

// A head's tiles are cut into at most so many strips.
constexpr int kMostStrips = 4;
// What a group may have left of the limit before another strip is cut for it. The last is: cut
// nothing that fits whole anywhere.
constexpr int kSlack[] = {1, 3, 6, 1 << 20};

struct Strip {
  std::span<const PrefillItem> tiles;  // the longest first
  int longest() const { return tiles.front().num_blocks; }
  int shortest() const { return tiles.back().num_blocks; }
};

// Blocks [first, end) of a strip's keys, for a group. Tiles differ in length at a strip's end only:
// where a group has several ends, every second is dealt out the other way round.
struct Segment {
  int strip, group;
  int first, end;
  bool reversed;
};

class Packing {
 public:
  Packing(std::span<const Strip> strips, int groups, int limit, int slack)
      : strips_(strips), groups_(groups), limit_(limit), slack_(slack), room_(limit) {}

  // Nothing if the groups' limit is too low. Strips come the longest first.
  std::optional<std::vector<Segment>> Run() {
    std::vector<int> left(strips_.size());
    for (size_t i = 0; i < left.size(); ++i) left[i] = static_cast<int>(i);
    while (!left.empty()) {
      auto taken = std::partition_point(left.begin(), left.end(),
                                        [&](int strip) { return Need(strip, 0) > room_; });
      if (taken == left.end() || room_ - Need(*taken, 0) > slack_) taken = left.begin();
      if (!Place(*taken)) return std::nullopt;
      left.erase(taken);
    }
    return std::move(segments_);
  }

 private:
  // What the rest of a strip costs in the group at hand.
  int Need(int strip, int first) const {
    const Strip& s = strips_[strip];
    const bool reversed = ends_ % 2 == 1;
    const int end = reversed ? std::min(s.shortest() + 1, s.longest()) : s.longest();
    return end - first + kPrefillItemCost + (first > 0 ? kPrefillPartCost : 0);
  }

  bool Place(int strip) {
    int first = 0;
    while (Need(strip, first) > room_) {
      const int end = std::min(first + room_ - kPrefillItemCost - kPrefillPartCost,
                               strips_[strip].shortest() - kPrefillFewestBlocks);
      if (end - first >= kPrefillFewestBlocks) {
        segments_.push_back({strip, group_, first, end, false});
        first = end;
      }
      if (++group_ == groups_) return false;
      room_ = limit_, ends_ = 0;
    }
    room_ -= Need(strip, first);
    segments_.push_back({strip, group_, first, strips_[strip].longest(), ends_ % 2 == 1});
    ++ends_;
    return true;
  }

  std::span<const Strip> strips_;
  int groups_, limit_, slack_;
  int group_ = 0, ends_ = 0, room_;
  std::vector<Segment> segments_;
};

std::vector<Strip> CutIntoStrips(std::span<const std::vector<PrefillItem>> heads, int strips) {
  std::vector<Strip> all;
  for (const auto& head : heads) {
    const size_t tiles = head.size();
    for (int s = 0; s < strips; ++s) {
      const size_t begin = tiles * s / strips, end = tiles * (s + 1) / strips;
      all.push_back({std::span(head).subspan(begin, end - begin)});
    }
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Strip& a, const Strip& b) { return a.longest() > b.longest(); });
  return all;
}

PrefillDeal MakeDeal(std::span<const Strip> strips, const std::vector<Segment>& segments,
                     int num_blocks, int width) {
  PrefillDeal deal;
  deal.blocks.resize(num_blocks);
  for (const Segment& segment : segments) {
    const auto tiles = strips[segment.strip].tiles;
    for (size_t t = 0; t < tiles.size(); ++t) {
      PrefillItem item = tiles[segment.reversed ? tiles.size() - 1 - t : t];
      item.first_block = segment.first;
      item.num_blocks = std::min(segment.end, item.num_blocks) - segment.first;
      deal.blocks[segment.group * width + t].push_back(item);
    }
  }
  return deal;
}

int64_t LeastWork(std::span<const Strip> strips, int groups) {
  int64_t total = 0;
  for (const Strip& strip : strips) {
    total += (strip.longest() + strip.shortest()) / 2 + kPrefillItemCost;
  }
  return std::max<int64_t>(total / groups, 1);
}

}  // namespace

std::optional<PrefillDeal> DealStrips(std::span<const std::vector<PrefillItem>> heads,
                                      int num_blocks, int64_t limit) {
  std::optional<PrefillDeal> best;
  const int tiles = static_cast<int>(heads[0].size());
  for (int per_head = 1; per_head <= std::min(kMostStrips, tiles); ++per_head) {
    const std::vector<Strip> strips = CutIntoStrips(heads, per_head);
    const int width = (tiles + per_head - 1) / per_head, groups = num_blocks / width;
    for (int64_t most = LeastWork(strips, groups); most < limit; most += 1 + most / 128) {
      std::optional<std::vector<Segment>> packed;
      for (int slack : kSlack) {
        auto other = Packing(strips, groups, static_cast<int>(most), slack).Run();
        if (other && (!packed || other->size() < packed->size())) packed = std::move(other);
      }
      if (!packed) continue;
      best = MakeDeal(strips, *packed, num_blocks, width);
      best->most = limit = most;
      break;
    }
  }
  return best;
}

}  // namespace tangram::ops::cuda
