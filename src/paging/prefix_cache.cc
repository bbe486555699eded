#include "paging/prefix_cache.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace tangram {
namespace {

// Stamps near these are of states that somebody waits for, and above of those that running
// sequences hold.
constexpr int64_t kAwaited = int64_t{1} << 62, kHeld = kAwaited + kAwaited / 2;

std::span<const int32_t> First(std::span<const int32_t> tokens, int count) {
  return tokens.first(std::min<size_t>(tokens.size(), count));
}

CacheRun::Origin OriginOf(PrefixCache::Extent extent) {
  if (extent == PrefixCache::Extent::kAll) return CacheRun::Origin::kEnd;
  return extent == PrefixCache::Extent::kWholePages ? CacheRun::Origin::kAfterPrompt
                                                    : CacheRun::Origin::kCommon;
}

}  // namespace

PrefixCache::PrefixCache(int page_size, int num_rows, int chunk, int64_t max_history,
                         PagePool* pool)
    : page_size_(page_size),
      num_rows_(num_rows),
      chunk_(chunk),
      pool_(pool),
      history_(chunk, max_history / chunk) {}

PrefixCache::~PrefixCache() { Clear(); }

PrefixCache::Match PrefixCache::Find(const Kind& kind, std::span<const int32_t> tokens,
                                     int max_tail) {
  Match match;
  const bool full = kind.retention->full();
  HistoryChunk* chunk = history_.Find(kind.salt, full ? tokens.first(0) : tokens);
  if (chunk == nullptr) return match;
  match.num_remembered = chunk->depth * chunk_;
  // The deepest state is the longest: an earlier one ends where the next boundary is.
  while (chunk->depth > 0 && !chunk->states.contains(kind.table)) chunk = chunk->parent;
  const auto state = chunk->states.find(chunk->depth > 0 ? kind.table : kAnyTable);
  if (state == chunk->states.end()) return match;
  match.num_tokens = match.boundary = chunk->depth * chunk_;
  if (match.boundary > 0) match.top = state->second.get();
  const auto tail = tokens.subspan(match.boundary);
  FindTail(*state->second, full ? tail : First(tail, max_tail), match);
  Touch(match.last);
  return match;
}

void PrefixCache::Await(const Kind& kind, std::span<const int32_t> tokens, int max_tail,
                        int64_t rank) {
  if (CacheRun* last = Find(kind, tokens, max_tail).last) Stamp(last, kAwaited - rank);
}

void PrefixCache::FindTail(CacheRun& top, std::span<const int32_t> tokens, Match& match) {
  CacheRun* run = &top;
  for (int common = 0; !tokens.empty() && common % page_size_ == 0;) {
    CacheRun* child;
    std::tie(child, common) = Closest(*run, tokens);
    if (common == 0) break;
    Split(*child, Blocks(common));  // what follows is not used
    run = child;
    tokens = tokens.subspan(common);
    match.num_tokens += common;
    for (int block = 0; block < Blocks(common); ++block) {
      const auto pages = PagesOf(*run, block);
      // Nobody else may write behind the tokens of a block that is not full, nor over those of a
      // full one.
      const bool can_go_on =
          common == static_cast<int>(run->tokens.size()) && pool_->holders(pages[0]) == 0;
      if (block < common / page_size_ || can_go_on) {
        match.shared.push_back(pages);
      } else {
        match.copied = pages;
      }
    }
  }
  match.last = run;
}

