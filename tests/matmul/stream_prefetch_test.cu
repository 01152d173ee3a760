// SPDX-License-Identifier: Apache-2.0
// Compiled for Hopper: older architectures ask for nothing ahead.
#include <higgs/codes/formats.cuh>
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/stream_prefetch.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

// How often each warp tile is asked for by a warp that multiplies steps [begin, end), whole rounds of them between two
// changes of group.
template <class Format, int Stages>
std::vector<int> requests(int begin, int end, int group) {
  using Prefetch = gpu::detail::StreamPrefetch<Format, Stages>;
  std::vector<int> times(static_cast<std::size_t>(end));
  const auto ask = [&](auto request) {
    for (int i = 0; i < request.count; ++i) ++times.at(static_cast<std::size_t>(request.first + i));
  };
  ask(Prefetch::first_request(begin, end));
  for (int step = begin; step < end;) {
    const int until = std::min(end, (step / group + 1) * group), steps = step + Stages <= until ? Stages : 1;
    ask(Prefetch::next_request(step, steps, end));
    step += steps;
  }
  return times;
}

template <class Format, int Stages>
void check_requests() {
  for (int begin = 0; begin < 9; ++begin)
    for (int end = begin + 1; end < 60; ++end)
      for (const int group : {1, 2, 16, 100}) {
        INFO(Stages << " stages, steps " << begin << " to " << end << ", groups of " << group);
        const std::vector<int> times = requests<Format, Stages>(begin, end, group);
        std::size_t wrong = 0;
        for (int step = 0; step < end; ++step)
          wrong += times[static_cast<std::size_t>(step)] != (step >= begin + Stages ? 1 : 0);
        CHECK(wrong == 0);
      }
}

}  // namespace

TEST_CASE("each warp tile behind the first loads is asked for once, and none beyond the last",
          "[matmul][stream_prefetch][gpu]") {
  check_requests<gpu::TableFormat<4>, 4>();
  check_requests<gpu::TableFormat<2>, 4>();
  check_requests<gpu::TableFormat<8>, 2>();
  check_requests<gpu::WindowFormat<7>, 1>();
  CHECK(gpu::detail::StreamPrefetch<gpu::TableFormat<4>, 4>::ahead * 64 * 64 / 2 == 16 << 10);
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
    for (const std::int64_t batch : {2, 9})
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
