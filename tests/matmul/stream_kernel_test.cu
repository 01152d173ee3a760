// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/stream_kernel.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace

TEST_CASE("no schedule changes a bit, and none has a race", "[matmul][stream_kernel][gpu]") {
  for (const std::int64_t batch : {12, 2, 40}) {
    const auto w = random_matrix<GridCodebook<2, 256>>(330, 320, 320, 64, 5);
    const gpu::DeviceMatrix device(w);
    const Normals<Half> x(batch, 320, 6);
    const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, gpu::current_device());
    std::vector<float> first;
    emulator::for_each_schedule(batch == 12 ? 20 : 4, [&](std::uint32_t seed) {
      emulator::options().resident_blocks = 1 + seed % 5;
      const auto y = device_product<float, gpu::MatmulBits<4>>(device.view(), x, plan);
      if (seed == 0) first = y;
      REQUIRE(same_bits(y, first));
    });
  }
}

TEST_CASE("a row has the same bits in every batch, and under FixedEverywhere on every device",
          "[matmul][stream_kernel][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(260, 640, 128, 128, 5);
  const gpu::DeviceMatrix device(w);
  const Normals<Half> x(40, 640, 6);
  std::vector<float> first;
  emulator::for_each_device([&](int multiprocessors) {
    const gpu::Device here = gpu::current_device();
    if (emulator::in_use) REQUIRE(here.multiprocessors == multiprocessors);
    const auto everywhere = gpu::plan_matmul(device.view().order, here, gpu::Sums::FixedEverywhere);
    const auto y = device_product<float, gpu::MatmulBits<4>>(device.view(), x, everywhere);
    if (first.empty()) first = y;
    CHECK(same_bits(y, first));

    const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, here);
    const auto all = device_product<float, gpu::MatmulBits<4>>(device.view(), x, plan);
    for (const std::int64_t batch : {1, 5, 9, 17}) {
      Normals<Half> some(batch, 640, 6);
      const auto part = device_product<float, gpu::MatmulBits<4>>(device.view(), some, plan);
      CHECK(same_bits(part, std::vector<float>(all.begin(), all.begin() + batch * 260)));
    }
  });
}

TEST_CASE("weights are read once and no lookup meets a bank conflict", "[matmul][stream_kernel][gpu]") {
  if (!emulator::in_use) return;
  const auto w = random_matrix<GridCodebook<2, 256>>(512, 2048, 1024, 1024, 5);
  const gpu::DeviceMatrix device(w);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().order, gpu::current_device());
  for (const std::int64_t batch : {1, 8, 16, 32}) {
    const Normals<Half> x(batch, 2048, 6);
    emulator::clear_launches();
    static_cast<void>(device_product<float, gpu::MatmulBits<4>>(device.view(), x, plan));
    const emulator::Counters& c = emulator::launches().back().counters;
    CHECK(c.shared_passes == c.shared_passes_ideal);
    CHECK(c[emulator::Class::Mma] == static_cast<std::uint64_t>(512 * 2048 / 256 * ((batch + 7) / 8)));
    CHECK(c[emulator::Class::LocalMemory] == 0);
    // Weights, their scales once or twice for each block, activations for each row block, the table for each
    // block, sums.
    const std::uint64_t weights = 512 * 2048 / 2 / 32, grid = static_cast<std::uint64_t>(plan.grid);
    const std::uint64_t others = grid * 2 * (4 * 4 * 2 + 256 * static_cast<std::uint64_t>(batch) / 8) +
                                 grid * 32 + 2 * static_cast<std::uint64_t>(batch) * 2048 * 2 / 32;
    CHECK(c.sectors_read >= weights);
    CHECK(c.sectors_read <= weights + others);
  }
}
