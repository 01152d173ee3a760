// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/quantizer.hpp>
#include <higgs/round/row_quantizer.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "matmul/matrices.hpp"

using higgs::Half;
namespace gpu = higgs::gpu;

TEST_CASE("matrices larger than the workspace are quantized in pieces", "[round][row_quantizer][gpu]") {
  const higgs::UniformCodebook8 book;
  const Normals<Half> w(5, 64, 3);
  const auto host = higgs::quantize(higgs::MatrixView<const Half>(w.view), book);
  const gpu::Device device = gpu::current_device();
  const gpu::DeviceRowQuantizer quantizer(book, host.layout, host.seed, host.exponent, host.input_scales);
  const gpu::DeviceBuffer<Half> weights{std::span<const Half>(w.data)};
  const gpu::DeviceBuffer<std::uint8_t> codes(host.codes.size());
  const gpu::DeviceBuffer<Half> scales(host.scales.size());
  const gpu::DeviceBuffer<std::byte> workspace(quantizer.workspace_size(3, device));
  const std::span space(workspace.data(), workspace.size());
  const auto quantize_rows = [&](std::int64_t row, std::int64_t count) {
    quantizer.quantize_rows_async(gpu::DenseView<const Half>(weights.data() + row * 64, count, 64),
                                  codes.data() + row * host.row_bytes(),
                                  scales.data() + row * host.layout.groups(), space, device, nullptr);
  };
  quantize_rows(0, 3);
  quantize_rows(3, 2);
  CHECK(std::ranges::equal(codes.to_host(), host.codes));
  CHECK(std::ranges::equal(scales.to_host(), host.scales));
  CHECK_THROWS_AS(quantize_rows(0, 5), higgs::InvalidArgument);
  const gpu::DenseView<const Half> one_row(weights.data(), 1, 64);
  const auto* odd = reinterpret_cast<const char*>(weights.data()) + 1;
  const auto quantize_to = [&](gpu::DenseView<const Half> rows, double2* errors) {
    quantizer.quantize_rows_async(rows, codes.data(), scales.data(), space, device, nullptr, errors);
  };
  CHECK_THROWS_WITH(quantize_to({reinterpret_cast<const Half*>(odd), 1, 64}, nullptr),
                    Catch::Contains("w begins 1"));
  CHECK_THROWS_WITH(quantize_to({reinterpret_cast<const Half*>(workspace.data()), 1, 64}, nullptr),
                    Catch::Contains("the workspace and w must not share memory"));
  CHECK_THROWS_WITH(quantize_to(one_row, reinterpret_cast<double2*>(scales.data() + 4)),
                    Catch::Contains("errors begins 8"));
}
