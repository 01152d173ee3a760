// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>
#include <higgs/quantizer.cuh>
#include <higgs/quantizer.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/checkpoint_writer.hpp>

#include <catch2/catch.hpp>

#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "emulator/schedules.hpp"
#include "matmul/device_matrices.cuh"
#include "store/temporary_folder.hpp"

using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

// The whole of gpu::quantize beside higgs::quantize.
template <class T, class Book>
void check_equals_host(const Book& book, std::int64_t rows, std::int64_t cols,
                       const higgs::QuantizeOptions& options) {
  INFO(Book::name() << ", " << rows << " x " << cols << ", group " << options.group);
  Normals<T> w(rows, cols, 21);
  if (rows > 0) w.data[0] = static_cast<T>(30.0f);  // beyond every grid
  for (std::int64_t r = 0; r < rows; ++r) w.data[static_cast<std::size_t>(r * cols + cols / 2)] = T{};
  const auto host = higgs::quantize(higgs::MatrixView<const T>(w.view), book, options);
  const gpu::DeviceBuffer<T> weights{std::span<const T>(w.data)};
  const auto device = gpu::quantize(gpu::DenseView<const T>(weights.data(), rows, cols), book, options);
  CHECK(device.layout == host.layout);
  CHECK(device.exponent == host.exponent);
  CHECK(std::ranges::equal(device.input_scales, host.input_scales));
  CHECK(std::ranges::equal(device.codes, host.codes));
  CHECK(std::ranges::equal(device.scales, host.scales));
  CHECK(device.t2 == host.t2);
  const bool measured = !host.layout.input_scales && host.layout.padded_cols() == cols;
  CHECK((measured ? device.weight_error == host.weight_error : std::isnan(device.weight_error)));
}

template <class... Codes>
void for_each_book(higgs::TypeList<Codes...>, auto&& visit) {
  (visit(Codes{}), ...);
}

constexpr auto log8 = higgs::ScaleFormat::Log8;

}  // namespace

TEST_CASE("codes and scales made on the device are the host's, bit for bit", "[front][quantizer][gpu]") {
  for_each_book(higgs::ShippedCodes{}, [](const auto& book) {
    check_equals_host<float>(book, 3, 300, {.group = 1024});
    check_equals_host<float>(book, 2, 130, {.group = 24, .seed = {}, .scale_format = log8});
    check_equals_host<float>(book, 2, 192, {.group = 64, .scale_search = 2});
    check_equals_host<float>(book, 130, 33, {.group = 32, .scale_format = log8});  // with input scales
  });
  const higgs::GridCodebook<2, 256> book;
  const std::vector<double> squares(64, 0.5);
  check_equals_host<Half>(book, 130, 64, {.group = 32, .input_squares = squares});
  Normals<float> loud(200, 64, 22);
  for (float& value : loud.data) value = std::fabs(value) + 31;
  higgs::ColumnStatistics all(64);
  all.add(loud.view);
  check_equals_host<Half>(book, 60, 64, {.group = 32, .statistics = &all});  // too few rows on their own
  check_equals_host<higgs::BFloat16>(book, 2, 1, {});
  check_equals_host<float>(book, 1, 3000,
                           {.block = 960, .group = 192, .scale_format = log8, .scale_search = 3});
  check_equals_host<float>(book, 0, 8, {});
}

TEMPLATE_TEST_CASE_SIG("window codes of any group size are the host's", "[front][quantizer][gpu]",
                       ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const higgs::WindowCode<K> code;
  check_equals_host<float>(code, 5, 1, {});  // half a symbol
  check_equals_host<float>(code, 3, 2048, {.group = 1024});
  check_equals_host<float>(code, 2, 1024,
                           {.block = 512, .group = 512, .scale_format = log8, .scale_search = 1});
  check_equals_host<float>(code, 2, 960, {.block = 960, .group = 192, .scale_search = 4});
  check_equals_host<float>(code, 130, 128, {.group = 64});
}

TEST_CASE("no schedule of quantizing on the device has a race or changes a bit", "[front][quantizer][gpu]") {
  emulator::for_each_schedule(20, [](std::uint32_t) {
    check_equals_host<float>(higgs::WindowCode<4>{}, 3, 128, {.group = 32, .scale_search = 1});
    check_equals_host<float>(higgs::WindowCode<7>{}, 3, 128, {.group = 64, .scale_search = 1});
    check_equals_host<float>(higgs::GridCodebook<2, 64>{}, 3, 256, {.group = 64, .scale_search = 1});
    check_equals_host<Half>(higgs::E8Codebook{}, 2, 40, {.group = 8, .scale_format = log8});
  });
}

