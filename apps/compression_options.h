#pragma once

#include "base/options.h"
#include "engine/engine.h"

namespace tangram::apps {

// The options of KV cache compression, in the reference's spellings too. Parse fails where they do
// not fit each other; config.compression is whole afterwards: a level that was not given is the
// scorer's own, a ratio is in whole hundredths.
void DeclareCompressionOptions(Options& options, EngineConfig& config);

// Of these, the ones that say what is compressed when: chunk, window, sinks and floor.
void DeclareCompressionSizes(Options& options, CompressionConfig& config);

}  // namespace tangram::apps
