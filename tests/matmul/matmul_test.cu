// SPDX-License-Identifier: Apache-2.0
#include <higgs/codebook/shipped.hpp>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <vector>

#include "device_matrices.cuh"

using higgs::BFloat16;
using higgs::GridCodebook;
using higgs::Half;
using higgs::MatrixView;
namespace gpu = higgs::gpu;

namespace {

// Rounding of the rotated activations: each is off by up to half a unit in its last place, uniformly,
// independent of the others. Measured in their RMS that is 2^-p / sqrt(12) times the mean of 2^exponent:
// below 2^-p * 0.5 with p = 11 for fp16 and 8 for bf16. Rounding y to the same type adds as much; the margin
// is for few outputs.
template <class T>
constexpr double limit = std::is_same_v<T, BFloat16> ? 2.5e-3 : 3e-4;

struct Shape {
  std::int64_t rows, cols, block, group;
};

template <class Book, class X, class Y, class Bits = gpu::AnyBits>
void check_shape(const Shape& s, std::int64_t batch) {
  INFO(Book::name() << ": M " << batch << ", N " << s.rows << ", K " << s.cols << ", block " << s.block
                    << ", group " << s.group);
  const auto w = random_matrix<Book>(s.rows, s.cols, s.block, s.group, 11, s.rows % 2 == 0);
  const gpu::DeviceMatrix device(w);
  const Normals<X> x(batch, s.cols, 3);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, gpu::current_device());
  const std::vector<Y> y = device_product<Y, Bits>(device.view(), x, plan);
  std::vector<double> exact(y.size());
  higgs::matmul_reference(MatrixView<const X>(x.view), w, MatrixView<double>(exact.data(), batch, s.rows));
  // The last rounding, of fewer outputs than inputs, is the only one when cols is 1.
  REQUIRE(relative_error(y, exact) <= limit<X> * (s.cols < 64 || s.rows < 8 ? 2 : 1));
}

constexpr Shape shapes[] = {
    {1, 1, 1, 1},          // nothing but padding
    {3, 7, 8, 8},          // a block that no slab divides
    {65, 64, 64, 64},      // one row beyond a slab
    {127, 300, 60, 20},    // Paley's matrix; groups padded from 20 to 64 inputs
    {130, 200, 128, 128},  // inputs beyond cols
    {320, 950, 960, 40},   // several row blocks
    {200, 576, 576, 192},  // many groups, each of three slabs
    {70, 2048, 512, 512},
};

template <class Book>
void check_book(std::int64_t& batch) {
  if constexpr (gpu::has_tile_order(Book::dim, higgs::code_bits<Book>))
    for (const Shape& s : shapes) {
      check_shape<Book, Half, float>(s, batch);
      batch = batch % 20 * 3 + 1;  // 1, 4, 13, 40, 1, ...
    }
}

