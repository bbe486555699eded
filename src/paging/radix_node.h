#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace tangram {

// Orders nodes of a tree by their tokens, so that the child that has most in common with a prompt
// is beside the place where the prompt would stand: no hash can collide, and a match can end at any
// token.
template <class Node>
struct ByTokens {
  using is_transparent = void;
  using Tokens = std::span<const int32_t>;
  static Tokens TokensOf(const std::unique_ptr<Node>& node) { return node->tokens; }
  static Tokens TokensOf(Tokens tokens) { return tokens; }
  template <class A, class B>
  bool operator()(const A& a, const B& b) const {
    return std::ranges::lexicographical_compare(TokensOf(a), TokensOf(b));
  }
};

struct HistoryNode;

// Part of a state in the prefix cache: blocks of page_size tokens that follow the parent's, or, at
// the top, all that compression kept of the tokens before. A block is one page of each group.
struct RadixNode {
  using Children = std::set<std::unique_ptr<RadixNode>, ByTokens<RadixNode>>;

  RadixNode* parent = nullptr;
  HistoryNode* chunk = nullptr;  // at the top: the tokens before
  int retention = 0;             // at the top: the retention table's index
  // Of all blocks, the last of a leaf may have fewer than page_size. Siblings differ in their first
  // block, and none is a prefix of another.
  std::vector<int32_t> tokens;
  // [blocks][G]; slots behind `tokens` may belong to a sequence that goes on in them. At the top
  // [G][retained(group) / page_size], groups one after the other; none where nothing is before.
  std::vector<int32_t> pages;
  Children children;
  int64_t last_used = 0;  // all of it; the least goes first. 0: not known yet
  // At the top: who left it last. A common beginning stays one.
  enum class Origin { kEnd, kAfterPrompt, kCommon } origin = Origin::kEnd;

  bool leaf() const { return children.empty() && !pages.empty(); }
};

// A token history: C tokens that follow the parent's.
struct HistoryNode {
  using Children = std::set<std::unique_ptr<HistoryNode>, ByTokens<HistoryNode>>;

  HistoryNode* parent = nullptr;
  std::string salt;             // at the top
  int depth = 0;                // boundary at its end, in chunks
  std::vector<int32_t> tokens;  // C; none at the top
  Children children;
  std::map<int, std::unique_ptr<RadixNode>> states;  // by table
  uint64_t last_used = 0;                            // no less than its children's

  // Only remembered.
  bool idle() const { return children.empty() && states.empty(); }
};

}  // namespace tangram
