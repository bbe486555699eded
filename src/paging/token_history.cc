#include "paging/token_history.h"

#include "base/check.h"

namespace tangram {

HistoryNode* TokenHistory::Find(std::string_view salt, std::span<const int32_t> tokens) {
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return nullptr;
  HistoryNode* chunk = root->second.get();
  for (; tokens.size() >= size_t(chunk_); tokens = tokens.subspan(chunk_)) {
    const auto child = chunk->children.find(tokens.first(chunk_));
    if (child == chunk->children.end()) break;
    chunk = child->get();
  }
  Touch(chunk);
  return chunk;
}

HistoryNode* TokenHistory::Add(std::string_view salt, std::span<const int32_t> tokens) {
  while (num_chunks_ > max_chunks_ && !idle_.empty()) Forget(*idle_.begin());
  HistoryNode* chunk = Find(salt, tokens);
  if (chunk == nullptr) {
    chunk = (roots_[std::string(salt)] = std::make_unique<HistoryNode>()).get();
    chunk->salt = salt;
    ++num_chunks_;
    Touch(chunk);
  }
  tokens = tokens.subspan(size_t(chunk->depth) * chunk_);
  for (; tokens.size() >= size_t(chunk_); tokens = tokens.subspan(chunk_)) {
    chunk = AddChild(*chunk, tokens.first(chunk_));
  }
  return chunk;
}

RadixNode& TokenHistory::AddState(HistoryNode& chunk, int retention) {
  if (chunk.idle()) idle_.erase(&chunk);
  auto& state = chunk.states[retention];
  TANGRAM_CHECK(state == nullptr, "a second state at depth {} for retention {}", chunk.depth,
                retention);
  state = std::make_unique<RadixNode>();
  state->chunk = &chunk;
  state->retention = retention;
  return *state;
}

void TokenHistory::RemoveState(HistoryNode& chunk, int retention) {
  chunk.states.erase(retention);
  Touch(&chunk);
}

HistoryNode* TokenHistory::AddChild(HistoryNode& parent, std::span<const int32_t> tokens) {
  if (parent.idle()) idle_.erase(&parent);
  auto child = std::make_unique<HistoryNode>();
  HistoryNode* added = child.get();
  added->parent = &parent;
  added->depth = parent.depth + 1;
  added->tokens.assign(tokens.begin(), tokens.end());
  parent.children.insert(std::move(child));
  ++num_chunks_;
  Touch(added);
  return added;
}

void TokenHistory::Touch(HistoryNode* chunk) {
  if (chunk->idle()) idle_.erase(chunk);
  ++clock_;
  for (HistoryNode* c = chunk; c != nullptr; c = c->parent) c->last_used = clock_;
  if (chunk->idle()) idle_.insert(chunk);
}

void TokenHistory::Forget(HistoryNode* chunk) {
  idle_.erase(chunk);
  --num_chunks_;
  HistoryNode* parent = chunk->parent;
  if (parent == nullptr) {
    roots_.erase(roots_.find(chunk->salt));
    return;
  }
  parent->children.erase(parent->children.find(std::span<const int32_t>(chunk->tokens)));
  if (parent->idle()) idle_.insert(parent);
}

void TokenHistory::CheckInvariants() const {
  int64_t num_chunks = 0;
  size_t num_idle = 0;
  const auto visit = [&](const auto& self, const HistoryNode& chunk) -> void {
    ++num_chunks;
    if (chunk.idle()) {
      const auto it = idle_.find(const_cast<HistoryNode*>(&chunk));
      TANGRAM_CHECK(it != idle_.end() && *it == &chunk, "an idle chunk is not listed");
      ++num_idle;
    }
    for (const auto& child : chunk.children) self(self, *child);
  };
  for (const auto& [salt, root] : roots_) visit(visit, *root);
  TANGRAM_CHECK(num_idle == idle_.size() && num_chunks == num_chunks_,
                "{} chunks, {} idle, counted {} and {}", num_chunks, num_idle, num_chunks_,
                idle_.size());
}

}  // namespace tangram
