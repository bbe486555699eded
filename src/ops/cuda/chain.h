#pragma once

namespace tangram::ops::cuda {

// The next launch of this thread starts when all work before it is done and seen by all: it is the
// first link of a chain (launch.cuh). Behind what writes arrays that kernels read before they wait
// (positions, tables, page ids), and at the beginning of a recorded graph.
inline thread_local bool chain_broken = false;
inline void BreakChain() { chain_broken = true; }

}  // namespace tangram::ops::cuda
