#include <algorithm>
#include <utility>

#include "base/check.h"
#include "paging/prefix_cache.h"

namespace tangram {

std::pair<CacheRun*, int> PrefixCache::Closest(const CacheRun& parent,
                                               std::span<const int32_t> tokens) {
  const auto common = [&](const CacheRun& run) {
    return static_cast<int>(std::ranges::mismatch(run.tokens, tokens).in2 - tokens.begin());
  };
  std::pair<CacheRun*, int> best = {nullptr, 0};
  const auto next = parent.children.lower_bound(tokens);
  if (next != parent.children.end()) best = {next->get(), common(**next)};
  if (next != parent.children.begin()) {
    CacheRun* previous = std::prev(next)->get();
    if (const int n = common(*previous); n > best.second) best = {previous, n};
  }
  return best;
}

const int32_t* PrefixCache::TailPages(const Kind& kind, const Slot& slot) const {
  return slot.table->row(slot.slot, 0) + kind.retention->Retained(0, slot.boundary) / page_size_;
}

// Those of the window, the last ones of a top, are no other state's.
bool PrefixCache::IsTopMine(const CacheRun& top, const Kind& kind, const Slot& slot) const {
  if (slot.boundary == 0) return true;
  const int last = kind.retention->Retained(0, slot.boundary) / page_size_ - 1;
  return top.pages[last] == TailPages(kind, slot)[-1];
}

// The state's top, made of the slot's pages if there is none yet.
CacheRun& PrefixCache::Top(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot) {
  HistoryChunk& chunk = *history_.Add(kind.salt, tokens);
  const int table = chunk.depth > 0 ? kind.table : kAnyTable;
  if (const auto it = chunk.states.find(table); it != chunk.states.end()) return *it->second;
  CacheRun& top = history_.AddState(chunk, table);
  for (int row = 0; row < num_rows_ && slot.boundary > 0; ++row) {
    const int32_t* ids = slot.table->row(slot.slot, row);
    const int count = kind.retention->Retained(row, slot.boundary) / page_size_;
    top.pages.insert(top.pages.end(), ids, ids + count);
  }
  pool_->Keep(top.pages);
  num_blocks_ += 1;
  return top;
}

void PrefixCache::Stamp(CacheRun* run, int64_t stamp) {
  for (; run != nullptr; run = run->parent) StampOne(*run, stamp);
}

void PrefixCache::StampOne(CacheRun& run, int64_t stamp) {
  if (run.leaf()) {
    leaves_.erase({run.last_used, &run});
    leaves_.emplace(stamp, &run);
  }
  run.last_used = stamp;
}

CacheRun* PrefixCache::AddChild(CacheRun& parent, std::span<const int32_t> tokens) {
  if (parent.leaf()) leaves_.erase({parent.last_used, &parent});
  auto run = std::make_unique<CacheRun>();
  run->parent = &parent;
  run->tokens.assign(tokens.begin(), tokens.end());
  CacheRun* added = run.get();
  parent.children.insert(std::move(run));
  return added;
}

// Its order among its siblings stays, since it is a prefix of none of them.
CacheRun* PrefixCache::Lengthen(CacheRun& run, std::span<const int32_t> tokens) {
  run.tokens.assign(tokens.begin(), tokens.end());
  return &run;
}

// In place of what it has.
void PrefixCache::SetPages(CacheRun& run, const Kind& kind, const Slot& slot, int index) {
  const std::vector<int32_t> old = std::move(run.pages);
  const int num_blocks = NumBlocks(run);
  run.pages.resize(size_t(num_blocks) * num_rows_);
  for (int row = 0; row < num_rows_; ++row) {
    const int first = kind.retention->Retained(row, slot.boundary) / page_size_;
    const int32_t* page = slot.table->row(slot.slot, row) + first + index;
    for (int block = 0; block < num_blocks; ++block) {
      run.pages[size_t(block) * num_rows_ + row] = page[block];
    }
  }
  pool_->Keep(run.pages);
  pool_->Drop(old);
  num_blocks_ += num_blocks - std::ssize(old) / num_rows_;
}

// What is behind so many blocks becomes the only child.
void PrefixCache::Split(CacheRun& run, int blocks) {
  if (blocks >= NumBlocks(run)) return;
  auto rest = std::make_unique<CacheRun>();
  const auto token = run.tokens.begin() + ptrdiff_t(blocks) * page_size_;
  const auto page = run.pages.begin() + ptrdiff_t(blocks) * num_rows_;
  rest->parent = &run;
  rest->tokens.assign(token, run.tokens.end());
  rest->pages.assign(page, run.pages.end());
  rest->last_used = run.last_used;
  rest->children = std::exchange(run.children, {});
  for (const auto& child : rest->children) child->parent = rest.get();
  if (rest->leaf()) {
    leaves_.erase({run.last_used, &run});
    leaves_.emplace(rest->last_used, rest.get());
  }
  run.tokens.erase(token, run.tokens.end());
  run.pages.erase(page, run.pages.end());
  run.children.insert(std::move(rest));
}

void PrefixCache::RemoveSubtree(CacheRun* run) {
  while (!run->children.empty()) RemoveSubtree(run->children.begin()->get());
  RemoveLeaf(run);
}

void PrefixCache::RemoveLeaf(CacheRun* leaf) {
  leaves_.erase({leaf->last_used, leaf});
  pool_->Drop(leaf->pages);
  CacheRun* parent = leaf->parent;
  if (parent == nullptr) {
    --num_blocks_;
    history_.RemoveState(*leaf->chunk, leaf->table);
    return;
  }
  num_blocks_ -= NumBlocks(*leaf);
  parent->children.erase(parent->children.find(std::span<const int32_t>(leaf->tokens)));
  if (parent->leaf()) leaves_.emplace(parent->last_used, parent);
  if (parent->children.empty() && parent->pages.empty()) RemoveLeaf(parent);  // top at boundary 0
}

void PrefixCache::RemoveLastBlock(CacheRun& leaf) {
  const int last = NumBlocks(leaf) - 1;
  if (leaf.parent == nullptr || last == 0) return RemoveLeaf(&leaf);
  pool_->Drop(PagesOf(leaf, last));
  leaf.pages.resize(size_t(last) * num_rows_);
  leaf.tokens.resize(size_t(last) * page_size_);
  --num_blocks_;
}

// Those of a block are held together.
bool PrefixCache::InUse(const CacheRun& leaf) const {
  if (leaf.parent == nullptr) return AllHeld(leaf.pages);
  return pool_->holders(PagesOf(leaf, NumBlocks(leaf) - 1)[0]) > 0;
}

bool PrefixCache::AllHeld(std::span<const int32_t> pages) const {
  return std::ranges::all_of(pages, [&](int32_t p) { return pool_->holders(p) > 0; });
}

void PrefixCache::CheckInvariants(std::vector<int32_t>& keepers) const {
  history_.CheckInvariants();
  int64_t num_blocks = 0;
  const auto visit = [&](const auto& self, const HistoryChunk& chunk) -> void {
    for (const auto& [table, top] : chunk.states) {
      TANGRAM_CHECK(!top->children.empty() || top->leaf(), "a state without pages");
      num_blocks += CheckRun(*top, keepers);
    }
    for (const auto& child : chunk.children) self(self, *child);
  };
  for (const auto& [salt, root] : history_.roots()) visit(visit, *root);
  TANGRAM_CHECK(num_blocks == num_blocks_, "{} blocks, counted {}", num_blocks, num_blocks_);
  for (const auto& [stamp, leaf] : leaves_) {
    TANGRAM_CHECK(leaf->leaf() && leaf->last_used == stamp, "used at {}, listed at {}",
                  leaf->last_used, stamp);
  }
}

// Returns the number of its blocks and of those below it.
int64_t PrefixCache::CheckRun(const CacheRun& run, std::vector<int32_t>& keepers) const {
  for (const int32_t page : run.pages) ++keepers[page];
  if (run.leaf()) {
    const bool listed = leaves_.contains({run.last_used, const_cast<CacheRun*>(&run)});
    TANGRAM_CHECK(listed, "a leaf is not listed");
  }
  int64_t num_blocks = 1;
  if (run.parent != nullptr) {
    num_blocks = NumBlocks(run);
    CheckHolders(run);
  }
  for (const auto& child : run.children) {
    TANGRAM_CHECK(child->parent == &run && run.tokens.size() % page_size_ == 0,
                  "below a run of {} tokens", run.tokens.size());
    num_blocks += CheckRun(*child, keepers);
  }
  return num_blocks;
}

// A block's pages are held together, and only where all before them are.
void PrefixCache::CheckHolders(const CacheRun& run) const {
  TANGRAM_CHECK(std::ssize(run.pages) == int64_t{NumBlocks(run)} * num_rows_,
                "{} pages of {} tokens", run.pages.size(), run.tokens.size());
  bool held_before = run.parent->parent == nullptr
                         ? AllHeld(run.parent->pages)
                         : AllHeld(PagesOf(*run.parent, NumBlocks(*run.parent) - 1));
  for (int block = 0; block < NumBlocks(run); ++block) {
    const auto pages = PagesOf(run, block);
    const bool held = AllHeld(pages);
    const auto is_held = [&](int32_t page) { return pool_->holders(page) > 0; };
    TANGRAM_CHECK(held == std::ranges::any_of(pages, is_held),
                  "pages of a block have different holders");
    TANGRAM_CHECK(!held || held_before, "a block is held, what is before it is not");
    held_before = held;
  }
}

}  // namespace tangram