TEST_CASE("CUDA's own 16-bit weights are taken as what they are", "[front][quantizer][gpu]") {
  const Normals<Half> w(3, 64, 5);
  const gpu::DeviceBuffer<Half> weights{std::span<const Half>(w.data)};
  const higgs::GridCodebook<2, 256> book;
  const auto expected = gpu::quantize(gpu::DenseView<const Half>(weights.data(), 3, 64), book);
  const auto* same = reinterpret_cast<const __half*>(weights.data());
  const auto found = gpu::quantize(gpu::DenseView<const __half>(same, 3, 64), book);
  CHECK(std::ranges::equal(found.codes, expected.codes));
  CHECK(std::ranges::equal(found.scales, expected.scales));
}

TEST_CASE("weights on the device that are no numbers are refused", "[front][quantizer][gpu]") {
  std::vector<float> w(24, 1.0f);
  w[13] = std::numeric_limits<float>::quiet_NaN();
  const gpu::DeviceBuffer<float> weights{std::span<const float>(w)};
  const gpu::DenseView<const float> view(weights.data(), 3, 8);
  CHECK_THROWS_WITH(gpu::quantize(view, higgs::UniformCodebook8{}), Catch::Contains("column 5"));
}

namespace {

// Weights to codes on the device, to a file, back, and multiplied there.
template <class Book>
void check_pipeline(const Book& book, const higgs::QuantizeOptions& options) {
  INFO(Book::name());
  const Normals<float> w(130, 200, 31);
  auto host = higgs::quantize(higgs::MatrixView<const float>(w.view), book, options);
  const gpu::DeviceBuffer<float> weights{std::span<const float>(w.data)};
  const auto made = gpu::quantize(gpu::DenseView<const float>(weights.data(), 130, 200), book, options);
  host.weight_error = made.weight_error;  // which the device leaves out where there are input scales
  const TemporaryFolder folder;
  const auto write = [&](const char* name, const higgs::QuantizedMatrix<Book>& matrix) {
    higgs::CheckpointContents contents;
    contents.add_layer<Book>("w", matrix.layout, matrix.seed, "F32");
    higgs::CheckpointWriter writer(folder / name, contents);
    writer.write_layer("w", matrix);
    writer.commit();
    std::ifstream file(folder / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string file = write("device.safetensors", made);
  CHECK(file.size() > host.codes.size());
  CHECK(file == write("host.safetensors", host));

  const gpu::PackedMatrix on_device(higgs::Checkpoint::open(folder / "device.safetensors").load("w"));
  const gpu::Device device = gpu::current_device();
  std::vector<float> expected(130 * 200);
  higgs::dequantize(host, higgs::MatrixView<float>(expected.data(), 130, 200));
  const gpu::DeviceBuffer<float> decoded(expected.size()), workspace(192 * 256);
  gpu::dequantize_async(on_device.view(), gpu::DenseView<float>(decoded.data(), 130, 200),
                        gpu::Basis::Original, device, nullptr, workspace.span());
  CHECK(decoded.to_host() == expected);
  // One format, for short builds: matmul_test.cu has them all.
  if constexpr (std::is_same_v<typename gpu::FormatOf<Book>::type, gpu::TableFormat<4>>) {
    const Normals<Half> x(5, 200, 32);
    const auto y = device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(
        on_device.view(), x, gpu::plan_matmul(on_device.view().layout, device));
    std::vector<double> exact(y.size());
    higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), host,
                            higgs::MatrixView<double>(exact.data(), 5, 130));
    CHECK(relative_error(y, exact) < 3e-4);
  }
}

}  // namespace

TEST_CASE(
    "a file of what the device quantized is the host's, byte for byte, and decodes and multiplies as that",
    "[front][quantizer][gpu]") {
  bool with_log8 = false;
  for_each_book(higgs::ShippedCodes{}, [&](const auto& book) {
    with_log8 = !with_log8;
    check_pipeline(book, {.group = with_log8 ? 128 : 64,
                          .scale_format = with_log8 ? log8 : higgs::ScaleFormat::Fp16,
                          .scale_search = with_log8 ? 1 : 0});
  });
}

TEST_CASE("no schedule of repacking and dequantizing has a race or changes a bit",
          "[front][quantizer][gpu]") {
  for_each_book(higgs::ShippedCodes{}, []<class Book>(const Book&) {
    INFO(Book::name());
    const auto w = random_matrix<Book>(66, 80, 40, 40, 5, true);
    const gpu::Device device = gpu::current_device();
    std::vector<float> first;
    emulator::for_each_schedule(20, [&](std::uint32_t seed) {
      const gpu::PackedMatrix on_device(w);
      const gpu::DeviceBuffer<float> decoded(66 * 80), workspace(128 * 80);
      gpu::dequantize_async(on_device.view(), gpu::DenseView<float>(decoded.data(), 66, 80),
                            gpu::Basis::Original, device, nullptr, workspace.span());
      if (seed == 0) first = decoded.to_host();
      REQUIRE(decoded.to_host() == first);
    });
  });
}
