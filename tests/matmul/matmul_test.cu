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

// y = x w^T (+ y), a thread for each output.
template <class T, class Y>
__global__ void gemm_kernel(gpu::DenseView<const T> x, gpu::DenseView<const T> w, gpu::DenseView<Y> y,
                            bool add) {
  const auto m = static_cast<std::int64_t>(blockIdx.x), n = static_cast<std::int64_t>(threadIdx.x);
  for (std::int64_t row = n; row < w.rows; row += blockDim.x) {
    float sum = add ? gpu::to_float(y.row(m)[row]) : 0.0f;
    for (std::int64_t k = 0; k < x.cols; ++k)
      sum = fmaf(gpu::to_float(x.row(m)[k]), gpu::to_float(w.row(row)[k]), sum);
    y.row(m)[row] = gpu::from_float<Y>(sum);
  }
}

const auto gemm = []<class T, class Y>(gpu::DenseView<const T> x, gpu::DenseView<const T> w,
                                       gpu::DenseView<Y> y, bool add, cudaStream_t stream) {
  gpu::launch(gemm_kernel<T, Y>, dim3(static_cast<unsigned>(x.rows)), 64, 0, stream, x, w, y, add);
};

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
      std::span(workspace.data(), workspace.size()), plan, here, stream);
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
        gpu::DenseView<const T>(input, 1, 64), w.view(), gpu::DenseView<T>(output, 1, 64),
        std::span(workspace.data(), workspace.size()), plan, here, nullptr, {nullptr, added});
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
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
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
        gpu::DenseView<float>(y.data(), 1, w.rows()), std::span(workspace.data(), workspace.size()), plan,
        here, nullptr);
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

TEST_CASE("from dense_from rows on the caller's GEMM multiplies decoded weights", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(150, 140, 60, 20, 5, true);
  const gpu::PackedMatrix device(w);
  const gpu::Device here = gpu::current_device();
  gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
  plan.dense_from = 70;
  plan.dense_rows = 64;
  const std::int64_t batch = 71;
  const Normals<Half> x(batch, 140, 6);
  const Normals bias(1, 150, 8);
  const Normals<float> residual(batch, 150, 9);
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<float> bias_device{std::span<const float>(bias.data)};
  const gpu::DeviceBuffer<float> y{std::span<const float>(residual.data)};
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(device.view(), batch, plan, here));
  const auto call = [&](std::int64_t rows, const gpu::Epilogue<float>& epilogue, const auto& product) {
    gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
        gpu::DenseView<const Half>(x_device.data(), rows, 140), device.view(),
        gpu::DenseView<float>(y.data(), rows, 150), std::span(workspace.data(), workspace.size()), plan, here,
        nullptr, epilogue, product);
    gpu::check(cudaDeviceSynchronize(), "matmul_async");
  };
  call(batch, {bias_device.data(), y.data()}, gemm);  // the residual is y itself
  auto with_both = y.to_host();
  call(batch, {}, gemm);
  const auto plain = y.to_host();
  std::vector<double> exact(plain.size());
  higgs::matmul_reference(MatrixView<const Half>(x.view), w, MatrixView<double>(exact.data(), batch, 150));
  CHECK(relative_error(plain, exact) < 6e-4);  // activations and weights rounded to fp16
  for (std::size_t i = 0; i < exact.size(); ++i)
    exact[i] += static_cast<double>(bias.data[i % 150] + residual.data[i]);
  CHECK(relative_error(with_both, exact) < 6e-4);
  CHECK_THROWS_AS(call(batch, {}, gpu::NoGemm{}), higgs::InvalidArgument);
}

TEST_CASE("any alignment gives the same bits", "[matmul][matmul][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(130, 200, 128, 64, 5);
  const gpu::PackedMatrix device(w);
  const gpu::Device here = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
  const Normals<Half> x(5, 200, 6);
  const auto expected = device_product<Half, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan);
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_workspace(device.view(), 5, plan, here));
  std::vector<Half> spread(1 + 5 * 203);
  for (std::size_t i = 0; i < x.data.size(); ++i) spread[1 + i / 200 * 203 + i % 200] = x.data[i];
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(spread)}, y(1 + 5 * 137);
  gpu::matmul_async<gpu::MatmulFormats<gpu::TableFormat<4>>>(
      gpu::DenseView<const Half>(x_device.data() + 1, 5, 200, 203), device.view(),
      gpu::DenseView<Half>(y.data() + 1, 5, 130, 137), std::span(workspace.data(), workspace.size()), plan,
      here, nullptr);
  gpu::check(cudaDeviceSynchronize(), "matmul_async");
  const auto got = y.to_host();
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < expected.size(); ++i)
    wrong += !(got[1 + i / 130 * 137 + i % 130] == expected[i]);
  CHECK(wrong == 0);
}
