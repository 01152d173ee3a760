// SPDX-License-Identifier: Apache-2.0
// On the emulator a stand-in for cuBLAS checks what it is asked for; on a GPU the library itself runs.
#if __has_include(<cublas_v2.h>)
#  include <higgs/codes/grid/grid.hpp>
#  include <higgs/gpu/instructions.cuh>
#  include <higgs/matmul/cublas_gemm.cuh>
#  include <higgs/matmul/linear.cuh>

#  include <catch2/catch.hpp>

#  include <cstdint>
#  include <span>
#  include <vector>

#  include "device_matrices.cuh"
#  include "emulator/emulator.hpp"

using higgs::BFloat16;
using higgs::Half;
namespace gpu = higgs::gpu;

#  ifdef HIGGS_EMULATED
namespace {

// What a handle of the stand-in knows.
struct StandIn {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  int products = 0;
};
int handles = 0;          // alive
StandIn* used = nullptr;  // the last one that multiplied

StandIn& of(cublasHandle_t handle) { return *reinterpret_cast<StandIn*>(handle); }

// c (m, n), columns first, = a^T b + beta c for a (k, m) and b (k, n); a thread for each element.
template <class T, class Y>
__global__ void column_gemm(int m, int n, int k, const T* a, int lda, const T* b, int ldb, float beta, Y* c,
                            int ldc) {
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), i = at % m, j = at / m;
  if (j >= n) return;
  Y& to = c[static_cast<std::int64_t>(j) * ldc + i];
  float sum = beta == 0 ? 0.0f : beta * gpu::to_float(to);
  for (int l = 0; l < k; ++l)
    sum = fmaf(gpu::to_float(a[static_cast<std::int64_t>(i) * lda + l]),
               gpu::to_float(b[static_cast<std::int64_t>(j) * ldb + l]), sum);
  to = gpu::from_float<Y>(sum);
}

template <class T, class Y>
void multiply(cudaStream_t stream, int m, int n, int k, const void* a, int lda, const void* b, int ldb,
              float beta, void* c, int ldc) {
  gpu::launch(column_gemm<T, Y>, dim3(static_cast<unsigned>((m * n + 63) / 64)), 64, 0, stream, m, n, k,
              static_cast<const T*>(a), lda, static_cast<const T*>(b), ldb, beta, static_cast<Y*>(c), ldc);
}

}  // namespace

extern "C" {
cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  *handle = reinterpret_cast<cublasHandle_t>(new StandIn);
  return ++handles, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  delete reinterpret_cast<StandIn*>(handle);
  return --handles, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  return of(handle).math = mode, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  of(handle).stream = stream;
  of(handle).workspace = nullptr;  // as cuBLAS does
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, std::size_t bytes) {
  of(handle).workspace = workspace;
  of(handle).workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasGetStatusString(cublasStatus_t) { return "the stand-in refuses"; }
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t of_a, cublasOperation_t of_b, int m,
                            int n, int k, const void* alpha, const void* a, cudaDataType a_type, int lda,
                            const void* b, cudaDataType b_type, int ldb, const void* beta, void* c,
                            cudaDataType c_type, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
  StandIn& me = of(handle);
  used = &me;
  ++me.products;
  const float old = *static_cast<const float*>(beta);
  if (of_a != CUBLAS_OP_T || of_b != CUBLAS_OP_N || *static_cast<const float*>(alpha) != 1 ||
      a_type != b_type || compute != CUBLAS_COMPUTE_32F || lda < k || ldb < k || ldc < m ||
      me.workspace == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (a_type == CUDA_R_16F && c_type == CUDA_R_32F)
    multiply<Half, float>(me.stream, m, n, k, a, lda, b, ldb, old, c, ldc);
  else if (a_type == CUDA_R_16F && c_type == CUDA_R_16F)
    multiply<Half, Half>(me.stream, m, n, k, a, lda, b, ldb, old, c, ldc);
  else if (a_type == CUDA_R_16BF && c_type == CUDA_R_16BF)
    multiply<BFloat16, BFloat16>(me.stream, m, n, k, a, lda, b, ldb, old, c, ldc);
  else
    return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}
}
#  endif

