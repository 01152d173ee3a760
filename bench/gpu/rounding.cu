// SPDX-License-Identifier: Apache-2.0
// Rounding by second moments on a GPU: the rate of second moments and of factors beside that of fused multiply-adds in registers,
// and the weights a second that are rounded with feedback.
//
//     rounding           layers of 4096 and 14336 inputs
//     rounding --tiny    one small layer, each measurement once: does the program run?
#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/window/code.hpp>
#include <higgs/core/random.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/quantizer.hpp>
#include <higgs/round/feedback.cuh>
#include <higgs/round/feedback_quantizer.cuh>
#include <higgs/round/second_moment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "answer.hpp"
#include "timing.cuh"

namespace gpu = higgs::gpu;
using bench::check;

namespace {

constexpr int multiply_rounds = 4096, multiply_chains = 8;

/// Fused multiply-adds in registers alone, 8 chains a thread: the limit of second moments.
__global__ void __launch_bounds__(256) multiply_kernel(float* out, float by) {
  float sums[multiply_chains];
  for (int i = 0; i < multiply_chains; ++i) sums[i] = static_cast<float>(threadIdx.x + i);
  for (int round = 0; round < multiply_rounds; ++round) HIGGS_UNROLL
    for (int i = 0; i < multiply_chains; ++i) sums[i] = fmaf(sums[i], by, by);
  float sum = 0;
  for (const float each : sums) sum += each;
  out[blockIdx.x * 256 + threadIdx.x] = sum;
}

/// Numbers of N(0, 1), a million of them again and again.
std::vector<float> normals(std::int64_t count) {
  constexpr std::size_t period = 1048573;  // a prime: no two rows are equal
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = i < period ? static_cast<float>(higgs::random_normal(1, i)) : x[i - period];
  return x;
}

/// A line for the summary; `share` of the rate in registers, if it is not 0.
void tell(const std::string& question, double value, double share = 0) {
  if (share > 0)
    bench::answer(question.c_str(), "-", "%.3g, %.0f %% of multiply-adds in registers", value, 100 * share);
  else
    bench::answer(question.c_str(), "-", "%.3g", value);
}

class Bench {
 public:
  explicit Bench(bool thorough) : stopwatch_(thorough) {
    const int blocks = thorough ? 8 * device_.multiprocessors : 1;
    const gpu::DeviceBuffer<float> out(static_cast<std::size_t>(blocks) * 256);
    const double us = stopwatch_.median_us([&](cudaStream_t stream) {
      gpu::launch(multiply_kernel, dim3(static_cast<unsigned>(blocks)), 256, 0, stream, out.data(), 0.5f);
    });
    limit_ = 2e-6 * 256 * multiply_rounds * multiply_chains * blocks / us;
    tell("TFLOP/s of multiply-adds in registers", limit_);
  }

  /// Second moments of `cols` inputs, their factor, and `rows` rows rounded with it.
  void run(std::int64_t tokens, std::int64_t rows, std::int64_t cols) const {
    const std::string shape = std::to_string(cols) + " inputs";
    const gpu::DeviceBuffer<float> x{std::span<const float>(normals(tokens * cols))};
    const gpu::DenseView<const float> inputs(x.data(), tokens, cols);
    gpu::DeviceSecondMoment moment(cols), measured(cols);
    moment.add_async(inputs, device_, nullptr);
    const double sums =
        stopwatch_.median_us([&](cudaStream_t stream) { measured.add_async(inputs, device_, stream); });
    const double n = static_cast<double>(cols), count = static_cast<double>(tokens);
    tell_rate("TFLOP/s of second moments, " + shape, count * n * (n + 1) / sums);

    const higgs::CodeLayout layout = higgs::make_layout(rows, cols, 2, {.input_scales = false});
    const auto feedback = gpu::DeviceFeedback::from(moment, layout, 1, {}, 0.01, device_, nullptr);
    measure_factor(moment, feedback, shape);
    const gpu::DeviceBuffer<float> w{std::span<const float>(normals(rows * cols))};
    const gpu::DenseView<const float> weights(w.data(), rows, cols);
    measure_rounding(higgs::WindowCode<4>{}, layout, feedback, weights);
    measure_rounding(higgs::WindowCode<6>{}, layout, feedback, weights);
    measure_rounding(higgs::WindowCode<8>{}, layout, feedback, weights);
    measure_rounding(higgs::GridCodebook<2, 256>{}, layout, feedback, weights);
  }

 private:
  void tell_rate(const std::string& question, double flops_a_us) const {
    tell(question, 1e-6 * flops_a_us, 1e-6 * flops_a_us / limit_);
  }

  // The factor of a second moment without rotation, which takes a copy of it each time.
  void measure_factor(const gpu::DeviceSecondMoment& moment, const gpu::DeviceFeedback& feedback,
                      const std::string& shape) const {
    const gpu::DenseView<const float> from = moment.values(0);
    const auto bytes = static_cast<std::size_t>(from.rows * from.cols) * sizeof(float);
    const gpu::DeviceBuffer<float> h(bytes / sizeof(float)), d(static_cast<std::size_t>(feedback.cols())),
        workspace(static_cast<std::size_t>(gpu::factor_workspace(from.rows)));
    const gpu::DeviceBuffer<int> failed = gpu::DeviceBuffer<int>::zeros(1);
    const double us = stopwatch_.median_us([&](cudaStream_t stream) {
      check(cudaMemcpyAsync(h.data(), from.data, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
      gpu::factor_async(gpu::DenseView<float>(h.data(), from.rows, from.cols), d.data(), 0, workspace.data(),
                        failed.data(), device_, stream);
    });
    const double n = static_cast<double>(from.rows);
    tell_rate("TFLOP/s of a factor, " + shape, n * n * n / 3 / us);
  }

  template <class C>
  void measure_rounding(const C& code, const higgs::CodeLayout& layout, const gpu::DeviceFeedback& feedback,
                        const gpu::DenseView<const float>& w) const {
    const gpu::DeviceFeedbackQuantizer<C> quantizer(code, layout, 1, 0, {}, feedback);
    const gpu::DeviceBuffer<std::byte> workspace(quantizer.workspace_size(w.rows, device_));
    const gpu::DeviceBuffer<std::uint8_t> codes(
        static_cast<std::size_t>(w.rows * layout.row_bytes(C::dim, higgs::code_bits<C>)));
    const gpu::DeviceBuffer<higgs::Half> scales(static_cast<std::size_t>(w.rows * layout.groups()));
    const gpu::DeviceBuffer<gpu::FeedbackRowError> errors(static_cast<std::size_t>(w.rows));
    const double us = stopwatch_.median_us([&](cudaStream_t stream) {
      quantizer.quantize_rows_async(w, codes.data(), scales.data(), workspace.span(), device_, stream,
                                    errors.data());
    });
    const auto error = quantizer.total(errors.to_host());
    tell("million weights/s rounded to " + C::name() + ", " + std::to_string(w.rows) + " x " +
             std::to_string(w.cols) + " (" + std::to_string(error.nearest_rows) + " rows without feedback)",
         static_cast<double>(w.rows * w.cols) / us);
  }

  gpu::Device device_ = gpu::current_device();
  bench::Stopwatch stopwatch_;
  double limit_ = 0;  // TFLOP/s
};

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc > 1 && std::string_view(argv[1]) == "--tiny") {
      Bench(false).run(16, 8, 96);
    } else {
      const Bench bench(true);
      bench.run(8192, 4096, 4096);
      bench.run(8192, 4096, 14336);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
