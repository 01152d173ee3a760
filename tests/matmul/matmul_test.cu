// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>

#include <catch2/catch.hpp>

#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"

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

template <class Book, class X, class Y, class Formats = gpu::AnyFormat>
void check_shape(const Shape& s, std::int64_t batch) {
  INFO(Book::name() << ": M " << batch << ", N " << s.rows << ", K " << s.cols << ", block " << s.block
                    << ", group " << s.group);
  const auto w = random_matrix<Book>(s.rows, s.cols, s.block, s.group, 11, s.rows % 2 == 0);
  const gpu::PackedMatrix device(w);
  const Normals<X> x(batch, s.cols, 3);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, gpu::current_device());
  const std::vector<Y> y = device_product<Y, Formats>(device.view(), x, plan);
  std::vector<double> exact(y.size());
  higgs::matmul_reference(MatrixView<const X>(x.view), w, MatrixView<double>(exact.data(), batch, s.rows));
  // The last rounding, of fewer outputs than inputs, is the only one when cols is 1.
  REQUIRE(relative_error(y, exact) <= limit<X> * (s.cols < 64 || s.rows < 8 ? 2 : 1));
}

constexpr Shape shapes[] = {
    {1, 1, 1, 1},          // nothing but padding
    {3, 7, 8, 8},          // a block that is not a multiple of 64
    {65, 64, 64, 64},      // one row more than a warp tile
    {127, 300, 60, 20},    // Paley's matrix; groups padded from 20 to 64 inputs
    {130, 200, 128, 128},  // inputs beyond cols
    {320, 950, 960, 40},   // several row blocks
    {200, 576, 576, 192},  // many groups, each of three warp tiles
    {70, 2048, 512, 512},
};

template <class Book>
void check_book(std::int64_t& batch) {
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

// Rows [first, first + count) of a matrix, as a matrix that shares its memory.
higgs::QuantizedMatrix<GridCodebook<2, 256>> row_shard(const higgs::QuantizedMatrix<GridCodebook<2, 256>>& w,
                                                       std::int64_t first, std::int64_t count) {
  higgs::QuantizedMatrix<GridCodebook<2, 256>> shard = w;
  shard.layout.rows = count;
  const auto part = [&](auto whole, std::int64_t each) {
    return whole.subspan(static_cast<std::size_t>(first * each), static_cast<std::size_t>(count * each));
  };
  shard.codes = part(w.codes, w.row_bytes());
  shard.scales = part(w.scales, w.layout.groups());
  return shard;
}

// Inputs [first, first + count), whole blocks and groups of codes of whole bytes.
higgs::QuantizedMatrix<GridCodebook<2, 256>> input_shard(
    const higgs::QuantizedMatrix<GridCodebook<2, 256>>& w, std::int64_t first, std::int64_t count) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<GridCodebook<2, 256>> shard = w;
  shard.layout.cols = count;
  const auto copy = [&](auto from, auto& to, std::int64_t each, std::int64_t begin, std::int64_t length) {
    for (std::int64_t r = 0; r < w.rows(); ++r)
      for (std::int64_t i = 0; i < length; ++i)
        to.push_back(from[static_cast<std::size_t>(r * each + begin + i)]);
  };
  const std::int64_t group = w.layout.group;
  copy(w.codes, storage->codes, w.row_bytes(), first / 2, count / 2);
  copy(w.scales, storage->scales, w.layout.groups(), first / group, count / group);
  shard.codes = storage->codes;
  shard.scales = storage->scales;
  shard.owner = storage;
  return shard;
}

}  // namespace

TEST_CASE("the product on the device equals the reference for every codebook and edge shape",
          "[matmul][matmul][gpu]") {
  check_books(higgs::ShippedCodes{});
}

TEST_CASE("the product on the device equals the reference for every batch from 1 to 64",
          "[matmul][matmul][gpu]") {
  for (std::int64_t batch = 1; batch <= 64; batch += batch < 34 ? 1 : 10)
    check_shape<GridCodebook<2, 256>, Half, Half, gpu::MatmulFormats<gpu::TableFormat<4>>>({150, 130, 64, 64},
                                                                                           batch);
  check_shape<GridCodebook<2, 256>, Half, Half, gpu::MatmulFormats<gpu::TableFormat<4>>>({64, 128, 128, 128},
                                                                                         100);
}

