// SPDX-License-Identifier: Apache-2.0
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/grouped.cuh>
#include <higgs/matmul/linear.cuh>
#include <higgs/quantizer.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "emulator/emulator.hpp"
#include "matmul/matrices.hpp"

namespace {

using higgs::Half;
namespace gpu = higgs::gpu;
using Book = higgs::GridCodebook<2, 256>;
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;

// A stream that the legacy stream does not wait for, as those of engines. On the emulator streams work as late as CUDA
// allows: what the library does not wait for has not happened.
class SideStream {
 public:
  SideStream() {
    emulator::options().late = true;
    REQUIRE(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess);
  }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  ~SideStream() {
    cudaStreamDestroy(stream_);
    emulator::options() = before_;
  }
  operator cudaStream_t() const { return stream_; }

 private:
  emulator::Options before_ = emulator::options();
  cudaStream_t stream_ = nullptr;
};

__global__ void increase_kernel(int* values) { ++values[blockIdx.x * 32 + threadIdx.x]; }

// Calls work(stream) on the legacy stream and on a side stream, and wants equal results.
template <class Work>
void check_on_a_side_stream(const Work& work) {
  const auto expected = work(nullptr);
  const SideStream stream;
  CHECK(work(stream) == expected);
}

// The bytes of a matrix one by one, each a bit; they lie in [100, 164).
std::uint64_t bytes_of(const gpu::detail::ByteRows& a) {
  std::uint64_t all = 0;
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t i = 0; i < a.row_bytes; ++i)
      all |= std::uint64_t{1} << (static_cast<std::int64_t>(a.begin) - 100 + r * a.step + i);
  return all;
}

}  // namespace

TEST_CASE("matrices overlap if and only if they have a byte in common, or rows unequally far apart and mixed",
          "[gpu][matrix]") {
  std::vector<gpu::detail::ByteRows> all;
  for (const std::int64_t rows : {0, 1, 3})
    for (const std::int64_t bytes : {0, 1, 4})
      for (const std::int64_t step : {0, 4, 9, 10})
        for (unsigned begin = 100; begin < 115; ++begin) {
          gpu::detail::ByteRows a(nullptr, bytes);
          a.begin = begin, a.rows = bytes > 0 ? rows : 0, a.step = step;
          all.push_back(a);
        }
  std::size_t wrong = 0, mixed = 0;
  for (const auto& a : all)
    for (const auto& b : all) {
      const bool expected = (bytes_of(a) & bytes_of(b)) != 0;
      const bool got = gpu::detail::overlap(a, b);
      const bool exact = (a.rows <= 1 || a.step >= a.row_bytes) && (b.rows <= 1 || b.step >= b.row_bytes) &&
                         (a.rows <= 1 || b.rows <= 1 || a.step == b.step);
      wrong += expected && !got;
      wrong += exact && got != expected;
      mixed += got != expected;
    }
  CHECK(wrong == 0);
  CHECK(mixed > 0);
}

TEST_CASE("a buffer made from host memory is complete for work on any stream", "[gpu][matrix]") {
  std::vector<int> numbers(1 << 16);
  std::iota(numbers.begin(), numbers.end(), 1);
  const SideStream stream, other;
  for (const cudaStream_t made_on : {cudaStream_t{}, cudaStreamLegacy, cudaStream_t{other}}) {
    const gpu::DeviceBuffer<int> from(std::span<const int>(numbers), made_on), to(numbers.size());
    REQUIRE(cudaMemcpyAsync(to.data(), from.data(), to.size_bytes(), cudaMemcpyDeviceToDevice, stream) ==
            cudaSuccess);
    CHECK(to.to_host(stream) == numbers);
  }
  const gpu::DeviceBuffer<int> none{std::span<const int>()};
  CHECK(none.to_host().empty());
  CHECK(none.to_host(stream).empty());
}

TEST_CASE("to_host waits for its stream, and without one for all", "[gpu][matrix]") {
  const auto values = gpu::DeviceBuffer<int>::zeros(1 << 16);
  const SideStream stream;
  gpu::launch(increase_kernel, dim3(1 << 11), 32, 0, stream, values.data());
  CHECK(values.to_host(stream) == std::vector<int>(1 << 16, 1));
  gpu::launch(increase_kernel, dim3(1 << 11), 32, 0, stream, values.data());
  CHECK(values.to_host() == std::vector<int>(1 << 16, 2));
}

