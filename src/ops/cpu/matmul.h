#pragma once

#include <vector>

#include "ops/backend.h"
#include "ops/cpu/scratch.h"
#include "ops/cpu/thread_pool.h"

namespace tangram::ops {

// What the products of a backend share: threads, and their memory.
struct MatMulContext {
  ThreadPool& pool;
  Scratch input;                // x as the kernels read it
  std::vector<Scratch> worker;  // [threads]
};

// `p.weight` is packed (packed_weight.h).
// F32, F16, BF16: f32 products and sums, one after the other over K.
void MatMulFloat(const MatMulParams& p, MatMulContext& context);
// Block types: x is rounded to 16 bits with one scale for each 32 values (relative error 2^-16 of
// the largest), the products of a block are summed exactly in integers, blocks are summed in f32,
// one after the other. Twice the products an instruction of f32, and accurate enough that no reader
// of logits can tell.
void MatMulQuantized(const MatMulParams& p, MatMulContext& context);

}  // namespace tangram::ops
