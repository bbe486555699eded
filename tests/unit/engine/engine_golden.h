#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"

// What the engine answered when a golden file was made, and a comparison with it to the bit.
namespace tangram {

struct GoldenToken {
  TokenId token = -1, runner_up = -1;
  float logprob = 0, runner_up_logprob = 0;
};

// One request's answer. Besides the tokens, what says how its KV cache came to be.
struct GoldenAnswer {
  int cached = 0;       // tokens of the prompt that the prefix cache had
  double resident = 0;  // tokens kept at the end, mean over rows
  std::vector<GoldenToken> tokens;

  // The next of the request's events. Its log probabilities must have been asked for, two a token.
  void Add(const TokenEvent& event);
};

class EngineGolden {
 public:
  // Reads the file; or begins a new one, if TANGRAM_REGENERATE_GOLDEN is set.
  explicit EngineGolden(std::string path);

  // Why the file says nothing about this machine: other kernels or mathematical functions than it
  // was made with round differently. Empty if it does.
  std::string WhyNotComparable() const;
  // A failure of the running test that names the first difference. A case that a new file does not
  // have yet is noted instead.
  void Check(const std::string& name, const GoldenAnswer& answer);
  // Writes a new file; does nothing to one that was read.
  void Finish() const;

 private:
  std::string path_, environment_;
  bool regenerates_;
  std::map<std::string, GoldenAnswer> answers_;  // by the names of their cases
};

// Makes the kernels of AVX2 the ones that run, wherever there are such: AVX-512's sum in another
// order, and one golden file is to do for both. To be called before any kernel runs.
void UseGoldenKernels();

}  // namespace tangram
