#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace tangram::apps::eval {

// A document cut into sentences, and dialogues into turns, with the tokens that each takes.
class Passages {
 public:
  struct Piece {
    std::string text;  // of a document: with the space or newline behind it
    int tokens;
  };

  // `document`: one paragraph a line; `dialogues` as BundledDialogues.
  static Result<Passages> Create(std::string_view document, std::string_view dialogues,
                                 const Tokenizer& tokenizer);

  // Consecutive sentences, or turns beginning with a user's, of at least `tokens` tokens together,
  // `start` (in [0, 1)) of the way from the first such run to the last. kInvalidArgument if the
  // text is shorter.
  Result<std::span<const Piece>> Document(double start, int tokens) const;
  Result<std::span<const Piece>> Dialogue(double start, int tokens) const;

 private:
  std::vector<Piece> sentences_, turns_;
};

// Cuts a paragraph behind the full stops, question and exclamation marks that end sentences (not
// behind those of Mr. or Mrs.); the spaces between are dropped.
std::vector<std::string> SplitSentences(std::string_view paragraph);

}  // namespace tangram::apps::eval
