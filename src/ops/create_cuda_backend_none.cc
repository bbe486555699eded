#include "ops/create_backend.h"

namespace tangram::ops {

Result<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions&) {
  return MakeError(ErrorKind::kUnsupported,
                   "this build has no CUDA backend: scripts/setup-cuda brings the compiler",
                   "device");
}

}  // namespace tangram::ops
