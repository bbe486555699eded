#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "paging/retention_table.h"
#include "sched/scheduler_output.h"

namespace tangram {

// What a KV slot holds in place of a key and a value: which tokens led to it, and where it stood.
struct SymbolicKv {
  uint64_t prefix = 0;
  int32_t position = -1;
  bool operator==(const SymbolicKv&) const = default;
};

struct CompressionRule {
  int window = 1;
  int sinks = 0;
};

// The groups of one sequence, without pages: what a dense run of it alone holds. The oracle.
class DenseRun {
 public:
  DenseRun(const RetentionTable& table, CompressionRule rule, std::string_view salt);

  int num_computed() const { return num_computed_; }
  std::span<const SymbolicKv> group(int group) const { return groups_[group]; }
  void Process(TokenId token);
  // The token that follows from what the last one read.
  TokenId Next(int vocab_size) const;

 private:
  const RetentionTable* table_;
  CompressionRule rule_;
  int num_computed_ = 0;
  uint64_t last_prefix_;
  std::vector<std::vector<SymbolicKv>> groups_;
};

// A model on pages, driven by scheduler outputs alone, as a device is: it has its own copy of the
// page table, knows of pages and lengths only what page writes, copies and positions tell, and the
// tokens that it drew before anybody else does.
class SymbolicModel {
 public:
  struct Shape {
    int num_slots, num_groups, max_pages, page_size;
    int64_t num_pages;
    int vocab_size;
  };
  SymbolicModel(Shape shape, CompressionRule rule);

  // Before the sequences of a step: page writes, then page copies.
  void Begin(const SchedulerOutput& output);
  // Processes one sequence's tokens and returns the one that follows from its logits.
  TokenId Run(const ScheduledSequence& seq, const RetentionTable& table, std::string_view salt,
              std::span<const TokenId> tokens);
  // Later steps find the token under kLastDrawn.
  void Draw(int slot, TokenId token) { drawn_[slot] = token; }
  // Nobody has the slot now: what is in it, and was drawn for it, must not be used again.
  void Forget(int slot);
  // What is wrong with the groups of a slot, if they are not those of a dense run; else empty.
  std::string Difference(int slot, const DenseRun& dense) const;

 private:
  SymbolicKv& At(int slot, int group, int index);
  const SymbolicKv& At(int slot, int group, int index) const;
  int32_t* Pages(int slot, int group) {
    return &page_table_[(size_t(slot) * shape_.num_groups + group) * shape_.max_pages];
  }
  void Compress(int slot, const RetentionTable& table, int boundary);

  Shape shape_;
  CompressionRule rule_;
  std::vector<SymbolicKv> pool_;     // [pages][page_size]
  std::vector<int32_t> page_table_;  // [slots][groups][max_pages]; -1: never told, or given back
  std::vector<TokenId> drawn_;       // by slot
};

}  // namespace tangram
