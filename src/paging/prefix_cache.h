#pragma once

#include <cstdint>
#include <iterator>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "paging/page_pool.h"
#include "paging/page_table.h"
#include "paging/radix_node.h"
#include "paging/retention_table.h"
#include "paging/token_history.h"

namespace tangram {

// The states that sequences leave for others with the same first tokens. A state is at a boundary,
// 0 if nothing was compressed: the pages of all that compression kept, and below them a tree of
// blocks of page_size tokens with their pages, those that came and were used together in one run.
//
// Who holds a block holds all above it, so eviction from the leaves reaches every page that no
// sequence holds.
//
// prefix_cache.cc finds and leaves states, prefix_cache_tree.cc keeps their trees.
class PrefixCache {
 public:
  // Whose state. States at boundary 0 serve all retentions.
  struct Namespace {
    // Keeps those apart who must not share: the text itself, since two of one hash would share.
    std::string_view salt;
    int retention = 0;  // index of the table
    const RetentionTable* table = nullptr;
  };
  // A running sequence's pages in its slot.
  struct Slot {
    const PageTable* table;
    int slot;
    int boundary;  // its groups are compressed up to here
  };
  // The longest state whose tokens are a prefix of those asked for. Valid until the cache changes.
  struct Match {
    int num_tokens = 0;
    int boundary = 0;
    int num_remembered = 0;     // tokens up to the last boundary in common with a token history
    RadixNode* last = nullptr;  // where it ends
    const RadixNode* top = nullptr;  // what compression at `boundary` kept; null at 0
    // Pages of its blocks, [G] each, to be used as they are; a last one that is not full, by one
    // who goes on in it.
    std::vector<std::span<const int32_t>> shared;
    // Those of a block behind them whose first tokens are of use, in copies; empty if none are.
    std::span<const int32_t> copied;
  };
  enum class Extent {
    kCompressed,  // what compression at the boundary kept, alone: a common beginning
    kWholePages,  // and the tail, but for a page that is not full: of a sequence that runs on
    kAll,         // of a sequence that ends
  };

  // Boundaries are every `chunk` tokens. Token histories without pages are kept for `max_history`
  // tokens.
  PrefixCache(int page_size, int num_groups, int chunk, int64_t max_history, PagePool* pool);
  ~PrefixCache();

  // Never more than `max_tail` tokens behind a boundary of a table that compresses.
  Match Find(const Namespace& space, std::span<const int32_t> tokens, int max_tail);
  // Evicts what Find would give only after all that nobody waits for, and after what those of a
  // higher rank wait for. Until the next Find. |rank| is below 2^60.
  void PinForQueued(const Namespace& space, std::span<const int32_t> tokens, int max_tail,
                    int64_t rank);
  // Keeps the slot's pages that hold `tokens` where the cache has none for them yet.
  void Insert(const Namespace& space, std::span<const int32_t> tokens, const Slot& slot,
              Extent extent);
  // Keeps no page of the slot any longer but those that other states share.
  void Remove(const Namespace& space, std::span<const int32_t> tokens, const Slot& slot);
  // Keeps no state of these tokens, at any boundary, whoever left it, nor those that go on from
  // one: something in them is wrong.
  void RemoveAll(const Namespace& space, std::span<const int32_t> tokens);
  // Makes the state at `boundary` the first to be evicted, as far as no other goes on from it: a
  // longer one takes its place, or experience says that nobody comes back to it. Not one that was
  // left as a common beginning.
  void MarkEvictFirst(const Namespace& space, std::span<const int32_t> tokens, int boundary);
  // A new request goes on from a match. By where it began, at an answer's end or after a prompt,
  // the state that is less likely to be asked for is the first to be evicted.
  void CountHit(const Match& match);
  bool ends_are_unlikely() const { return hits_after_prompt_ > kOftenEnough * hits_at_end_; }
  bool after_prompts_are_unlikely() const {
    return hits_at_end_ > kOftenEnough * hits_after_prompt_;
  }
  // Remembers the tokens, without pages.
  void Remember(std::string_view salt, std::span<const int32_t> tokens) {
    history_.Add(salt, tokens);
  }
  // Drops the blocks used least recently, from the ends of states, until the pool has so many free
  // pages. It can.
  void Evict(int64_t num_free);
  void Clear();