TEST_CASE("a layer that is made and called on a side stream has all that it copied to the device",
          "[gpu][matrix]") {
  const auto w = random_matrix<Book>(70, 128, 64, 64, 5, true);  // with signs and input scales
  const Normals<Half> x(6, 128, 6);
  check_on_a_side_stream([&](cudaStream_t stream) {
    const gpu::Linear<Formats> linear(gpu::PackedMatrix(w, stream));
    const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(6));
    const gpu::DeviceBuffer<Half> x_device(std::span<const Half>(x.data), stream);
    const gpu::DeviceBuffer<float> y(6 * 70);
    linear(gpu::DenseView<const Half>(x_device.data(), 6, 128), gpu::DenseView<float>(y.data(), 6, 70),
           workspace.span(), stream);
    return y.to_host(stream);
  });
  check_on_a_side_stream([&](cudaStream_t stream) {
    const gpu::Linear<Formats> linear(w);  // on the legacy stream
    const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(6));
    const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
    const gpu::DeviceBuffer<float> y(6 * 70);
    linear(gpu::DenseView<const Half>(x_device.data(), 6, 128), gpu::DenseView<float>(y.data(), 6, 70),
           workspace.span(), stream);
    return y.to_host(stream);
  });
}

TEST_CASE("experts that are made and called on a side stream have all that they copied to the device",
          "[gpu][matrix]") {
  std::vector<higgs::QuantizedMatrix<Book>> matrices;
  for (int e = 0; e < 3; ++e)
    matrices.push_back(random_matrix<Book>(70, 128, 64, 64, 5 + static_cast<std::uint64_t>(e), true));
  const std::vector<std::int32_t> offsets{0, 2, 2, 6};
  const Normals<Half> x(6, 128, 6);
  check_on_a_side_stream([&](cudaStream_t stream) {
    const gpu::Experts experts(std::span<const higgs::QuantizedMatrix<Book>>(matrices), stream);
    const gpu::Device device = gpu::current_device();
    const gpu::MatmulPlan plan = gpu::plan_matmul(experts[0].layout, device);
    const auto workspace =
        gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_grouped_workspace(experts, 6, plan, device));
    const gpu::DeviceBuffer<Half> x_device(std::span<const Half>(x.data), stream);
    const gpu::DeviceBuffer<std::int32_t> offsets_device(std::span<const std::int32_t>(offsets), stream);
    const gpu::DeviceBuffer<float> y(6 * 70);
    gpu::matmul_grouped_async<Formats>(gpu::DenseView<const Half>(x_device.data(), 6, 128), experts,
                                       {6, offsets_device.data()}, gpu::DenseView<float>(y.data(), 6, 70),
                                       workspace.span(), plan, device, stream);
    return y.to_host(stream);
  });
}

TEST_CASE("quantizing and dequantizing on a side stream have all that they copied to the device",
          "[gpu][matrix]") {
  const Normals<float> w(128, 64, 3);  // the fewest rows that have input scales
  const auto quantized_on = [&](cudaStream_t stream) {
    const gpu::DeviceBuffer<float> weights(std::span<const float>(w.data), stream);
    return gpu::quantize(gpu::DenseView<const float>(weights.data(), 128, 64), Book{}, {}, stream);
  };
  const auto quantized = quantized_on(nullptr);
  REQUIRE(quantized.layout.input_scales);
  REQUIRE(quantized.seed);
  check_on_a_side_stream([&](cudaStream_t stream) {
    const auto q = quantized_on(stream);
    CHECK(q.exponent == quantized.exponent);
    CHECK(std::ranges::equal(q.input_scales, quantized.input_scales));
    return std::vector<std::uint8_t>(q.codes.begin(), q.codes.end());
  });
  check_on_a_side_stream([&](cudaStream_t stream) {
    const gpu::DeviceCodes codes(quantized);
    const gpu::DeviceBuffer<float> out(128 * 64), workspace(64 * 64);
    gpu::dequantize_async(codes.view(), gpu::DenseView<float>(out.data(), 128, 64), gpu::Basis::Original,
                          gpu::current_device(), stream, workspace.span());
    return out.to_host(stream);
  });
}