void PrefixCache::Insert(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot,
                         Extent extent) {
  auto tail = tokens.subspan(slot.boundary);
  if (extent == Extent::kCompressed) tail = {};
  if (extent == Extent::kWholePages) tail = First(tail, int(tail.size()) / page_size_ * page_size_);
  if (tail.empty() && slot.boundary == 0) return;
  CacheRun* run = &Top(kind, tokens.first(slot.boundary), slot);
  if (run->origin != CacheRun::Origin::kCommon) run->origin = OriginOf(extent);
  const int32_t* pages = TailPages(kind, slot);
  bool all_mine = IsTopMine(*run, kind, slot);  // the slot's own pages so far
  for (int index = 0; !tail.empty();) {
    const auto [child, common] = Closest(*run, tail);
    if (common < page_size_ && common < std::ssize(tail)) {
      // Under blocks that their other holders do not hold, it would keep those from eviction.
      const int self = extent == Extent::kAll ? 1 : 0;
      int count = 0;
      while (count < Blocks(tail.size()) &&
             (all_mine || pool_->holders(pages[index + count]) <= self)) {
        ++count;
      }
      if (count == 0) break;
      tail = First(tail, count * page_size_);
      const bool is_beginning = common > 0 && common == std::ssize(child->tokens);
      run = is_beginning ? Lengthen(*child, tail) : AddChild(*run, tail);
      SetPages(*run, kind, slot, index);
      break;
    }
    const int known = std::max(1, common / page_size_);
    Split(*child, known);
    for (int i = 0; i < known; ++i) all_mine = all_mine && IsMine(*child, i, pages[index + i]);
    tail = tail.subspan(std::min<size_t>(tail.size(), size_t(known) * page_size_));
    index += known;
    run = child;
  }
  Touch(run);
}

CacheRun* PrefixCache::FindTop(const Kind& kind, std::span<const int32_t> tokens, int boundary) {
  const HistoryChunk* chunk = history_.Find(kind.salt, tokens.first(boundary));
  if (chunk == nullptr || chunk->depth * chunk_ != boundary) return nullptr;
  const auto state = chunk->states.find(boundary > 0 ? kind.table : kAnyTable);
  return state == chunk->states.end() ? nullptr : state->second.get();
}

void PrefixCache::Remove(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot) {
  CacheRun* run = FindTop(kind, tokens, slot.boundary);
  if (run == nullptr) return;
  if (slot.boundary > 0 && IsTopMine(*run, kind, slot)) return RemoveSubtree(run);
  auto tail = tokens.subspan(slot.boundary);
  for (const int32_t* page = TailPages(kind, slot); !tail.empty();) {
    const auto [child, common] = Closest(*run, tail);
    for (int block = 0; block < Blocks(common); ++block) {
      if (!IsMine(*child, block, *page++)) continue;
      if (block == 0) return RemoveSubtree(child);
      Split(*child, block);
      return RemoveSubtree(child->children.begin()->get());
    }
    if (common == 0 || common % page_size_ != 0) return;
    tail = tail.subspan(common);
    run = child;
  }
}

void PrefixCache::Retire(const Kind& kind, std::span<const int32_t> tokens, int boundary) {
  CacheRun* run = FindTop(kind, tokens, boundary);
  if (run == nullptr || run->origin == CacheRun::Origin::kCommon) return;
  for (auto tail = First(tokens.subspan(boundary), chunk_); !tail.empty();) {
    const auto [child, common] = Closest(*run, tail);
    if (common == 0) break;
    run = child;
    if (Blocks(common) < NumBlocks(*run)) return;  // others went on from here
    if (common % page_size_ != 0) break;
    tail = tail.subspan(common);
  }
  if (!run->leaf()) return;  // likewise
  retired_ -= chunk_ / page_size_ + 1;
  for (int64_t stamp = retired_; run != nullptr && run->children.size() <= 1; ++stamp) {
    StampOne(*run, stamp);
    run = run->parent;
  }
}

void PrefixCache::Evict(int64_t num_free) {
  for (size_t skipped = 0; pool_->num_free() < num_free;) {
    TANGRAM_CHECK(skipped < leaves_.size(), "{} pages cannot be evicted of {}",
                  num_free - pool_->num_free(), pool_->num_evictable());
    CacheRun* oldest = leaves_.begin()->second;
    if (InUse(*oldest)) {  // behind all others, until it is touched
      Stamp(oldest, kHeld + ++clock_);
      ++skipped;
    } else {
      const int64_t ends = num_ends();
      RemoveLastBlock(*oldest);
      if (num_ends() < ends) ++ends_evicted_;
      skipped = 0;
    }
  }
}

void PrefixCache::Clear() {
  ends_cleared_ += static_cast<uint64_t>(num_ends());
  while (!leaves_.empty()) RemoveLeaf(leaves_.begin()->second);
}

}  // namespace tangram