template <class... Books>
void check_books(higgs::TypeList<Books...>) {
  std::int64_t batch = 1;
  (check_book<Books>(batch), ...);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("the product on the device equals the reference for every codebook and edge shape",
          "[matmul][matmul][gpu]") {
  check_books(higgs::ShippedCodebooks{});
}

TEST_CASE("the product on the device equals the reference for every batch from 1 to 64",
          "[matmul][matmul][gpu]") {
  for (std::int64_t batch = 1; batch <= 64; batch += batch < 34 ? 1 : 10)
    check_shape<GridCodebook<2, 256>, Half, Half, gpu::MatmulBits<4>>({150, 130, 64, 64}, batch);
  check_shape<GridCodebook<2, 256>, Half, Half, gpu::MatmulBits<4>>({64, 128, 128, 128}, 100);
}

TEST_CASE("bf16 and float activations and outputs are within their rounding", "[matmul][matmul][gpu]") {
  for (const std::int64_t batch : {1, 9, 33}) {
    check_shape<GridCodebook<2, 256>, BFloat16, BFloat16, gpu::MatmulBits<4>>({130, 512, 256, 128}, batch);
    check_shape<GridCodebook<2, 256>, BFloat16, float, gpu::MatmulBits<4>>({130, 512, 256, 128}, batch);
    check_shape<GridCodebook<2, 256>, float, float, gpu::MatmulBits<4>>({130, 512, 256, 128}, batch);
  }
}

TEST_CASE("bias and residual are added before the only rounding", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(100, 256, 256, 256, 5);
  const gpu::DeviceMatrix device(w);
  const Normals<Half> x(3, 256, 6);
  const Normals bias(1, 100, 8);
  const Normals<Half> residual(3, 100, 9);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, gpu::current_device());
  const auto plain = device_product<float, gpu::MatmulBits<4>>(device.view(), x, plan);
  const auto y = device_product<Half, gpu::MatmulBits<4>>(device.view(), x, plan, bias.data, residual.data);
  for (std::size_t i = 0; i < y.size(); ++i)
    CHECK(y[i] == Half(plain[i] + bias.data[i % 100] + static_cast<float>(residual.data[i])));
}

TEST_CASE("a row of zero scales gives zeros", "[matmul][matmul][gpu]") {
  auto w = random_matrix<GridCodebook<2, 256>>(64, 512, 128, 64, 5);
  const std::vector<Half> zeros(w.scales.size());
  w.scales = zeros;
  const gpu::DeviceMatrix device(w);
  const Normals<Half> x(2, 512, 6);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, gpu::current_device());
  for (const float y : device_product<float, gpu::MatmulBits<4>>(device.view(), x, plan)) CHECK(y == 0.0f);
}

TEST_CASE("a captured product computes again from new inputs", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(200, 384, 128, 128, 5);
  const gpu::DeviceMatrix device(w);
  const gpu::Device here = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, here);
  const Normals<Half> first(4, 384, 1), second(4, 384, 2);
  const gpu::DeviceBuffer<Half> x{std::span<const Half>(first.data)};
  const gpu::DeviceBuffer<float> y(4 * 200);
  const gpu::DeviceBuffer<std::byte> workspace(gpu::matmul_workspace(device.view(), 4, plan, here));

  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  gpu::matmul_async<gpu::MatmulBits<4>>(gpu::DeviceMatrixView<const Half>(x.data(), 4, 384), device.view(),
                                        gpu::DeviceMatrixView<float>(y.data(), 4, 200),
                                        std::span(workspace.data(), workspace.size()), plan, here, stream);
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  for (const Normals<Half>* input : {&second, &first}) {
    REQUIRE(cudaMemcpy(x.data(), input->data.data(), x.size_bytes(), cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(same_bits(y.to_host(), device_product<float, gpu::MatmulBits<4>>(device.view(), *input, plan)));
  }
  REQUIRE(cudaGraphExecDestroy(executable) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("misuse of the product is refused", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(64, 64, 64, 64, 5);
  const gpu::DeviceMatrix device(w);
  const gpu::Device here = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, here);
  const gpu::DeviceBuffer<Half> x(64), y(64);
  const gpu::DeviceBuffer<std::byte> workspace(gpu::matmul_workspace(device.view(), 1, plan, here));
  const auto call = [&](std::int64_t cols, std::size_t bytes) {
    gpu::matmul_async<gpu::MatmulBits<4>>(gpu::DeviceMatrixView<const Half>(x.data(), 1, cols), device.view(),
                                          gpu::DeviceMatrixView<Half>(y.data(), 1, 64),
                                          std::span(workspace.data(), bytes), plan, here, nullptr);
  };
  CHECK_NOTHROW(call(64, workspace.size()));
  CHECK_THROWS_AS(call(63, workspace.size()), higgs::InvalidArgument);
  CHECK_THROWS_AS(call(64, workspace.size() - 1), higgs::InvalidArgument);
}