TEST_CASE("bf16 and float activations and outputs are within their rounding", "[matmul][matmul][gpu]") {
  for (const std::int64_t batch : {1, 9, 33}) {
    check_shape<GridCodebook<2, 256>, BFloat16, BFloat16, gpu::MatmulFormats<gpu::TableFormat<4>>>(
        {130, 512, 256, 128}, batch);
    check_shape<GridCodebook<2, 256>, BFloat16, float, gpu::MatmulFormats<gpu::TableFormat<4>>>(
        {130, 512, 256, 128}, batch);
    check_shape<GridCodebook<2, 256>, float, float, gpu::MatmulFormats<gpu::TableFormat<4>>>(
        {130, 512, 256, 128}, batch);
  }
}

TEST_CASE("bias and residual are added before the only rounding", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(100, 256, 256, 256, 5);
  const gpu::PackedMatrix device(w);
  const Normals<Half> x(3, 256, 6);
  const Normals bias(1, 100, 8);
  const Normals<Half> residual(3, 100, 9);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, gpu::current_device());
  const auto plain = device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan);
  const auto y = device_product<Half, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan,
                                                                               bias.data, residual.data);
  for (std::size_t i = 0; i < y.size(); ++i)
    CHECK(y[i] == Half(plain[i] + bias.data[i % 100] + static_cast<float>(residual.data[i])));
}

TEST_CASE("a row of zero scales gives zeros", "[matmul][matmul][gpu]") {
  auto w = random_matrix<GridCodebook<2, 256>>(64, 512, 128, 64, 5);
  const std::vector<Half> zeros(w.scales.size());
  w.scales = zeros;
  const gpu::PackedMatrix device(w);
  const Normals<Half> x(2, 512, 6);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, gpu::current_device());
  for (const float y : device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan))
    CHECK(y == 0.0f);
}

TEST_CASE("a captured product computes again from new inputs", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(200, 384, 128, 128, 5);
  const gpu::PackedMatrix device(w);
  const gpu::Device here = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
  const Normals<Half> first(4, 384, 1), second(4, 384, 2);
  const gpu::DeviceBuffer<Half> x{std::span<const Half>(first.data)};
  const gpu::DeviceBuffer<float> y(4 * 200);
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(device.view(), 4, plan, here));

  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
      gpu::DenseView<const Half>(x.data(), 4, 384), device.view(), gpu::DenseView<float>(y.data(), 4, 200),
      workspace.span(), plan, here, stream);
  REQUIRE(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  for (const Normals<Half>* input : {&second, &first}) {
    REQUIRE(cudaMemcpy(x.data(), input->data.data(), x.size_bytes(), cudaMemcpyHostToDevice) == cudaSuccess);
    REQUIRE(cudaGraphLaunch(executable, stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(same_bits(y.to_host(), device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(
                                     device.view(), *input, plan)));
  }
  REQUIRE(cudaGraphExecDestroy(executable) == cudaSuccess);
  REQUIRE(cudaGraphDestroy(graph) == cudaSuccess);
  REQUIRE(cudaStreamDestroy(stream) == cudaSuccess);
}

TEST_CASE("CUDA's own 16-bit types are taken as what they are", "[matmul][matmul][gpu]") {
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 256>>(64, 64, 64, 64, 5));
  const gpu::Device here = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, here);
  const Normals<Half> x(1, 64, 6), residual(1, 64, 7);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)},
      residual_device{std::span<const Half>(residual.data)}, y(64), same(64);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(w.view(), 1, plan, here));
  const auto call = [&]<class T>(const T* input, const T* added, T* output) {
    gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
        gpu::DenseView<const T>(input, 1, 64), w.view(), gpu::DenseView<T>(output, 1, 64), workspace.span(),
        plan, here, nullptr, {nullptr, added});
    gpu::check(cudaDeviceSynchronize(), "matmul_async");
  };
  call(static_cast<const Half*>(x_device.data()), static_cast<const Half*>(residual_device.data()), y.data());
  call(reinterpret_cast<const __half*>(x_device.data()),
       reinterpret_cast<const __half*>(residual_device.data()), reinterpret_cast<__half*>(same.data()));
  CHECK(same_bits(y.to_host(), same.to_host()));
}

