// SPDX-License-Identifier: Apache-2.0
// Compiled for Hopper: older architectures ask for nothing ahead.
#include <higgs/codes/formats.cuh>
#include <higgs/matmul/grouped.cuh>
#include <higgs/matmul/int8_launch.cuh>
#include <higgs/matmul/linear.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/stream_prefetch.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

// How often each warp tile is asked for by a warp that multiplies steps [begin, end). next(step) is the number of steps
// that it asks before.
template <class Prefetch, class Next>
std::vector<int> requests(int begin, int end, const Next& next) {
  std::vector<int> times(static_cast<std::size_t>(end));
  const auto ask = [&](auto request) {
    for (int i = 0; i < request.count; ++i) ++times.at(static_cast<std::size_t>(request.first + i));
  };
  ask(Prefetch::first_request(begin, end));
  for (int step = begin; step < end;) {
    const int steps = next(step);
    ask(Prefetch::next_request(step, steps, end));
    step += steps;
  }
  return times;
}

// Every tile behind the first loads once, no other.
bool once_each(const std::vector<int>& times, int first) {
  for (int step = 0; step < static_cast<int>(times.size()); ++step)
    if (times[static_cast<std::size_t>(step)] != (step >= first ? 1 : 0)) return false;
  return true;
}

// In rounds of the stages between two changes of group, or in chunks of two steps.
template <class Format, int Stages, int Bytes = 16384>
void check_requests() {
  using Prefetch = gpu::detail::StreamPrefetch<Format, Stages, Bytes>;
  for (int begin = 0; begin < 9; ++begin)
    for (int end = begin + 1; end < 60; ++end) {
      for (const int group : {1, 2, 16, 100}) {
        INFO(Stages << " stages, steps " << begin << " to " << end << ", groups of " << group);
        const std::vector<int> times = requests<Prefetch>(begin, end, [&](int step) {
          return step + Stages <= std::min(end, (step / group + 1) * group) ? Stages : 1;
        });
        CHECK(once_each(times, begin + Stages));
      }
      INFO(Stages << " stages, steps " << begin << " to " << end << ", in chunks");
      CHECK(once_each(requests<Prefetch>(begin, end, [&](int step) { return std::min(2, end - step); }),
                      begin + Stages));
    }
}

using Book = GridCodebook<2, 256>;
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;

// Products, rotations and experts one after the other, each of which reads what the one in front of it writes, and
// writes what others read: states = states + down(up(states)), then up(rotated states), then experts.
class Chain {
 public:
  explicit Chain(std::int64_t batch)
      : batch_(batch),
        up_(random_matrix<Book>(inner, outer, 64, 64, 5)),
        down_(random_matrix<Book>(outer, inner, 64, 64, 6)),
        experts_(std::span<const higgs::QuantizedMatrix<Book>>(some_experts())),
        expert_plan_(gpu::plan_experts(experts_[0].layout, up_.device(), 2)),
        start_(std::span<const Half>(Normals<Half>(batch, outer, 7).data)),
        states_(size(outer)),
        middle_(size(inner)),
        rotated_(size(up_.rotated_cols())),
        y_(size(outer)),
        offsets_(std::span<const std::int32_t>(offsets(batch))),
        workspace_(gpu::DeviceBuffer<std::byte>::zeros(
            std::max({up_.workspace_bytes(batch), down_.workspace_bytes(batch),
                      gpu::matmul_grouped_workspace(experts_, batch, expert_plan_, up_.device())}))) {}

  void set_overlap(bool overlap) {
    up_.plan().overlap_launches = down_.plan().overlap_launches = expert_plan_.overlap_launches = overlap;
  }
  // Puts the start into the states and something else into all that is computed.
  void begin(cudaStream_t stream) {
    for (const auto* buffer : {&middle_, &rotated_, &y_})
      gpu::check(cudaMemsetAsync(buffer->data(), 0x55, buffer->size_bytes(), stream), "begin");
    gpu::check(
        cudaMemcpyAsync(states_.data(), start_.data(), start_.size_bytes(), cudaMemcpyDeviceToDevice, stream),
        "begin");
  }
  void run(cudaStream_t stream) {
    const gpu::DenseView<Half> states(states_.data(), batch_, outer), middle(middle_.data(), batch_, inner),
        rotated(rotated_.data(), batch_, up_.rotated_cols()), y(y_.data(), batch_, outer);
    up_.rotate(gpu::DenseView<const Half>(states), rotated, workspace_.span(), stream);
    up_.multiply_rotated(gpu::DenseView<const Half>(rotated), middle, workspace_.span(), stream);
    down_(gpu::DenseView<const Half>(middle), states, workspace_.span(), stream, {nullptr, states_.data()});
    up_(gpu::DenseView<const Half>(states), middle, workspace_.span(), stream);
    gpu::matmul_grouped_async<Formats>(gpu::DenseView<const Half>(middle), experts_,
                                       {batch_, offsets_.data()}, y, workspace_.span(), expert_plan_,
                                       up_.device(), stream);
  }
  // The bits of all that is computed.
  std::vector<std::uint16_t> results(cudaStream_t stream) const {
    std::vector<std::uint16_t> out;
    for (const auto* buffer : {&states_, &middle_, &rotated_, &y_})
      for (const Half value : buffer->to_host(stream)) out.push_back(value.bits);
    return out;
  }

