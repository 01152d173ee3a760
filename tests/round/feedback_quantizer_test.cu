// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/codes/window/code.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/quantizer.hpp>
#include <higgs/round/feedback.cuh>
#include <higgs/round/feedback.hpp>
#include <higgs/round/feedback_quantizer.cuh>
#include <higgs/round/feedback_quantizer.hpp>
#include <higgs/round/second_moment.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "emulator/schedules.hpp"
#include "matmul/matrices.hpp"
#include "round/inputs.hpp"

namespace gpu = higgs::gpu;
using higgs::MatrixView;

namespace {

struct Options {
  std::int64_t block = 0, group = 1024, part = 0;
  higgs::ScaleFormat format = higgs::ScaleFormat::Fp16;
  bool silent = false;  // no input ever speaks
  bool alone = false;   // each input speaks for itself
};

// Rows on the device beside the host: symbols, scales, and all that is said of the errors. Returns the rows that are
// rounded without feedback.
template <class T = float, class C>
std::int64_t check_equals_host(const C& code, std::int64_t rows, std::int64_t cols, const Options& options) {
  INFO(C::name() << ", " << rows << " x " << cols << ", group " << options.group << ", part "
                 << options.part);
  const Normals<T> w(rows, cols, 21);
  higgs::SecondMoment moment(cols, options.part);
  const std::int64_t count = options.alone ? 1000 : 40;
  std::vector<float> x = options.alone ? normals(count * cols, 6) : inputs(count, cols, 6);
  for (float& value : x)
    if (options.silent) value = 0;
  moment.add({x.data(), count, cols});
  const std::vector<double> squares = moment.mean_squares();
  const higgs::QuantizeOptions how{.block = options.block,
                                   .group = options.group,
                                   .scale_format = options.format,
                                   .input_squares = squares};
  const auto plain = higgs::quantize(MatrixView<const T>(w.view), code, how);
  const higgs::Feedback feedback(moment, plain.layout, plain.seed, plain.input_scales);
  const higgs::FeedbackQuantizer<C> host(code, plain.layout, plain.seed, plain.exponent, plain.input_scales,
                                         feedback);
  std::vector<std::uint8_t> codes(plain.codes.size());
  std::vector<higgs::Half> scales(plain.scales.size());
  const auto expected = host.quantize_rows(MatrixView<const T>(w.view), codes, scales);

  const gpu::Device device = gpu::current_device();
  const gpu::DeviceFeedback on_device(feedback);
  const gpu::DeviceFeedbackQuantizer<C> quantizer(code, plain.layout, plain.seed, plain.exponent,
                                                  plain.input_scales, on_device);
  const gpu::DeviceBuffer<T> weights{std::span<const T>(w.data)};
  const gpu::DeviceBuffer<std::uint8_t> device_codes(codes.size());
  const gpu::DeviceBuffer<higgs::Half> device_scales(scales.size());
  const gpu::DeviceBuffer<gpu::FeedbackRowError> errors(static_cast<std::size_t>(rows));
  const gpu::DeviceBuffer<std::byte> workspace(quantizer.workspace_size(rows, device));
  quantizer.quantize_rows_async(gpu::DenseView<const T>(weights.data(), rows, cols), device_codes.data(),
                                device_scales.data(), workspace.span(), device, nullptr, errors.data());
  CHECK(device_codes.to_host() == codes);
  CHECK(device_scales.to_host() == scales);
  const auto found = quantizer.total(errors.to_host());
  CHECK(found.loss == expected.loss);
  CHECK(found.expected_nearest_loss == expected.expected_nearest_loss);
  CHECK(found.nearest_rows == expected.nearest_rows);
  CHECK(found.squared_error == expected.squared_error);
  CHECK(found.squared_norm == expected.squared_norm);
  const bool measured = !plain.layout.input_scales && plain.layout.padded_cols() == cols;
  CHECK((measured ? found.weight_error() == expected.weight_error() : std::isnan(found.weight_error())));
  return found.nearest_rows;
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("window codes rounded with feedback on the device are the host's, bit for bit",
                       "[round][feedback_quantizer][gpu]", ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const higgs::WindowCode<K> code;
  check_equals_host(code, 3, 1, {});  // half a symbol
  check_equals_host(code, 9, 100, {.block = 20, .group = 20});
  check_equals_host(code, 5, 192,
                    {.block = 64, .group = 64, .part = 128, .format = higgs::ScaleFormat::Log8});
}

TEMPLATE_TEST_CASE("codebooks rounded with feedback on the device are the host's, bit for bit",
                   "[round][feedback_quantizer][gpu]", (higgs::GridCodebook<1, 16>),
                   (higgs::GridCodebook<1, 256>), (higgs::GridCodebook<2, 256>), (higgs::GridCodebook<3, 64>),
                   (higgs::GridCodebook<4, 256>), higgs::E8Codebook, higgs::UniformCodebook8) {
  const TestType code;
  check_equals_host(code, 3, 1, {});
  check_equals_host(code, 9, 100, {.block = 20, .group = 20});
  check_equals_host(code, 5, 192,
                    {.block = 64, .group = 64, .part = 128, .format = higgs::ScaleFormat::Log8});
}

TEST_CASE("rows that gain nothing are rounded without feedback on the device too",
          "[round][feedback_quantizer][gpu]") {
  const auto check = [](const auto& code) {
    const std::int64_t nearest = check_equals_host(code, 70, 64, {.block = 32, .group = 32, .alone = true});
    CHECK(nearest > 0);
    CHECK(nearest < 70);
    CHECK(check_equals_host(code, 70, 64, {.block = 32, .group = 32, .silent = true}) == 70);
  };
  check(higgs::WindowCode<4>{});
  check(higgs::GridCodebook<2, 64>{});
  check(higgs::GridCodebook<1, 256>{});  // whose coordinates take two bytes
}

TEST_CASE("rows with input scales and of every type are rounded as on the host",
          "[round][feedback_quantizer][gpu]") {
  check_equals_host<higgs::Half>(higgs::WindowCode<6>{}, 130, 60, {.block = 32, .group = 32});
  check_equals_host<higgs::BFloat16>(higgs::GridCodebook<2, 64>{}, 130, 60, {.block = 32, .group = 32});
}

TEST_CASE("no schedule of rounding with feedback has a race or changes a bit",
          "[round][feedback_quantizer][gpu]") {
  emulator::for_each_schedule(5, [](std::uint32_t) {
    check_equals_host(higgs::WindowCode<4>{}, 6, 40, {.block = 20, .group = 20});
    check_equals_host(higgs::WindowCode<9>{}, 5, 24, {.block = 12, .group = 12});
    check_equals_host(higgs::GridCodebook<2, 64>{}, 6, 40, {.block = 20, .group = 20});
    check_equals_host(higgs::E8Codebook{}, 5, 40, {.block = 20, .group = 20});
  });
}

TEST_CASE("feedback of another shape and a workspace too small are refused with the numbers",
          "[round][feedback_quantizer][gpu]") {
  using Quantizer = gpu::DeviceFeedbackQuantizer<higgs::GridCodebook<2, 64>>;
  const higgs::CodeLayout layout{.rows = 4, .cols = 32, .block = 16, .group = 16},
      other{.rows = 4, .cols = 64, .block = 16, .group = 16};
  const gpu::DeviceFeedback feedback(higgs::Feedback(higgs::SecondMoment(32), layout, 1));
  CHECK_THROWS_WITH(Quantizer({}, other, 1, 0, {}, feedback), Catch::Contains("32") && Catch::Contains("64"));
  const Quantizer quantizer({}, layout, 1, 0, {}, feedback);
  const gpu::Device device = gpu::current_device();
  const gpu::DeviceBuffer<float> w = gpu::DeviceBuffer<float>::zeros(4 * 33);
  const gpu::DeviceBuffer<std::byte> workspace(quantizer.workspace_size(3, device));
  const gpu::DeviceBuffer<std::uint8_t> codes(4 * 32);
  const gpu::DeviceBuffer<higgs::Half> scales(4 * 2);
  const auto quantize = [&](std::int64_t rows, std::int64_t cols) {
    quantizer.quantize_rows_async(gpu::DenseView<const float>(w.data(), rows, cols), codes.data(),
                                  scales.data(), workspace.span(), device, nullptr);
  };
  CHECK_NOTHROW(quantize(3, 32));
  CHECK_THROWS_WITH(quantize(4, 32), Catch::Contains("the workspace holds"));
  CHECK_THROWS_WITH(quantize(3, 33), Catch::Contains("w is (3, 33), but the layout has 32"));
}
