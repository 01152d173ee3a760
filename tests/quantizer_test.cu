// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/reference.hpp>
#include <higgs/quantizer.cuh>
#include <higgs/quantizer.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/checkpoint_writer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>

#include "emulator/schedules.hpp"
#include "matmul/device_matrices.cuh"
#include "store/temporary_folder.hpp"

using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

struct Rows {
  std::vector<std::uint8_t> codes;
  std::vector<Half> scales;
  std::vector<double2> errors;
};

template <class T, class Book>
Rows quantize_on_device(const Normals<T>& w, const higgs::QuantizedMatrix<Book>& like) {
  const gpu::Device device = gpu::current_device();
  const gpu::DeviceRowQuantizer<Book> quantizer(like.book, like.layout, like.seed, like.exponent,
                                                like.input_scales);
  const gpu::DeviceBuffer<T> weights{std::span<const T>(w.data)};
  const gpu::DeviceBuffer<std::uint8_t> codes(like.codes.size());
  const gpu::DeviceBuffer<Half> scales(like.scales.size());
  const gpu::DeviceBuffer<double2> errors(like.scales.size());
  const gpu::DeviceBuffer<std::byte> workspace(quantizer.workspace_size(w.view.rows, device));
  quantizer.quantize_rows_async(gpu::DeviceMatrixView<const T>(weights.data(), w.view.rows, w.view.cols),
                                codes.data(), scales.data(), std::span(workspace.data(), workspace.size()),
                                device, nullptr, errors.data());
  gpu::check(cudaDeviceSynchronize(), "quantize_rows_async");
  return {codes.to_host(), scales.to_host(), errors.to_host()};
}

template <class T, class Book>
void check_equals_host(const Book& book, std::int64_t rows, std::int64_t cols,
                       const higgs::QuantizeOptions& options) {
  INFO(Book::name() << ", " << rows << " x " << cols << ", group " << options.group);
  Normals<T> w(rows, cols, 21);
  w.data[0] = static_cast<T>(30.0f);  // beyond every grid
  const auto host = higgs::quantize(higgs::MatrixView<const T>(w.view), book, options);
  const Rows device = quantize_on_device(w, host);
  CHECK(std::equal(host.codes.begin(), host.codes.end(), device.codes.begin(), device.codes.end()));
  CHECK(std::equal(host.scales.begin(), host.scales.end(), device.scales.begin(), device.scales.end()));
  double error = 0, norm = 0;
  const std::size_t groups = device.errors.size() / static_cast<std::size_t>(rows);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    double row_error = 0, row_norm = 0;
    for (std::size_t g = 0; g < groups; ++g) {
      row_error += device.errors[r * groups + g].x;
      row_norm += device.errors[r * groups + g].y;
    }
    error += row_error;
    norm += row_norm;
  }
  CHECK(error / norm == host.t2);
}

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

}  // namespace

TEST_CASE("codes and scales made on the device are the host's, bit for bit", "[front][quantizer][gpu]") {
  for_each_book(higgs::ShippedCodebooks{}, [](const auto& book) {
    using Book = std::remove_cvref_t<decltype(book)>;
    check_equals_host<float>(book, 3, 300, {.group = 1024});
    check_equals_host<float>(book, 2, 130, {.group = 24, .seed = {}});
  });
  const higgs::GridCodebook<2, 256> book;
  check_equals_host<Half>(book, 130, 64, {.group = 32});  // with input scales
  check_equals_host<higgs::BFloat16>(book, 2, 1, {});
  check_equals_host<float>(book, 1, 3000, {.block = 960, .group = 192});
}

TEST_CASE("quantizing on the device has no race under any schedule", "[front][quantizer][gpu]") {
  emulator::for_each_schedule(5, [](std::uint32_t) {
    check_equals_host<float>(higgs::GridCodebook<2, 64>{}, 3, 256, {.group = 64});
  });
}

namespace {

// Weights to codes on the device, to a file, back, and multiplied there.
template <class Book>
void check_pipeline(const Book& book) {
  INFO(Book::name());
  const Normals<float> w(70, 256, 31);
  const auto host = higgs::quantize(higgs::MatrixView<const float>(w.view), book);
  const Rows device = quantize_on_device(w, host);
  auto made = host;
  made.codes = device.codes;
  made.scales = device.scales;
  const TemporaryFolder folder;
  higgs::CheckpointContents contents;
  contents.add_layer<Book>("w", host.layout, host.seed, "F32");
  higgs::CheckpointWriter writer(folder / "a.safetensors", contents);
  writer.write_layer("w", made);
  writer.commit();
  const higgs::AnyQuantizedMatrix loaded = higgs::Checkpoint::open(folder / "a.safetensors").load("w");
  const auto& stored = std::get<higgs::QuantizedMatrix<Book>>(loaded);
  CHECK(std::equal(host.codes.begin(), host.codes.end(), stored.codes.begin(), stored.codes.end()));
  CHECK(std::equal(host.scales.begin(), host.scales.end(), stored.scales.begin(), stored.scales.end()));

  const gpu::DeviceMatrix on_device(loaded);
  const Normals<Half> x(5, 256, 32);
  const auto plan = gpu::plan_matmul(on_device.view().order, gpu::current_device());
  const auto y = device_product<float, gpu::MatmulBits<gpu::tile_bits<Book>>>(on_device.view(), x, plan);
  std::vector<double> exact(y.size());
  higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), host,
                          higgs::MatrixView<double>(exact.data(), 5, 70));
  CHECK(relative_error(y, exact) < 3e-4);
}

}  // namespace

TEST_CASE("quantized on the device, stored, loaded and multiplied, a matrix is the host's",
          "[front][quantizer][gpu]") {
  check_pipeline(higgs::GridCodebook<2, 256>{});
  check_pipeline(higgs::GridCodebook<2, 64>{});
  check_pipeline(higgs::UniformCodebook8{});
}