namespace {

// y (+)= x w^T with rows 3, 5 and 7 elements longer than what is used of them.
template <class T, class Y>
void check_gemm(std::int64_t m, std::int64_t n, std::int64_t k, bool add) {
  INFO(m << " x " << n << " x " << k << (add ? ", added" : ""));
  const Normals<T> x(m, k + 3, 1), w(n, k + 5, 2);
  const Normals<Y> before(m, n + 7, 3);
  const gpu::DeviceBuffer<T> x_device{std::span<const T>(x.data)}, w_device{std::span<const T>(w.data)};
  const gpu::DeviceBuffer<Y> y{std::span<const Y>(before.data)};
  const gpu::CublasGemm gemm;
  gemm(gpu::DenseView<const T>(x_device.data(), m, k, k + 3),
       gpu::DenseView<const T>(w_device.data(), n, k, k + 5), gpu::DenseView<Y>(y.data(), m, n, n + 7), add,
       nullptr);
  gpu::check(cudaDeviceSynchronize(), "gemm");
  const std::vector<Y> all = y.to_host();
  const auto value = [](auto number) { return static_cast<double>(static_cast<float>(number)); };
  std::vector<Y> inside;
  std::vector<double> exact;
  bool kept = true;
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n + 7; ++j) {
      const auto at = static_cast<std::size_t>(i * (n + 7) + j);
      if (j >= n) kept &= value(all[at]) == value(before.data[at]);
      if (j >= n) continue;
      double sum = add ? value(before.data[at]) : 0.0;
      for (std::int64_t l = 0; l < k; ++l)
        sum += value(x.data[static_cast<std::size_t>(i * (k + 3) + l)]) *
               value(w.data[static_cast<std::size_t>(j * (k + 5) + l)]);
      inside.push_back(all[at]);
      exact.push_back(sum);
    }
  CHECK(kept);
  CHECK(relative_error(inside, exact) < (std::is_same_v<Y, BFloat16> ? 4e-3 : 5e-4));  // y is rounded once
}

}  // namespace

TEST_CASE("CublasGemm multiplies row-major matrices with gaps between rows, in place of y or added to it",
          "[matmul][cublas_gemm][gpu]") {
  for (const bool add : {false, true}) {
    check_gemm<Half, float>(5, 7, 12, add);
    check_gemm<Half, Half>(3, 18, 40, add);
    check_gemm<BFloat16, BFloat16>(9, 6, 16, add);
  }
}

TEST_CASE("CublasGemm refuses shapes that do not fit and numbers beyond an int",
          "[matmul][cublas_gemm][gpu]") {
  const gpu::CublasGemm gemm;
  const auto call = [&](std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t depth,
                        std::int64_t rows) {
    gemm(gpu::DenseView<const Half>(nullptr, m, k), gpu::DenseView<const Half>(nullptr, n, depth),
         gpu::DenseView<float>(nullptr, rows, n), false, nullptr);
  };
  CHECK_THROWS_WITH(call(2, 3, 4, 5, 2), Catch::Contains("x is 2 x 4, w 3 x 5 and y 2 x 3"));
  CHECK_THROWS_AS(call(2, 3, 4, 4, 1), higgs::InvalidArgument);
  CHECK_THROWS_WITH(call(1, 1, std::int64_t{1} << 31, std::int64_t{1} << 31, 1),
                    Catch::Contains("2147483648"));
  call(0, 3, 4, 4, 0);  // nothing to do
}

TEST_CASE("CublasGemm is the GEMM of a linear layer, in a graph too", "[matmul][cublas_gemm][gpu]") {
  const auto w = random_matrix<higgs::GridCodebook<2, 256>>(150, 140, 60, 20, 5, true);
  gpu::Linear<gpu::MatmulFormats<gpu::TableFormat<4>>> linear(w);
  const gpu::CublasGemm gemm;  // at load
  linear.plan() = gpu::with_gemm(linear.plan(), linear.weights().view().layout, linear.device());
  linear.plan().dense_from = 9;
  linear.plan().dense_rows = 64;
  const std::int64_t batch = 10;
  const Normals<Half> x(batch, 140, 6);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<float> y(batch * 150);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(batch));
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t work = nullptr;
  gpu::check(cudaStreamCreate(&stream), "stream");
  gpu::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin");
  linear(gpu::DenseView<const Half>(x_device.data(), batch, 140), gpu::DenseView<float>(y.data(), batch, 150),
         workspace.span(), stream, {}, gemm);
  gpu::check(cudaStreamEndCapture(stream, &graph), "end");
  gpu::check(cudaGraphInstantiate(&work, graph, 0), "instantiate");
  gpu::check(cudaGraphLaunch(work, stream), "launch");
  gpu::check(cudaStreamSynchronize(stream), "synchronize");
  std::vector<double> exact(static_cast<std::size_t>(batch * 150));
  higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), w,
                          higgs::MatrixView<double>(exact.data(), batch, 150));
  CHECK(relative_error(y.to_host(), exact) < 6e-4);  // activations and weights rounded to fp16
  gpu::check(cudaGraphExecDestroy(work), "destroy");
  gpu::check(cudaGraphDestroy(graph), "destroy");
  gpu::check(cudaStreamDestroy(stream), "destroy");
#  ifdef HIGGS_EMULATED
  REQUIRE(used != nullptr);
  CHECK(used->products == 3);  // 150 rows of W, 64 at a time
  CHECK(used->stream == stream);
  CHECK(used->workspace_bytes == std::size_t{4} << 20);
  CHECK((used->math & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION) != 0);
#  endif
}

#  ifdef HIGGS_EMULATED
TEST_CASE("CublasGemm destroys its handle once, also after a move", "[matmul][cublas_gemm][gpu]") {
  {
    gpu::CublasGemm first;
    CHECK(handles == 1);
    const gpu::CublasGemm second(std::move(first));
    CHECK(handles == 1);
  }
  CHECK(handles == 0);
}
#  endif
#endif
