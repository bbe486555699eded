#include "paging/prefix_cache.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace tangram {

bool PrefixCache::Before::operator()(const std::unique_ptr<Block>& a,
                                     std::span<const int32_t> b) const {
  return std::ranges::lexicographical_compare(a->tokens, b);
}

bool PrefixCache::Before::operator()(std::span<const int32_t> a,
                                     const std::unique_ptr<Block>& b) const {
  return std::ranges::lexicographical_compare(a, b->tokens);
}

bool PrefixCache::Before::operator()(const std::unique_ptr<Block>& a,
                                     const std::unique_ptr<Block>& b) const {
  return std::ranges::lexicographical_compare(a->tokens, b->tokens);
}

void PrefixCache::Match::DropCopy(int page_size, const PagePool& pool) {
  num_tokens = static_cast<int>(shared.size()) * page_size;
  for (const int32_t page : copied->pages) num_evictable -= pool.holders(page) == 0;
  copied = nullptr;
}

PrefixCache::PrefixCache(int page_size, int num_rows, PagePool* pool)
    : page_size_(page_size), num_rows_(num_rows), pool_(pool) {}

PrefixCache::~PrefixCache() { Clear(); }

std::pair<PrefixCache::Block*, int> PrefixCache::Closest(const Block& parent,
                                                         std::span<const int32_t> tokens) {
  const auto common = [&](const Block& block) {
    return static_cast<int>(std::ranges::mismatch(block.tokens, tokens).in2 - tokens.begin());
  };
  std::pair<Block*, int> best = {nullptr, 0};
  const auto next = parent.children.lower_bound(tokens);
  if (next != parent.children.end()) best = {next->get(), common(**next)};
  if (next != parent.children.begin()) {
    Block* previous = std::prev(next)->get();
    if (const int n = common(*previous); n > best.second) best = {previous, n};
  }
  return best;
}

PrefixCache::Match PrefixCache::Find(uint64_t salt, std::span<const int32_t> tokens) {
  Match match;
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return match;
  Block* block = root->second.get();
  for (int common = page_size_; common == page_size_ && !tokens.empty();) {
    const auto wanted = tokens.first(std::min<size_t>(tokens.size(), page_size_));
    tokens = tokens.subspan(wanted.size());
    Block* child;
    std::tie(child, common) = Closest(*block, wanted);
    if (common == 0) break;
    block = child;
    match.num_tokens += common;
    if (!Held(*block)) match.num_evictable += num_rows_;
    // Nobody else may write behind the tokens of a block that is not full, nor over those of a full
    // one.
    const bool can_go_on = common == static_cast<int>(block->tokens.size()) && !Held(*block);
    if (common == page_size_ || can_go_on) {
      match.shared.push_back(block);
    } else {
      match.copied = block;
    }
  }
  Touch(block);
  return match;
}

void PrefixCache::Insert(uint64_t salt, std::span<const int32_t> tokens, const PageTable& table,
                         int slot, bool runs_on) {
  if (runs_on) tokens = tokens.first(tokens.size() / page_size_ * page_size_);
  if (tokens.empty()) return;
  Block* block = &Root(salt);
  bool all_mine = true;  // the blocks so far have the slot's own pages
  for (int index = 0; !tokens.empty(); ++index) {
    const auto wanted = tokens.first(std::min<size_t>(tokens.size(), page_size_));
    tokens = tokens.subspan(wanted.size());
    const int32_t page = table.row(slot, 0)[index];
    auto [child, common] = Closest(*block, wanted);
    if (common < static_cast<int>(wanted.size())) {
      // Below blocks that its other holders do not hold, it would keep those from eviction.
      if (!all_mine && pool_->holders(page) > (runs_on ? 0 : 1)) break;
      if (common > 0 && common == static_cast<int>(child->tokens.size())) {
        Lengthen(*child, wanted);
      } else {
        child = Add(*block, wanted);
      }
      SetPages(*child, table, slot, index);
    }
    all_mine = all_mine && child->pages[0] == page;
    block = child;
  }
  Touch(block);
}

