#include "ops/backend.h"

namespace tangram::ops {

std::unique_ptr<Backend> CreateCpuBackend(int) { return CreateReferenceBackend(); }

}  // namespace tangram::ops