TEST_CASE("misuse of the product is refused", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(64, 64, 64, 64, 5);
  const gpu::PackedMatrix device(w);
  const gpu::Device here = gpu::current_device();
  gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
  const gpu::DeviceBuffer<Half> x(64), y(64);
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(device.view(), 1, plan, here));
  const auto call = [&](std::int64_t cols, std::size_t bytes) {
    gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
        gpu::DenseView<const Half>(x.data(), 1, cols), device.view(), gpu::DenseView<Half>(y.data(), 1, 64),
        std::span(workspace.data(), bytes), plan, here, nullptr);
  };
  CHECK_NOTHROW(call(64, workspace.size()));
  CHECK_THROWS_AS(call(63, workspace.size()), higgs::InvalidArgument);
  CHECK_THROWS_AS(call(64, workspace.size() - 1), higgs::InvalidArgument);
  plan.dense_from = 1;  // and there is no gemm
  CHECK_THROWS_WITH(call(64, workspace.size()), Catch::Contains("no kernel can"));
}

TEST_CASE("a workspace that did not begin as zeros is seen, one that did serves matrix after matrix",
          "[matmul][matmul][gpu]") {
  if (!emulator::in_use) return;  // a trap ends what the process may do on a GPU
  const gpu::Device here = gpu::current_device();
  const Normals<Half> x(1, 512, 6);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<float> y(640);
  const auto call = [&](const gpu::PackedMatrix& w, const gpu::DeviceBuffer<std::byte>& workspace) {
    const gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, here);
    gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
        gpu::DenseView<const Half>(x_device.data(), 1, 512), w.view(),
        gpu::DenseView<float>(y.data(), 1, w.rows()), workspace.span(), plan, here, nullptr);
    gpu::check(cudaDeviceSynchronize(), "matmul_async");
    auto all = y.to_host();
    all.resize(static_cast<std::size_t>(w.rows()));
    return all;
  };
  const gpu::PackedMatrix large(random_matrix<GridCodebook<2, 256>>(640, 512, 128, 128, 5)),
      small(random_matrix<GridCodebook<2, 256>>(64, 512, 128, 128, 6));
  const gpu::MatmulPlan plan = gpu::plan_matmul(large.view().layout, here);
  const std::size_t bytes = gpu::matmul_workspace(large.view(), 1, plan, here);
  const auto shared = gpu::DeviceBuffer<std::byte>::zeros(bytes);
  const auto of_large = call(large, shared), of_small = call(small, shared);
  CHECK(same_bits(of_large, call(large, shared)));
  CHECK(same_bits(of_small, call(small, gpu::DeviceBuffer<std::byte>::zeros(bytes))));
  CHECK_THROWS_AS(call(large, gpu::DeviceBuffer<std::byte>(bytes)), gpu::CudaError);
  emulator::forget_failure();
}

TEST_CASE("shards of rows have the bits of the whole, shards of inputs add up to it",
          "[matmul][matmul][gpu]") {
  auto w = random_matrix<GridCodebook<2, 256>>(330, 1536, 128, 64, 5);
  w.seed = std::nullopt;
  const gpu::Device device = gpu::current_device();
  const Normals<Half> x(3, 1536, 6);
  const auto product = [&](const higgs::QuantizedMatrix<GridCodebook<2, 256>>& matrix,
                           const Normals<Half>& inputs) {
    const gpu::PackedMatrix on_device(matrix);
    return device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(
        on_device.view(), inputs,
        gpu::plan_matmul(on_device.view().layout, device, gpu::Reproducibility::AcrossDevices));
  };
  const auto whole = product(w, x);
  for (const std::int64_t first : {0, 65, 200}) {
    const std::int64_t count = first == 200 ? 130 : first == 65 ? 135 : 65;
    const auto part = product(row_shard(w, first, count), x);
    for (std::int64_t m = 0; m < 3; ++m) {
      const auto* row = whole.data() + m * 330 + first;
      REQUIRE(same_bits(std::vector<float>(part.begin() + m * count, part.begin() + (m + 1) * count),
                        std::vector<float>(row, row + count)));
    }
  }
  std::vector<double> sums(whole.size());
  for (const std::int64_t first : {0, 640}) {
    const std::int64_t count = first == 0 ? 640 : 896;
    Normals<Half> some(3, count, 6);
    for (std::int64_t m = 0; m < 3; ++m)
      std::copy_n(x.data.begin() + m * 1536 + first, count, some.data.begin() + m * count);
    const auto part = product(input_shard(w, first, count), some);
    for (std::size_t i = 0; i < part.size(); ++i) sums[i] += static_cast<double>(part[i]);
  }
  CHECK(relative_error(whole, sums) < 1e-6);  // both are sums in float of the same products
}
