#include "ops/cuda/gemm/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include "base/check.h"

namespace tangram::ops::cuda {

struct CublasLt::Plan {
  cublasLtMatmulDesc_t description{};
  cublasLtMatrixLayout_t weight{}, x{}, out{};
  cublasLtMatmulAlgo_t algorithm{};
};

namespace {

// The library's functions, under their own names.
struct Functions {
  decltype(&cublasLtCreate) Create;
  decltype(&cublasLtDestroy) Destroy;
  decltype(&cublasLtMatmul) Matmul;
  decltype(&cublasLtMatmulDescCreate) DescCreate;
  decltype(&cublasLtMatmulDescDestroy) DescDestroy;
  decltype(&cublasLtMatmulDescSetAttribute) DescSet;
  decltype(&cublasLtMatrixLayoutCreate) LayoutCreate;
  decltype(&cublasLtMatrixLayoutDestroy) LayoutDestroy;
  decltype(&cublasLtMatmulPreferenceCreate) PreferenceCreate;
  decltype(&cublasLtMatmulPreferenceDestroy) PreferenceDestroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) PreferenceSet;
  decltype(&cublasLtMatmulAlgoGetHeuristic) Heuristic;
};

bool Load(void* library, Functions* f) {
  bool all = true;
  auto load = [&](auto& pointer, const char* name) {
    pointer = reinterpret_cast<std::decay_t<decltype(pointer)>>(dlsym(library, name));
    all = all && pointer != nullptr;
  };
  load(f->Create, "cublasLtCreate");
  load(f->Destroy, "cublasLtDestroy");
  load(f->Matmul, "cublasLtMatmul");
  load(f->DescCreate, "cublasLtMatmulDescCreate");
  load(f->DescDestroy, "cublasLtMatmulDescDestroy");
  load(f->DescSet, "cublasLtMatmulDescSetAttribute");
  load(f->LayoutCreate, "cublasLtMatrixLayoutCreate");
  load(f->LayoutDestroy, "cublasLtMatrixLayoutDestroy");
  load(f->PreferenceCreate, "cublasLtMatmulPreferenceCreate");
  load(f->PreferenceDestroy, "cublasLtMatmulPreferenceDestroy");
  load(f->PreferenceSet, "cublasLtMatmulPreferenceSetAttribute");
  load(f->Heuristic, "cublasLtMatmulAlgoGetHeuristic");
  return all;
}

void Check(cublasStatus_t status, const char* what, const MatMulArgs& a) {
  TANGRAM_CHECK(status == CUBLAS_STATUS_SUCCESS, "{} failed with {} for M={} N={} K={}", what,
                static_cast<int>(status), a.m, a.n, a.k);
}

class OpenedCublasLt final : public CublasLt {
 public:
  OpenedCublasLt(void* library, const Functions& functions, cublasLtHandle_t handle)
      : library_(library), f_(functions), handle_(handle) {}
  ~OpenedCublasLt() override {
    f_.Destroy(handle_);
    dlclose(library_);
  }

  std::vector<std::shared_ptr<Plan>> Plans(const MatMulArgs& args, int max) override {
    std::vector<cublasLtMatmulHeuristicResult_t> results(max);
    auto shape = Describe(args);
    cublasLtMatmulPreference_t preference{};
    Check(f_.PreferenceCreate(&preference), "preference", args);
    size_t workspace = kWorkspaceBytes;
    Check(f_.PreferenceSet(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                           sizeof(workspace)),
          "preference", args);
    int found = 0;
    f_.Heuristic(handle_, shape->description, shape->weight, shape->x, shape->out, shape->out,
                 preference, max, results.data(), &found);
    f_.PreferenceDestroy(preference);
    std::vector<std::shared_ptr<Plan>> plans;
    for (int i = 0; i < found; ++i) {
      if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
      auto plan = Describe(args);
      plan->algorithm = results[i].algo;
      plans.push_back(std::move(plan));
    }
    return plans;
  }

  void Run(const Plan& plan, const MatMulArgs& args, void* workspace,
           cudaStream_t stream) override {
    const float one = 1, zero = 0;
    if (args.bias != nullptr) SetBias(plan.description, args);
    void* out = args.f32_columns > 0 ? static_cast<void*>(args.out_f32) : args.out;
    Check(f_.Matmul(handle_, plan.description, &one, args.weight, plan.weight, args.x, plan.x,
                    &zero, out, plan.out, out, plan.out, &plan.algorithm, workspace,
                    kWorkspaceBytes, stream),
          "cublasLtMatmul", args);
  }

 private:
  // Column-major in the library's eyes: out^T [N, M] = (weight^T)^T [N, K] * x^T [K, M].
  std::shared_ptr<Plan> Describe(const MatMulArgs& a) {
    auto plan = std::shared_ptr<Plan>(new Plan, [f = f_](Plan* p) {
      f.LayoutDestroy(p->out), f.LayoutDestroy(p->x), f.LayoutDestroy(p->weight);
      f.DescDestroy(p->description);
      delete p;
    });
    Check(f_.DescCreate(&plan->description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description", a);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    Check(
        f_.DescSet(plan->description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)),
        "transpose", a);
    if (a.bias != nullptr) SetBias(plan->description, a);
    Check(f_.LayoutCreate(&plan->weight, CUDA_R_16BF, a.k, a.n, a.k), "layout", a);
    Check(f_.LayoutCreate(&plan->x, CUDA_R_16BF, a.k, a.m, a.k), "layout", a);
    const bool f32 = a.f32_columns > 0;
    Check(f_.LayoutCreate(&plan->out, f32 ? CUDA_R_32F : CUDA_R_16BF, a.n, a.m,
                          !f32 && a.out_stride > 0 ? a.out_stride : a.n),
          "layout", a);
    return plan;
  }

  void SetBias(cublasLtMatmulDesc_t description, const MatMulArgs& a) {
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    Check(f_.DescSet(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)),
          "epilogue", a);
    const cudaDataType_t type = CUDA_R_16BF;
    Check(f_.DescSet(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof(type)),
          "bias type", a);
    Check(f_.DescSet(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a.bias, sizeof(a.bias)),
          "bias", a);
  }

  void* library_;
  Functions f_;
  cublasLtHandle_t handle_;
};

}  // namespace

Result<std::unique_ptr<CublasLt>> CublasLt::Open(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return MakeError(ErrorKind::kLoad, fmt::format("cannot open cuBLASLt: {}", dlerror()));
  }
  Functions functions;
  cublasLtHandle_t handle{};
  if (!Load(library, &functions) || functions.Create(&handle) != CUBLAS_STATUS_SUCCESS) {
    dlclose(library);
    return MakeError(ErrorKind::kLoad, fmt::format("'{}' is no cuBLASLt that runs here", path));
  }
  return std::make_unique<OpenedCublasLt>(library, functions, handle);
}

}  // namespace tangram::ops::cuda