 private:
  static constexpr std::int64_t outer = 128, inner = 320;

  std::size_t size(std::int64_t cols) const { return static_cast<std::size_t>(batch_ * cols); }
  static std::vector<higgs::QuantizedMatrix<Book>> some_experts() {
    return {random_matrix<Book>(outer, inner, 64, 64, 8), random_matrix<Book>(outer, inner, 64, 64, 9)};
  }
  static std::vector<std::int32_t> offsets(std::int64_t batch) {
    return {0, static_cast<std::int32_t>(batch / 2), static_cast<std::int32_t>(batch)};
  }

  std::int64_t batch_;
  gpu::Linear<Formats> up_, down_;
  gpu::Experts experts_;
  gpu::MatmulPlan expert_plan_;
  gpu::DeviceBuffer<Half> start_, states_, middle_, rotated_, y_;
  gpu::DeviceBuffer<std::int32_t> offsets_;
  gpu::DeviceBuffer<std::byte> workspace_;
};

// A stream that the legacy stream does not wait for, and what is captured from it.
struct Capture {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;

  Capture() { gpu::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "Capture"); }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture() {
    if (executable != nullptr) static_cast<void>(cudaGraphExecDestroy(executable));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    static_cast<void>(cudaStreamDestroy(stream));
  }
  template <class Work>
  void record(const Work& work) {
    gpu::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "record");
    work();
    gpu::check(cudaStreamEndCapture(stream, &graph), "record");
    gpu::check(cudaGraphInstantiate(&executable, graph, 0), "record");
  }
};

}  // namespace

TEST_CASE("each warp tile behind the first loads is asked for once, and none beyond the last",
          "[matmul][stream_prefetch][gpu]") {
  check_requests<gpu::TableFormat<4>, 4>();
  check_requests<gpu::TableFormat<2>, 4>();
  check_requests<gpu::TableFormat<2>, 8>();
  check_requests<gpu::TableFormat<8>, 2>();
  check_requests<gpu::TableFormat<8>, 1, 8192>();
  check_requests<gpu::WindowFormat<7>, 1, 8192>();
  CHECK(gpu::detail::StreamPrefetch<gpu::TableFormat<4>, 4>::ahead * 64 * 64 / 2 == 16 << 10);
  CHECK(gpu::detail::StreamPrefetch<gpu::TableFormat<4>, 1, 8192>::ahead * 64 * 64 / 2 == 8 << 10);
}

// The emulator refuses a request that is not within an allocation: the weights have one of their own.
TEST_CASE("a kernel asks for weights alone, and waits for the kernel in front of it",
          "[matmul][stream_prefetch][gpu]") {
  const emulator::Options before = emulator::options();
  if (emulator::in_use) emulator::options().compute_capability = 90;
  const gpu::Device here = gpu::current_device();
  if (here.architecture >= 90) {
    const auto w = random_matrix<GridCodebook<2, 256>>(200, 1600, 64, 64, 5);
    const gpu::PackedMatrix device(w);
    for (const std::int64_t batch : {2, 9, 40})
      for (const std::int64_t grid : {1, 3}) {
        INFO("M " << batch << ", grid " << grid);
        const Normals<Half> x(batch, 1600, 6);
        gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
        plan.grid = grid;
        plan.overlap_launches = true;
        const auto y = device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan);
        std::vector<double> exact(y.size());
        higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), w,
                                higgs::MatrixView<double>(exact.data(), batch, 200));
        CHECK(relative_error(y, exact) < 3e-4);
      }
  }
  emulator::options() = before;
}

