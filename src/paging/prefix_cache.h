#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "paging/page_pool.h"
#include "paging/page_table.h"

namespace tangram {

// The states that sequences leave for others with the same first tokens: a tree of blocks of
// page_size tokens, each with its G pages. Children are sorted by their tokens, so the one that has
// most in common with a prompt is beside the place where the prompt would stand: a lookup takes
// O(prompt / page_size * log(children)), and no hash can collide.
//
// A block that is held by a running sequence has an ancestry that is held too, so eviction from the
// leaves reaches every page that no sequence holds.
class PrefixCache {
 public:
  struct Block;
  struct Before {
    using is_transparent = void;
    bool operator()(const std::unique_ptr<Block>& a, std::span<const int32_t> b) const;
    bool operator()(std::span<const int32_t> a, const std::unique_ptr<Block>& b) const;
    bool operator()(const std::unique_ptr<Block>& a, const std::unique_ptr<Block>& b) const;
  };
  using Blocks = std::set<std::unique_ptr<Block>, Before>;
  struct Block {
    Block* parent = nullptr;
    std::vector<int32_t> tokens;  // page_size, or fewer in a leaf; none is a prefix of a sibling's
    std::vector<int32_t>
        pages;  // [G]; slots beyond `tokens` may belong to a sequence that goes on in them
    Blocks children;
    uint64_t last_used = 0;  // no less than its children's
  };
  // The longest state whose tokens are a prefix of those asked for. Valid until the cache changes.
  struct Match {
    int num_tokens = 0;
    std::vector<const Block*>
        shared;  // to be used as they are; a last one that is not full, by one who goes on in it
    const Block* copied =
        nullptr;                // after them: its first tokens are of use, in a copy of its pages
    int64_t num_evictable = 0;  // pages of all these that nobody holds

    // Does without `copied`.
    void DropCopy(int page_size, const PagePool& pool);
  };

  PrefixCache(int page_size, int num_rows, PagePool* pool);
  ~PrefixCache();

  // `salt` keeps those apart who must not share.
  Match Find(uint64_t salt, std::span<const int32_t> tokens);
  // Keeps the pages of a slot that hold `tokens` where the tree has none for them yet; of a
  // sequence that runs on, whole pages only.
  void Insert(uint64_t salt, std::span<const int32_t> tokens, const PageTable& table, int slot,
              bool runs_on);
  // Drops the blocks used least recently, from the ends of states, until the pool has so many free
  // pages. It can.
  void Evict(int64_t num_free);
  void Clear();

  int64_t num_blocks() const { return num_blocks_; }
  // Aborts unless every block is where it should be. Each page must be kept exactly as often as the
  // blocks say: adds to keepers[page].
  void CheckInvariants(std::vector<int32_t>& keepers) const;

 private:
  struct Older {
    bool operator()(const Block* a, const Block* b) const { return a->last_used < b->last_used; }
  };
  // The child that has most first tokens in common with `tokens`, and how many.
  static std::pair<Block*, int> Closest(const Block& parent, std::span<const int32_t> tokens);

  static bool IsLeaf(const Block& block) { return block.children.empty() && block.parent; }
  Block& Root(uint64_t salt);
  void Touch(Block* block);
  Block* Add(Block& parent, std::span<const int32_t> tokens);
  void Lengthen(Block& block, std::span<const int32_t> tokens);
  void SetPages(Block& block, const PageTable& table, int slot, int index);
  // All pages of a block have the same holders.
  bool Held(const Block& block) const { return pool_->holders(block.pages[0]) > 0; }
  void Remove(Block* leaf);
  void CheckBlock(const Block& block, std::vector<int32_t>& keepers) const;

  int page_size_, num_rows_;
  PagePool* pool_;
  std::map<uint64_t, std::unique_ptr<Block>> roots_;  // by salt; without tokens or pages
  std::set<Block*, Older> leaves_;
  uint64_t clock_ = 0;
  int64_t num_blocks_ = 0;
};

}  // namespace tangram
