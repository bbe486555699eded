#pragma once

#include <cstdint>
#include <iterator>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "paging/cache_run.h"
#include "paging/page_pool.h"
#include "paging/page_table.h"
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
  // Whose state. `table` is meant by its index: states at boundary 0 serve all tables.
  struct Kind {
    // Keeps those apart who must not share: the text itself, since two of one hash would share.
    std::string_view salt;
    int table = 0;
    const RetentionTable* retention = nullptr;
  };
  // A running sequence's pages in its slot.
  struct Slot {
    const PageTable* table;
    int slot;
    int boundary;  // its rows are compressed up to here
  };
  // The longest state whose tokens are a prefix of those asked for. Valid until the cache changes.
  struct Match {
    int num_tokens = 0;
    int boundary = 0;
    int num_remembered = 0;         // tokens up to the last boundary in common with a token history
    CacheRun* last = nullptr;       // where it ends
    const CacheRun* top = nullptr;  // what compression at `boundary` kept; null at 0
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
  PrefixCache(int page_size, int num_rows, int chunk, int64_t max_history, PagePool* pool);
  ~PrefixCache();

  // Never more than `max_tail` tokens behind a boundary of a table that compresses.
  Match Find(const Kind& kind, std::span<const int32_t> tokens, int max_tail);
  // Evicts what Find would give only after all that nobody waits for, and after what those of a
  // higher rank wait for. Until the next Find. |rank| is below 2^60.
  void Await(const Kind& kind, std::span<const int32_t> tokens, int max_tail, int64_t rank);
  // Keeps the slot's pages that hold `tokens` where the cache has none for them yet.
  void Insert(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot, Extent extent);
  // Keeps no page of the slot any longer but those that other states share.
  void Remove(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot);
  // Makes the state at `boundary` the first to be evicted, as far as no other goes on from it: a
  // longer one takes its place, or experience says that nobody comes back to it. Not one that was
  // left as a common beginning.
  void Retire(const Kind& kind, std::span<const int32_t> tokens, int boundary);
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
  // Aborts unless every block is where it should be. Adds to keepers[page] how often the blocks
  // keep it.
  void CheckInvariants(std::vector<int32_t>& keepers) const;

 private:
  static constexpr int kAnyTable = -1;  // of states at boundary 0
  // The child that has most first tokens in common with `tokens`, and how many.
  static std::pair<CacheRun*, int> Closest(const CacheRun& parent, std::span<const int32_t> tokens);

  // The state at a boundary, if there is one.
  CacheRun* FindTop(const Kind& kind, std::span<const int32_t> tokens, int boundary);
  void FindTail(CacheRun& top, std::span<const int32_t> tokens, Match& match);
  CacheRun& Top(const Kind& kind, std::span<const int32_t> tokens, const Slot& slot);
  // The slot's pages in row 0, from the first behind the boundary: one page tells whose a block is.
  const int32_t* TailPages(const Kind& kind, const Slot& slot) const;
  bool IsTopMine(const CacheRun& top, const Kind& kind, const Slot& slot) const;
  bool IsMine(const CacheRun& run, int block, int32_t page) const {
    return PagesOf(run, block)[0] == page;
  }

  int Blocks(std::size_t tokens) const { return (int(tokens) + page_size_ - 1) / page_size_; }
  int NumBlocks(const CacheRun& run) const { return Blocks(run.tokens.size()); }
  std::span<const int32_t> PagesOf(const CacheRun& run, int block) const {
    return std::span(run.pages).subspan(std::size_t(block) * num_rows_, num_rows_);
  }
  void Touch(CacheRun* run) { Stamp(run, ++clock_); }
  void Stamp(CacheRun* run, int64_t stamp);
  void StampOne(CacheRun& run, int64_t stamp);
  CacheRun* AddChild(CacheRun& parent, std::span<const int32_t> tokens);
  CacheRun* Lengthen(CacheRun& run, std::span<const int32_t> tokens);
  void SetPages(CacheRun& run, const Kind& kind, const Slot& slot, int index);
  void Split(CacheRun& run, int blocks);
  void RemoveSubtree(CacheRun* run);
  void RemoveLeaf(CacheRun* leaf);
  void RemoveLastBlock(CacheRun& leaf);
  // Whether nothing of a leaf can be evicted.
  bool InUse(const CacheRun& leaf) const;
  bool AllHeld(std::span<const int32_t> pages) const;
  int64_t CheckRun(const CacheRun& run, std::vector<int32_t>& keepers) const;
  void CheckHolders(const CacheRun& run) const;

  int page_size_, num_rows_, chunk_;
  PagePool* pool_;
  TokenHistory history_;
  std::set<std::pair<int64_t, CacheRun*>> leaves_;  // by last_used
  int64_t clock_ = 0, retired_ = 0;  // of use, upwards; of what is retired, downwards
  int64_t num_blocks_ = 0;           // tops included
  uint64_t ends_evicted_ = 0, ends_cleared_ = 0;
};

}  // namespace tangram
