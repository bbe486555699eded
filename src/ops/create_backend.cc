#include "ops/create_backend.h"

#include "base/log.h"

namespace tangram::ops {

Result<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "reference") return CreateReferenceBackend();
  if (options.device == "cpu") return CreateCpuBackend(options.num_threads);
  auto cuda = CreateCudaBackend(options);
  if (cuda || options.device == "cuda") return cuda;
  LogInfo("Device: CPU ({})", cuda.error().message);
  return CreateCpuBackend(options.num_threads);
}

}  // namespace tangram::ops
