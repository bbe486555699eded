#include <algorithm>
#include <utility>

#include "base/check.h"
#include "paging/prefix_cache.h"

namespace tangram {

std::pair<RadixNode*, int> PrefixCache::Closest(const RadixNode& parent,
                                                std::span<const int32_t> tokens) {
  const auto common = [&](const RadixNode& run) {
    return static_cast<int>(std::ranges::mismatch(run.tokens, tokens).in2 - tokens.begin());
  };
  std::pair<RadixNode*, int> best = {nullptr, 0};
  const auto next = parent.children.lower_bound(tokens);
  if (next != parent.children.end()) best = {next->get(), common(**next)};
  if (next != parent.children.begin()) {
    RadixNode* previous = std::prev(next)->get();
    if (const int n = common(*previous); n > best.second) best = {previous, n};
  }
  return best;
}

const int32_t* PrefixCache::TailPages(const Namespace& space, const Slot& slot) const {
  return slot.table->group(slot.slot, 0) + space.table->Retained(0, slot.boundary) / page_size_;
}

// Those of the window, the last ones of a top, are no other state's.
bool PrefixCache::IsTopMine(const RadixNode& top, const Namespace& space, const Slot& slot) const {
  if (slot.boundary == 0) return true;
  const int last = space.table->Retained(0, slot.boundary) / page_size_ - 1;
  return top.pages[last] == TailPages(space, slot)[-1];
}

// The state's top, made of the slot's pages if there is none yet.
RadixNode& PrefixCache::Top(const Namespace& space, std::span<const int32_t> tokens,
                            const Slot& slot) {
  HistoryNode& chunk = *history_.Add(space.salt, tokens);
  const int table = chunk.depth > 0 ? space.retention : kAnyRetention;
  if (const auto it = chunk.states.find(table); it != chunk.states.end()) return *it->second;
  RadixNode& top = history_.AddState(chunk, table);
  for (int group = 0; group < num_groups_ && slot.boundary > 0; ++group) {
    const int32_t* ids = slot.table->group(slot.slot, group);
    const int count = space.table->Retained(group, slot.boundary) / page_size_;
    top.pages.insert(top.pages.end(), ids, ids + count);
  }
  pool_->AddCacheRefs(top.pages);
  num_blocks_ += 1;
  return top;
}

void PrefixCache::Stamp(RadixNode* run, int64_t stamp) {
  for (; run != nullptr; run = run->parent) StampOne(*run, stamp);
}

void PrefixCache::StampOne(RadixNode& run, int64_t stamp) {
  if (run.leaf()) {
    leaves_.erase({run.last_used, &run});
    leaves_.emplace(stamp, &run);
  }
  run.last_used = stamp;
}

RadixNode* PrefixCache::AddChild(RadixNode& parent, std::span<const int32_t> tokens) {
  if (parent.leaf()) leaves_.erase({parent.last_used, &parent});
  auto run = std::make_unique<RadixNode>();
  run->parent = &parent;
  run->tokens.assign(tokens.begin(), tokens.end());
  RadixNode* added = run.get();
  parent.children.insert(std::move(run));
  return added;
}

// Its order among its siblings stays, since it is a prefix of none of them.
RadixNode* PrefixCache::Lengthen(RadixNode& run, std::span<const int32_t> tokens) {
  run.tokens.assign(tokens.begin(), tokens.end());
  return &run;
}

// In place of what it has.
void PrefixCache::SetPages(RadixNode& run, const Namespace& space, const Slot& slot, int index) {
  const std::vector<int32_t> old = std::move(run.pages);
  const int num_blocks = NumBlocks(run);
  run.pages.resize(size_t(num_blocks) * num_groups_);
  for (int group = 0; group < num_groups_; ++group) {
    const int first = space.table->Retained(group, slot.boundary) / page_size_;
    const int32_t* page = slot.table->group(slot.slot, group) + first + index;
    for (int block = 0; block < num_blocks; ++block) {
      run.pages[size_t(block) * num_groups_ + group] = page[block];
    }
  }
  pool_->AddCacheRefs(run.pages);
  pool_->DropCacheRefs(old);
  num_blocks_ += num_blocks - std::ssize(old) / num_groups_;
}

// What is behind so many blocks becomes the only child.
void PrefixCache::Split(RadixNode& run, int blocks) {
  if (blocks >= NumBlocks(run)) return;
  auto rest = std::make_unique<RadixNode>();
  const auto token = run.tokens.begin() + ptrdiff_t(blocks) * page_size_;
  const auto page = run.pages.begin() + ptrdiff_t(blocks) * num_groups_;
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

void PrefixCache::RemoveSubtree(RadixNode* run) {
  while (!run->children.empty()) RemoveSubtree(run->children.begin()->get());
  RemoveLeaf(run);
}

void PrefixCache::RemoveLeaf(RadixNode* leaf) {
  leaves_.erase({leaf->last_used, leaf});
  pool_->DropCacheRefs(leaf->pages);
  RadixNode* parent = leaf->parent;
  if (parent == nullptr) {
    --num_blocks_;
    history_.RemoveState(*leaf->chunk, leaf->retention);
    return;
  }
  num_blocks_ -= NumBlocks(*leaf);
  parent->children.erase(parent->children.find(std::span<const int32_t>(leaf->tokens)));
  if (parent->leaf()) leaves_.emplace(parent->last_used, parent);
  if (parent->children.empty() && parent->pages.empty()) RemoveLeaf(parent);  // top at boundary 0
}

void PrefixCache::RemoveLastBlock(RadixNode& leaf) {
  const int last = NumBlocks(leaf) - 1;
  if (leaf.parent == nullptr || last == 0) return RemoveLeaf(&leaf);
  pool_->DropCacheRefs(PagesOf(leaf, last));
  leaf.pages.resize(size_t(last) * num_groups_);
  leaf.tokens.resize(size_t(last) * page_size_);
  --num_blocks_;
}

// Those of a block are held together.
bool PrefixCache::InUse(const RadixNode& leaf) const {
  if (leaf.parent == nullptr) return AllHeld(leaf.pages);
  return pool_->sequence_refs(PagesOf(leaf, NumBlocks(leaf) - 1)[0]) > 0;
}

bool PrefixCache::AllHeld(std::span<const int32_t> pages) const {
  return std::ranges::all_of(pages, [&](int32_t p) { return pool_->sequence_refs(p) > 0; });
}

void PrefixCache::CheckInvariants(std::vector<int32_t>& cache_refs) const {
  history_.CheckInvariants();
  int64_t num_blocks = 0;
  const auto visit = [&](const auto& self, const HistoryNode& chunk) -> void {
    for (const auto& [table, top] : chunk.states) {
      TANGRAM_CHECK(!top->children.empty() || top->leaf(), "a state without pages");
      num_blocks += CheckRun(*top, cache_refs);
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
int64_t PrefixCache::CheckRun(const RadixNode& run, std::vector<int32_t>& cache_refs) const {
  for (const int32_t page : run.pages) ++cache_refs[page];
  if (run.leaf()) {
    const bool listed = leaves_.contains({run.last_used, const_cast<RadixNode*>(&run)});
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
    num_blocks += CheckRun(*child, cache_refs);
  }
  return num_blocks;
}

// A block's pages are held together, and only where all before them are.
void PrefixCache::CheckHolders(const RadixNode& run) const {
  TANGRAM_CHECK(std::ssize(run.pages) == int64_t{NumBlocks(run)} * num_groups_,
                "{} pages of {} tokens", run.pages.size(), run.tokens.size());
  bool held_before = run.parent->parent == nullptr
                         ? AllHeld(run.parent->pages)
                         : AllHeld(PagesOf(*run.parent, NumBlocks(*run.parent) - 1));
  for (int block = 0; block < NumBlocks(run); ++block) {
    const auto pages = PagesOf(run, block);
    const bool held = AllHeld(pages);
    const auto is_held = [&](int32_t page) { return pool_->sequence_refs(page) > 0; };
    TANGRAM_CHECK(held == std::ranges::any_of(pages, is_held),
                  "pages of a block have different sequence_refs");
    TANGRAM_CHECK(!held || held_before, "a block is held, what is before it is not");
    held_before = held;
  }
}

}  // namespace tangram
