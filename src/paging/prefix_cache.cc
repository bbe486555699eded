#include "paging/prefix_cache.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace tangram {
namespace {

constexpr int kAnyTable = -1;  // of states at boundary 0
// Stamps near these are of states that somebody waits for, and above of those that running
// sequences hold.
constexpr int64_t kAwaited = int64_t{1} << 62, kHeld = kAwaited + kAwaited / 2;

std::span<const int32_t> First(std::span<const int32_t> tokens, int count) {
  return tokens.first(std::min<size_t>(tokens.size(), count));
}

CacheBlock::Origin OriginOf(PrefixCache::Extent extent) {
  if (extent == PrefixCache::Extent::kAll) return CacheBlock::Origin::kEnd;
  return extent == PrefixCache::Extent::kWholePages ? CacheBlock::Origin::kAfterPrompt
                                                    : CacheBlock::Origin::kCommon;
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

std::pair<CacheBlock*, int> PrefixCache::Closest(const CacheBlock& parent,
                                                 std::span<const int32_t> tokens) {
  const auto common = [&](const CacheBlock& block) {
    return static_cast<int>(std::ranges::mismatch(block.tokens, tokens).in2 - tokens.begin());
  };
  std::pair<CacheBlock*, int> best = {nullptr, 0};
  const auto next = parent.children.lower_bound(tokens);
  if (next != parent.children.end()) best = {next->get(), common(**next)};
  if (next != parent.children.begin()) {
    CacheBlock* previous = std::prev(next)->get();
    if (const int n = common(*previous); n > best.second) best = {previous, n};
  }
  return best;
}

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
  if (CacheBlock* last = Find(kind, tokens, max_tail).last) Stamp(last, kAwaited - rank);
}

void PrefixCache::FindTail(CacheBlock& top, std::span<const int32_t> tokens, Match& match) {
  CacheBlock* block = &top;
  for (int common = page_size_; common == page_size_ && !tokens.empty();) {
    const auto wanted = First(tokens, page_size_);
    tokens = tokens.subspan(wanted.size());
    CacheBlock* child;
    std::tie(child, common) = Closest(*block, wanted);
    if (common == 0) break;
    block = child;
    match.num_tokens += common;
    // Nobody else may write behind the tokens of a block that is not full, nor over those of a full
    // one.
    const bool can_go_on =
        common == static_cast<int>(block->tokens.size()) && pool_->holders(block->pages[0]) == 0;
    if (common == page_size_ || can_go_on) {
      match.shared.push_back(block);
    } else {
      match.copied = block;
    }
  }
  match.last = block;
}

void PrefixCache::Insert(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot,
                         Extent extent) {
  auto tail = tokens.subspan(slot.boundary);
  if (extent == Extent::kCompressed) tail = {};
  if (extent == Extent::kWholePages) tail = First(tail, int(tail.size()) / page_size_ * page_size_);
  if (tail.empty() && slot.boundary == 0) return;
  CacheBlock* block = &Top(kind, tokens.first(slot.boundary), slot);
  if (block->origin != CacheBlock::Origin::kCommon) block->origin = OriginOf(extent);
  bool all_mine = IsMine(*block, kind, slot, -1);  // the slot's own pages so far
  for (int index = 0; !tail.empty(); ++index) {
    const auto wanted = First(tail, page_size_);
    tail = tail.subspan(wanted.size());
    auto [child, common] = Closest(*block, wanted);
    if (common < static_cast<int>(wanted.size())) {
      // Under blocks that its other holders do not hold, it would keep those from eviction.
      const int self = extent == Extent::kAll ? 1 : 0;
      if (!all_mine && pool_->holders(FirstPage(kind, slot, index)) > self) break;
      if (common > 0 && common == static_cast<int>(child->tokens.size())) {
        Lengthen(*child, wanted);
      } else {
        child = AddChild(*block, wanted);
      }
      SetPages(*child, kind, slot, index);
    }
    all_mine = all_mine && IsMine(*child, kind, slot, index);
    block = child;
  }
  Touch(block);
}

CacheBlock* PrefixCache::FindTop(const Kind& kind, std::span<const int32_t> tokens, int boundary) {
  const HistoryChunk* chunk = history_.Find(kind.salt, tokens.first(boundary));
  if (chunk == nullptr || chunk->depth * chunk_ != boundary) return nullptr;
  const auto state = chunk->states.find(boundary > 0 ? kind.table : kAnyTable);
  return state == chunk->states.end() ? nullptr : state->second.get();
}

void PrefixCache::Remove(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot) {
  CacheBlock* block = FindTop(kind, tokens, slot.boundary);
  if (block == nullptr) return;
  if (slot.boundary > 0 && IsMine(*block, kind, slot, -1)) return RemoveSubtree(block);
  auto tail = tokens.subspan(slot.boundary);
  for (int index = 0; !tail.empty(); ++index) {
    const auto wanted = First(tail, page_size_);
    tail = tail.subspan(wanted.size());
    block = Closest(*block, wanted).first;
    if (block == nullptr) return;
    if (IsMine(*block, kind, slot, index)) return RemoveSubtree(block);
  }
}

void PrefixCache::Retire(const Kind& kind, std::span<const int32_t> tokens, int boundary) {
  CacheBlock* block = FindTop(kind, tokens, boundary);
  if (block == nullptr || block->origin == CacheBlock::Origin::kCommon) return;
  for (auto tail = First(tokens.subspan(boundary), chunk_); !tail.empty();) {
    const auto [child, common] = Closest(*block, First(tail, page_size_));
    if (common == 0) break;
    block = child;
    tail = tail.subspan(common);
    if (common < page_size_) break;
  }
  if (!block->leaf()) return;  // others went on from here
  retired_ -= chunk_ / page_size_ + 1;
  for (int64_t stamp = retired_; block != nullptr && block->children.size() <= 1; ++stamp) {
    if (block->leaf()) leaves_.erase(block);
    block->last_used = stamp;
    if (block->leaf()) leaves_.insert(block);
    block = block->parent;
  }
}

void PrefixCache::Evict(int64_t num_free) {
  for (size_t skipped = 0; pool_->num_free() < num_free;) {
    TANGRAM_CHECK(skipped < leaves_.size(), "{} pages cannot be evicted of {}",
                  num_free - pool_->num_free(), pool_->num_evictable());
    CacheBlock* oldest = *leaves_.begin();
    if (AllHeld(*oldest)) {  // in use: behind all others, until it is touched
      Stamp(oldest, kHeld + ++clock_);
      ++skipped;
    } else {
      RemoveLeaf(oldest);
      skipped = 0;
    }
  }
}

void PrefixCache::Clear() {
  while (!leaves_.empty()) RemoveLeaf(*leaves_.begin());
}

// The state's top, made of the slot's pages if there is none yet.
CacheBlock& PrefixCache::Top(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot) {
  HistoryChunk& chunk = *history_.Add(kind.salt, tokens);
  const int table = chunk.depth > 0 ? kind.table : kAnyTable;
  if (const auto it = chunk.states.find(table); it != chunk.states.end()) return *it->second;
  CacheBlock& top = history_.AddState(chunk, table);
  for (int row = 0; row < num_rows_ && slot.boundary > 0; ++row) {
    const int32_t* ids = slot.table->row(slot.slot, row);
    const int count = kind.retention->Retained(row, slot.boundary) / page_size_;
    top.pages.insert(top.pages.end(), ids, ids + count);
  }
  pool_->Keep(top.pages);
  num_blocks_ += 1;
  top.last_used = ++clock_;
  if (top.leaf()) leaves_.insert(&top);
  return top;
}

void PrefixCache::Stamp(CacheBlock* block, int64_t stamp) {
  if (block->leaf()) leaves_.erase(block);
  for (CacheBlock* b = block; b != nullptr; b = b->parent) b->last_used = stamp;
  if (block->leaf()) leaves_.insert(block);
}

CacheBlock* PrefixCache::AddChild(CacheBlock& parent, std::span<const int32_t> tokens) {
  if (parent.leaf()) leaves_.erase(&parent);
  auto block = std::make_unique<CacheBlock>();
  block->parent = &parent;
  block->tokens.assign(tokens.begin(), tokens.end());
  CacheBlock* added = block.get();
  parent.children.insert(std::move(block));
  ++num_blocks_;
  return added;
}

void PrefixCache::Lengthen(CacheBlock& block, std::span<const int32_t> tokens) {
  auto& siblings = block.parent->children;
  auto node = siblings.extract(siblings.find(std::span<const int32_t>(block.tokens)));
  block.tokens.assign(tokens.begin(), tokens.end());
  siblings.insert(std::move(node));
}

void PrefixCache::SetPages(CacheBlock& block, const Kind& kind, const Slot& slot, int index) {
  const std::vector<int32_t> old = std::move(block.pages);
  block.pages.resize(num_rows_);
  for (int row = 0; row < num_rows_; ++row) {
    const int first = kind.retention->Retained(row, slot.boundary) / page_size_;
    block.pages[row] = slot.table->row(slot.slot, row)[first + index];
  }
  pool_->Keep(block.pages);
  pool_->Drop(old);
  leaves_.erase(&block);
  block.last_used = ++clock_;
  leaves_.insert(&block);
}

void PrefixCache::RemoveSubtree(CacheBlock* block) {
  while (!block->children.empty()) RemoveSubtree(block->children.begin()->get());
  RemoveLeaf(block);
}

void PrefixCache::RemoveLeaf(CacheBlock* leaf) {
  leaves_.erase(leaf);
  pool_->Drop(leaf->pages);
  --num_blocks_;
  CacheBlock* parent = leaf->parent;
  if (parent == nullptr) {
    history_.RemoveState(*leaf->chunk, leaf->table);
    return;
  }
  parent->children.erase(parent->children.find(std::span<const int32_t>(leaf->tokens)));
  if (parent->leaf()) leaves_.insert(parent);
  if (parent->children.empty() && parent->pages.empty()) {  // the top at boundary 0
    --num_blocks_;
    history_.RemoveState(*parent->chunk, parent->table);
  }
}

int32_t PrefixCache::FirstPage(const Kind& kind, const Slot& slot, int index) const {
  return slot.table->row(slot.slot,
                         0)[kind.retention->Retained(0, slot.boundary) / page_size_ + index];
}

// One page tells: those of the window, the last ones of a top, are no other state's.
bool PrefixCache::IsMine(const CacheBlock& block, const Kind& kind, const Slot& slot,
                         int index) const {
  if (index >= 0) return block.pages[0] == FirstPage(kind, slot, index);
  if (slot.boundary == 0) return true;
  const int last = kind.retention->Retained(0, slot.boundary) / page_size_ - 1;
  return block.pages[last] == FirstPage(kind, slot, -1);
}

bool PrefixCache::AnyHeld(const CacheBlock& block) const {
  return std::ranges::any_of(block.pages, [&](int32_t p) { return pool_->holders(p) > 0; });
}

// Those of the tail are held together.
bool PrefixCache::AllHeld(const CacheBlock& block) const {
  if (block.parent != nullptr) return pool_->holders(block.pages[0]) > 0;
  return std::ranges::all_of(block.pages, [&](int32_t p) { return pool_->holders(p) > 0; });
}

void PrefixCache::CheckInvariants(std::vector<int32_t>& keepers) const {
  history_.CheckInvariants();
  const auto visit = [&](const auto& self, const HistoryChunk& chunk) -> void {
    for (const auto& [table, top] : chunk.states) {
      TANGRAM_CHECK(!top->children.empty() || top->leaf(), "a state without pages");
      CheckBlock(*top, keepers);
    }
    for (const auto& child : chunk.children) self(self, *child);
  };
  for (const auto& [salt, root] : history_.roots()) visit(visit, *root);
  for (const CacheBlock* leaf : leaves_) TANGRAM_CHECK(leaf->leaf(), "a leaf has children");
}

void PrefixCache::CheckBlock(const CacheBlock& block, std::vector<int32_t>& keepers) const {
  for (const int32_t page : block.pages) ++keepers[page];
  if (block.leaf()) {
    const auto leaf = leaves_.find(const_cast<CacheBlock*>(&block));
    TANGRAM_CHECK(leaf != leaves_.end() && *leaf == &block, "a leaf is not listed");
  }
  for (const auto& child : block.children) {
    const bool whole = block.parent == nullptr || int(block.tokens.size()) == page_size_;
    TANGRAM_CHECK(whole && child->parent == &block, "below a block of {} tokens",
                  block.tokens.size());
    TANGRAM_CHECK(AnyHeld(*child) == AllHeld(*child), "pages of a block have different holders");
    TANGRAM_CHECK(!AnyHeld(*child) || AllHeld(block), "a block is held, its parent is not");
    CheckBlock(*child, keepers);
  }
}

}  // namespace tangram