// By the kernel of the list itself: matmul_async would compile all others for 2 bits.
TEST_CASE("an int8 product asks for weights alone, and waits for the kernel in front of it",
          "[matmul][stream_prefetch][gpu]") {
  const emulator::Options before = emulator::options();
  if (emulator::in_use) emulator::options().compute_capability = 90;
  const gpu::Device here = gpu::current_device();
  if (here.architecture >= 90) {
    const auto w = random_matrix<GridCodebook<2, 16>>(200, 1600, 64, 64, 5);
    const gpu::PackedMatrix device(w);
    for (const std::int64_t batch : {2, 9})
      for (const std::int64_t grid : {1, 3}) {
        INFO("M " << batch << ", grid " << grid);
        const Normals<Half> x(batch, 1600, 6);
        const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
        const gpu::DeviceBuffer<float> y(static_cast<std::size_t>(batch * 200));
        gpu::MatmulPlan plan;
        plan.grid = grid;
        plan.overlap_launches = true;
        plan.int8_planes = 2;
        const gpu::MatmulTask<Half, float> task{{device.view(), batch, plan},
                                                gpu::DenseView<const Half>(x_device.data(), batch, 1600),
                                                {},
                                                gpu::DenseView<float>(y.data(), batch, 200),
                                                {}};
        REQUIRE(gpu::Int8Kernel::can(task, here));
        const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(gpu::Int8Kernel::workspace(task, here));
        for (int times = 0; times < 2; ++times)  // the second one begins while the first one may run
          gpu::Int8Kernel::launch<gpu::MatmulFormats<gpu::TableFormat<2>>, gpu::BuiltFor>(
              task, workspace.data(), here, nullptr);
        gpu::check(cudaDeviceSynchronize(), "product");
        std::vector<double> exact(y.size());
        higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), w,
                                higgs::MatrixView<double>(exact.data(), batch, 200));
        CHECK(relative_error(y.to_host(), exact) < 5e-5);
      }
  }
  emulator::options() = before;
}

TEST_CASE("a chain of overlapping launches has the bits of one without, on a stream and in a graph",
          "[matmul][stream_prefetch][gpu]") {
  const emulator::Options before = emulator::options();
  if (emulator::in_use) {
    emulator::options().compute_capability = 90;
    emulator::options().sm_count = 3;
  }
  if (gpu::current_device().architecture >= 90) {
    for (const std::int64_t batch : {2, 9}) {  // x rotated inside the product, and before it
      INFO("M " << batch);
      Chain chain(batch);
      Capture in_order, overlapping;
      chain.begin(in_order.stream);
      chain.run(in_order.stream);
      const auto expected = chain.results(in_order.stream);
      chain.set_overlap(true);
      overlapping.record([&] { chain.run(overlapping.stream); });
      emulator::for_each_schedule(2, [&](std::uint32_t) {
        for (const bool as_graph : {false, true}) {
          chain.begin(overlapping.stream);
          if (as_graph)
            gpu::check(cudaGraphLaunch(overlapping.executable, overlapping.stream), "a chain as a graph");
          else
            chain.run(overlapping.stream);
          REQUIRE(chain.results(overlapping.stream) == expected);
        }
      });
    }
  }
  emulator::options() = before;
}

TEST_CASE("products whose counters are set in front of them are captured under overlapping launches",
          "[matmul][stream_prefetch][gpu]") {
  const emulator::Options before = emulator::options();
  if (emulator::in_use) emulator::options().compute_capability = 90;
  const gpu::Device here = gpu::current_device();
  if (here.architecture >= 90) {
    constexpr std::int64_t batch = 64 * 90, rows = 12 * 128,
                           cols = 64;  // 12 row blocks for each of 90 tiles
    const gpu::PackedMatrix w(random_matrix<Book>(rows, cols, 64, 64, 5));
    gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, here);
    plan.row_warps = 2;
    plan.grid = 1;  // no partial sums, but counters
    plan.overlap_launches = true;
    const gpu::detail::StreamWorkspace parts({w.view(), batch, plan, true}, here);
    CHECK(parts.arrivals > gpu::workspace_counters);
    const auto x = gpu::DeviceBuffer<Half>::zeros(static_cast<std::size_t>(batch * cols));
    const gpu::DeviceBuffer<Half> y(static_cast<std::size_t>(batch * rows));
    const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(parts.bytes());
    const auto multiply = [&](cudaStream_t stream, std::int64_t some) {
      gpu::matmul_rotated_async<Formats>(gpu::DenseView<const Half>(x.data(), some, cols), w.view(),
                                         gpu::DenseView<Half>(y.data(), some, rows), workspace.span(), plan,
                                         here, stream);
    };
    Capture capture;
    multiply(capture.stream, 64);  // loads the kernel
    CHECK_NOTHROW(capture.record([&] { multiply(capture.stream, batch); }));
  }
  emulator::options() = before;
}
