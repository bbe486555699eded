#include "paging/prefix_cache.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace tangram {
namespace {

// Stamps near these are of states that somebody waits for, and above of those that running
// sequences hold.
constexpr int64_t kPinned = int64_t{1} << 62, kHeld = kPinned + kPinned / 2;

std::span<const int32_t> First(std::span<const int32_t> tokens, int count) {
  return tokens.first(std::min<size_t>(tokens.size(), count));
}

RadixNode::Origin OriginOf(PrefixCache::Extent extent) {
  if (extent == PrefixCache::Extent::kAll) return RadixNode::Origin::kEnd;
  return extent == PrefixCache::Extent::kWholePages ? RadixNode::Origin::kAfterPrompt
                                                    : RadixNode::Origin::kCommon;
}

}  // namespace

PrefixCache::PrefixCache(int page_size, int num_groups, int chunk, int64_t max_history,
                         PagePool* pool)
    : page_size_(page_size),
      num_groups_(num_groups),
      chunk_(chunk),
      pool_(pool),
      history_(chunk, max_history / chunk) {}

PrefixCache::~PrefixCache() { Clear(); }

PrefixCache::Match PrefixCache::Find(const Namespace& space, std::span<const int32_t> tokens,
                                     int max_tail) {
  Match match;
  const bool full = space.table->full();
  HistoryNode* chunk = history_.Find(space.salt, full ? tokens.first(0) : tokens);
  if (chunk == nullptr) return match;
  match.num_remembered = chunk->depth * chunk_;
  // The deepest state is the longest: an earlier one ends where the next boundary is.
  while (chunk->depth > 0 && !chunk->states.contains(space.retention)) chunk = chunk->parent;
  const auto state = chunk->states.find(chunk->depth > 0 ? space.retention : kAnyRetention);
  if (state == chunk->states.end()) return match;
  match.num_tokens = match.boundary = chunk->depth * chunk_;
  if (match.boundary > 0) match.top = state->second.get();
  const auto tail = tokens.subspan(match.boundary);
  FindTail(*state->second, full ? tail : First(tail, max_tail), match);
  Touch(match.last);
  return match;
}

void PrefixCache::PinForQueued(const Namespace& space, std::span<const int32_t> tokens,
                               int max_tail, int64_t rank) {
  if (RadixNode* last = Find(space, tokens, max_tail).last) Stamp(last, kPinned - rank);
}

void PrefixCache::FindTail(RadixNode& top, std::span<const int32_t> tokens, Match& match) {
  RadixNode* run = &top;
  for (int common = 0; !tokens.empty() && common % page_size_ == 0;) {
    RadixNode* child;
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
          common == static_cast<int>(run->tokens.size()) && pool_->sequence_refs(pages[0]) == 0;
      if (block < common / page_size_ || can_go_on) {
        match.shared.push_back(pages);
      } else {
        match.copied = pages;
      }
    }
  }
  match.last = run;
}

void PrefixCache::Insert(const Namespace& space, std::span<const int32_t> tokens, const Slot& slot,
                         Extent extent) {
  auto tail = tokens.subspan(slot.boundary);
  if (extent == Extent::kCompressed) tail = {};
  if (extent == Extent::kWholePages) tail = First(tail, int(tail.size()) / page_size_ * page_size_);
  if (tail.empty() && slot.boundary == 0) return;
  RadixNode* run = &Top(space, tokens.first(slot.boundary), slot);
  if (run->origin != RadixNode::Origin::kCommon) run->origin = OriginOf(extent);
  const int32_t* pages = TailPages(space, slot);
  bool all_mine = IsTopMine(*run, space, slot);  // the slot's own pages so far
  for (int index = 0; !tail.empty();) {
    const auto [child, common] = Closest(*run, tail);
    if (common < page_size_ && common < std::ssize(tail)) {
      // Under blocks that their other sequence_refs do not hold, it would keep those from eviction.
      const int self = extent == Extent::kAll ? 1 : 0;
      int count = 0;
      while (count < Blocks(tail.size()) &&
             (all_mine || pool_->sequence_refs(pages[index + count]) <= self)) {
        ++count;
      }
      if (count == 0) break;
      tail = First(tail, count * page_size_);
      const bool is_beginning = common > 0 && common == std::ssize(child->tokens);
      run = is_beginning ? Lengthen(*child, tail) : AddChild(*run, tail);
      SetPages(*run, space, slot, index);
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

RadixNode* PrefixCache::FindTop(const Namespace& space, std::span<const int32_t> tokens,
                                int boundary) {
  const HistoryNode* chunk = history_.Find(space.salt, tokens.first(boundary));
  if (chunk == nullptr || chunk->depth * chunk_ != boundary) return nullptr;
  const auto state = chunk->states.find(boundary > 0 ? space.retention : kAnyRetention);
  return state == chunk->states.end() ? nullptr : state->second.get();
}

void PrefixCache::Remove(const Namespace& space, std::span<const int32_t> tokens,
                         const Slot& slot) {
  RadixNode* run = FindTop(space, tokens, slot.boundary);
  if (run == nullptr) return;
  if (slot.boundary > 0 && IsTopMine(*run, space, slot)) return RemoveSubtree(run);
  auto tail = tokens.subspan(slot.boundary);
  for (const int32_t* page = TailPages(space, slot); !tail.empty();) {
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

void PrefixCache::RemoveAll(const Namespace& space, std::span<const int32_t> tokens) {
  for (int depth = int(tokens.size()) / chunk_; depth > 0; --depth) {
    if (RadixNode* top = FindTop(space, tokens, depth * chunk_)) RemoveSubtree(top);
  }
  const RadixNode* root = FindTop(space, tokens, 0);
  if (root == nullptr) return;
  const auto [child, common] = Closest(*root, tokens);
  if (child == nullptr) return;
  // A first block of other tokens was written by others.
  const size_t block = std::min({child->tokens.size(), tokens.size(), size_t(page_size_)});
  if (size_t(common) >= block) RemoveSubtree(child);
}

void PrefixCache::MarkEvictFirst(const Namespace& space, std::span<const int32_t> tokens,
                                 int boundary) {
  RadixNode* run = FindTop(space, tokens, boundary);
  if (run == nullptr || run->origin == RadixNode::Origin::kCommon) return;
  for (auto tail = First(tokens.subspan(boundary), chunk_); !tail.empty();) {
    const auto [child, common] = Closest(*run, tail);
    if (common == 0) break;
    run = child;
    if (Blocks(common) < NumBlocks(*run)) return;  // others went on from here
    if (common % page_size_ != 0) break;
    tail = tail.subspan(common);
  }
  if (!run->leaf()) return;  // likewise
  evict_first_ -= chunk_ / page_size_ + 1;
  for (int64_t stamp = evict_first_; run != nullptr && run->children.size() <= 1; ++stamp) {
    StampOne(*run, stamp);
    run = run->parent;
  }
}

void PrefixCache::CountHit(const Match& match) {
  if (match.top == nullptr) return;
  hits_at_end_ += match.top->origin == RadixNode::Origin::kEnd;
  hits_after_prompt_ += match.top->origin == RadixNode::Origin::kAfterPrompt;
}

void PrefixCache::Evict(int64_t num_free) {
  for (size_t skipped = 0; pool_->num_free() < num_free;) {
    TANGRAM_CHECK(skipped < leaves_.size(), "{} pages cannot be evicted of {}",
                  num_free - pool_->num_free(), pool_->num_evictable());
    RadixNode* oldest = leaves_.begin()->second;
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