  int64_t num_blocks() const { return num_blocks_; }
  // Token sequences that are kept, each to an end of its own; and how many of them Evict and Clear
  // have dropped, or cut back to what they share with others.
  int64_t num_ends() const { return std::ssize(leaves_); }
  uint64_t ends_evicted() const { return ends_evicted_; }
  uint64_t ends_cleared() const { return ends_cleared_; }
  // Aborts unless every block is where it should be. Adds to cache_refs[page] how often the blocks
  // keep it.
  void CheckInvariants(std::vector<int32_t>& cache_refs) const;

 private:
  static constexpr int kAnyRetention = -1;  // of states at boundary 0
  // One kind of state is asked for so many times as often as the other.
  static constexpr int kOftenEnough = 8;
  // The child that has most first tokens in common with `tokens`, and how many.
  static std::pair<RadixNode*, int> Closest(const RadixNode& parent,
                                            std::span<const int32_t> tokens);

  // The state at a boundary, if there is one.
  RadixNode* FindTop(const Namespace& space, std::span<const int32_t> tokens, int boundary);
  void FindTail(RadixNode& top, std::span<const int32_t> tokens, Match& match);
  RadixNode& Top(const Namespace& space, std::span<const int32_t> tokens, const Slot& slot);
  // The slot's pages in group 0, from the first behind the boundary: one page tells whose a block
  // is.
  const int32_t* TailPages(const Namespace& space, const Slot& slot) const;
  bool IsTopMine(const RadixNode& top, const Namespace& space, const Slot& slot) const;
  bool IsMine(const RadixNode& run, int block, int32_t page) const {
    return PagesOf(run, block)[0] == page;
  }

  int Blocks(std::size_t tokens) const { return (int(tokens) + page_size_ - 1) / page_size_; }
  int NumBlocks(const RadixNode& run) const { return Blocks(run.tokens.size()); }
  std::span<const int32_t> PagesOf(const RadixNode& run, int block) const {
    return std::span(run.pages).subspan(std::size_t(block) * num_groups_, num_groups_);
  }
  void Touch(RadixNode* run) { Stamp(run, ++clock_); }
  void Stamp(RadixNode* run, int64_t stamp);
  void StampOne(RadixNode& run, int64_t stamp);
  RadixNode* AddChild(RadixNode& parent, std::span<const int32_t> tokens);
  RadixNode* Lengthen(RadixNode& run, std::span<const int32_t> tokens);
  void SetPages(RadixNode& run, const Namespace& space, const Slot& slot, int index);
  void Split(RadixNode& run, int blocks);
  void RemoveSubtree(RadixNode* run);
  void RemoveLeaf(RadixNode* leaf);
  void RemoveLastBlock(RadixNode& leaf);
  // Whether nothing of a leaf can be evicted.
  bool InUse(const RadixNode& leaf) const;
  bool AllHeld(std::span<const int32_t> pages) const;
  int64_t CheckRun(const RadixNode& run, std::vector<int32_t>& cache_refs) const;
  void CheckHolders(const RadixNode& run) const;

  int page_size_, num_groups_, chunk_;
  PagePool* pool_;
  TokenHistory history_;
  std::set<std::pair<int64_t, RadixNode*>> leaves_;  // by last_used
  int64_t clock_ = 0, evict_first_ = 0;  // of use, upwards; of what is retired, downwards
  int64_t num_blocks_ = 0;               // tops included
  uint64_t ends_evicted_ = 0, ends_cleared_ = 0;
  int64_t hits_at_end_ = 0, hits_after_prompt_ = 0;
};

}  // namespace tangram