void PrefixCache::Evict(int64_t num_free) {
  for (size_t skipped = 0; pool_->num_free() < num_free;) {
    TANGRAM_CHECK(skipped < leaves_.size(), "{} pages cannot be evicted of {}",
                  num_free - pool_->num_free(), pool_->num_evictable());
    Block* oldest = *leaves_.begin();
    if (Held(*oldest)) {  // in use: young
      Touch(oldest);
      ++skipped;
    } else {
      Remove(oldest);
      skipped = 0;
    }
  }
}

void PrefixCache::Clear() {
  while (!leaves_.empty()) Remove(*leaves_.begin());
}

PrefixCache::Block& PrefixCache::Root(uint64_t salt) {
  std::unique_ptr<Block>& root = roots_[salt];
  if (root == nullptr) root = std::make_unique<Block>();
  return *root;
}

void PrefixCache::Touch(Block* block) {
  if (IsLeaf(*block)) leaves_.erase(block);
  ++clock_;
  for (Block* b = block; b != nullptr; b = b->parent) b->last_used = clock_;
  if (IsLeaf(*block)) leaves_.insert(block);
}

PrefixCache::Block* PrefixCache::Add(Block& parent, std::span<const int32_t> tokens) {
  if (IsLeaf(parent)) leaves_.erase(&parent);
  auto block = std::make_unique<Block>();
  block->parent = &parent;
  block->tokens.assign(tokens.begin(), tokens.end());
  block->last_used = ++clock_;
  Block* added = block.get();
  leaves_.insert(added);
  parent.children.insert(std::move(block));
  ++num_blocks_;
  return added;
}

void PrefixCache::Lengthen(Block& block, std::span<const int32_t> tokens) {
  const std::span<const int32_t> key = block.tokens;
  auto& siblings = block.parent->children;
  auto node = siblings.extract(siblings.find(key));
  block.tokens.assign(tokens.begin(), tokens.end());
  siblings.insert(std::move(node));
}

void PrefixCache::SetPages(Block& block, const PageTable& table, int slot, int index) {
  std::vector<int32_t> old = std::move(block.pages);
  block.pages.resize(num_rows_);
  for (int row = 0; row < num_rows_; ++row) {
    pool_->Keep(block.pages[row] = table.row(slot, row)[index]);
  }
  for (const int32_t page : old) pool_->Drop(page);
}

void PrefixCache::Remove(Block* leaf) {
  leaves_.erase(leaf);
  for (const int32_t page : leaf->pages) pool_->Drop(page);
  Block* parent = leaf->parent;
  const std::span<const int32_t> key = leaf->tokens;
  parent->children.erase(parent->children.find(key));
  --num_blocks_;
  if (!parent->children.empty()) return;
  if (parent->parent != nullptr) {
    leaves_.insert(parent);
  } else {
    std::erase_if(roots_, [&](const auto& root) { return root.second.get() == parent; });
  }
}

void PrefixCache::CheckInvariants(std::vector<int32_t>& keepers) const {
  for (const auto& [salt, root] : roots_) {
    TANGRAM_CHECK(!root->children.empty(), "an empty tree for salt {}", salt);
    for (const auto& block : root->children) CheckBlock(*block, keepers);
  }
  for (const Block* leaf : leaves_) TANGRAM_CHECK(IsLeaf(*leaf), "a leaf has children");
}

void PrefixCache::CheckBlock(const Block& block, std::vector<int32_t>& keepers) const {
  const bool whole = static_cast<int>(block.tokens.size()) == page_size_;
  TANGRAM_CHECK(whole || block.children.empty(), "a block of {} tokens has children",
                block.tokens.size());
  TANGRAM_CHECK(block.last_used <= block.parent->last_used, "younger than its parent");
  for (const int32_t page : block.pages) {
    ++keepers[page];
    TANGRAM_CHECK((pool_->holders(page) > 0) == Held(block), "page {} is not held like others",
                  page);
  }
  const auto leaf = leaves_.find(const_cast<Block*>(&block));
  TANGRAM_CHECK(!IsLeaf(block) || (leaf != leaves_.end() && *leaf == &block),
                "a leaf is not listed");
  for (const auto& child : block.children) {
    TANGRAM_CHECK(!Held(*child) || Held(block), "a block is held, its parent is not");
    CheckBlock(*child, keepers);
  }
}

}  // namespace tangram
