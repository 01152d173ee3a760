// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/stream_kernel.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::GridCodebook;
using higgs::Half;
using higgs::WindowCode;
namespace gpu = higgs::gpu;

namespace {

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// For 1000 weights: warp instructions without mov and parameters, and passes of shared memory. Sectors of 32
// bytes beside weights, scales, activations and outputs read or written once.
struct Counts {
  double instructions, passes, ideal_passes, sectors;
};

// The same bits with one launch and with two, which it takes where rows have no alignment.
template <class Book, class X>
void check_rotation(const higgs::CodeLayout& layout, std::int64_t batch, std::int64_t grid) {
  using Formats = gpu::MatmulFormats<typename gpu::FormatOf<Book>::type>;
  INFO(Book::name() << ": M " << batch << ", N " << layout.rows << ", K " << layout.cols);
  const gpu::PackedMatrix w(
      random_matrix<Book>(layout.rows, layout.cols, layout.block, layout.group, 5, batch % 2 == 0));
  const Normals<X> x(batch, layout.cols, 6);
  gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device());
  plan.grid = grid;
  emulator::clear_launches();
  const auto inside = device_product<float, Formats>(w.view(), x, plan);
  if (emulator::in_use) CHECK(emulator::launches().size() == 1);
  plan.rotate_inside = 0;
  const auto before = device_product<float, Formats>(w.view(), x, plan);
  if (emulator::in_use) CHECK(emulator::launches().size() == 3);
  REQUIRE(same_bits(inside, before));
}

template <class Book>
Counts count(const gpu::PackedMatrix& w, std::int64_t batch, bool inside, gpu::Reproducibility sums) {
  constexpr std::int64_t n = 4096;
  constexpr double bits = static_cast<double>(higgs::code_bits<Book>) / Book::dim;
  using Formats = gpu::MatmulFormats<typename gpu::FormatOf<Book>::type>;
  gpu::MatmulPlan plan = gpu::plan_matmul(w.view().layout, gpu::current_device(), sums, batch);
  if (!inside) plan.rotate_inside = 0;
  emulator::clear_launches();
  static_cast<void>(device_product<float, Formats>(w.view(), Normals<Half>(batch, n, 6), plan));
  const emulator::Counters& c = emulator::launches().back().counters;
  const double least =
      (static_cast<double>(n * n) * bits / 8 + static_cast<double>(n * n / 1024 * 2 + batch * n * (2 + 4))) /
      32;
  const auto each = [](std::uint64_t events) { return static_cast<double>(events) / (n * n / 1e3); };
  return {each(c.work()), each(c.shared_passes), each(c.shared_passes_ideal),
          static_cast<double>(c.sectors_read + c.sectors_written) / least};
}

struct Case {
  std::int64_t batch;
  Counts most;
  bool inside = false;  // x is rotated by the same kernel
  gpu::Reproducibility sums = gpu::Reproducibility::PerDevice;
};

template <class Book>
void check_counts(std::initializer_list<Case> cases) {
  const gpu::PackedMatrix w(random_matrix<Book>(4096, 4096, 1024, 1024, 5));
  for (const Case& one : cases) {
    const Counts c = count<Book>(w, one.batch, one.inside, one.sums);
    std::printf("| %s | %lld%s%s | %.1f | %.1f | %.1f | %.2f |\n", Book::name().c_str(),
                static_cast<long long>(one.batch),
                one.sums == gpu::Reproducibility::PerBatch ? " PerBatch" : "",
                one.inside ? " rotated inside" : "", c.instructions, c.passes, c.ideal_passes, c.sectors);
    INFO(Book::name() << ", M = " << one.batch);
    CHECK(c.instructions <= one.most.instructions);
    CHECK(c.passes <= one.most.passes);
    CHECK(c.passes == c.ideal_passes);
    CHECK(c.sectors <= one.most.sectors);
  }
}

}  // namespace

TEST_CASE("no schedule changes a bit, and none has a race", "[matmul][stream_kernel][gpu]") {
  for (const std::int64_t batch : {12, 3, 2, 40}) {
    const std::int64_t block = batch == 3 ? 64 : 320;  // 3 rows are rotated by the product's kernel
    const auto w = random_matrix<GridCodebook<2, 256>>(330, 320, block, 64, 5);
    const gpu::PackedMatrix device(w);
    const Normals<Half> x(batch, 320, 6);
    const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, gpu::current_device());
    std::vector<float> first;
    emulator::for_each_schedule(batch == 12 || batch == 3 ? 20 : 4, [&](std::uint32_t seed) {
      emulator::options().resident_blocks = 1 + seed % 5;
      const auto y = device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan);
      if (seed == 0) first = y;
      REQUIRE(same_bits(y, first));
    });
  }
}

TEST_CASE("rows that the product rotates itself have the bits of rows rotated before",
          "[matmul][stream_kernel][gpu]") {
  check_rotation<GridCodebook<2, 256>, Half>({130, 3400, 64, 64}, 3, 2);  // four chunks, the last one short
  check_rotation<GridCodebook<2, 256>, float>({70, 1024, 1024, 256}, 4, 5);
  check_rotation<GridCodebook<2, 16>, higgs::BFloat16>({300, 2048, 512, 128}, 1, 4);
  check_rotation<GridCodebook<2, 64>, Half>({64, 8, 64, 64}, 2, 1);
  check_rotation<GridCodebook<1, 256>, Half>({65, 320, 64, 64}, 2, 2);
  check_rotation<higgs::E8Codebook, higgs::BFloat16>({65, 1104, 256, 256}, 4, 3);
  check_rotation<WindowCode<5>, higgs::BFloat16>({65, 1104, 256, 256}, 4, 3);
  check_rotation<WindowCode<8>, Half>({130, 3400, 64, 64}, 3, 2);
}

TEST_CASE("a row has the same bits in every batch, and under AcrossDevices on every device",
          "[matmul][stream_kernel][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(260, 640, 128, 128, 5);
  const gpu::PackedMatrix device(w);
  const Normals<Half> x(40, 640, 6);
  std::vector<float> first;
  emulator::for_each_device([&](int multiprocessors) {
    const gpu::Device here = gpu::current_device();
    if (emulator::in_use) REQUIRE(here.multiprocessors == multiprocessors);
    REQUIRE(here.architecture >= 80);
    const auto everywhere = gpu::plan_matmul(device.view().layout, here, gpu::Reproducibility::AcrossDevices);
    const auto y =
        device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, everywhere);
    if (first.empty()) first = y;
    CHECK(same_bits(y, first));

    const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, here);
    const auto all = device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan);
    for (const std::int64_t batch : {1, 5, 9, 17}) {
      Normals<Half> some(batch, 640, 6);
      const auto part =
          device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), some, plan);
      CHECK(same_bits(part, std::vector<float>(all.begin(), all.begin() + batch * 260)));
    }
    if (multiprocessors != 108) return;
    const auto many = device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(
        device.view(), Normals<Half>(130, 640, 6), plan);
    CHECK(same_bits(all, std::vector<float>(many.begin(), many.begin() + 40 * 260)));
  });
}

TEST_CASE("weights are read once and no lookup meets a bank conflict", "[matmul][stream_kernel][gpu]") {
  if (!emulator::in_use) return;
  const auto w = random_matrix<GridCodebook<2, 256>>(512, 2048, 1024, 1024, 5);
  const gpu::PackedMatrix device(w);
  const gpu::MatmulPlan plan = gpu::plan_matmul(device.view().layout, gpu::current_device());
  for (const std::int64_t batch : {1, 8, 16, 32}) {
    const Normals<Half> x(batch, 2048, 6);
    emulator::clear_launches();
    static_cast<void>(device_product<float, gpu::MatmulFormats<gpu::TableFormat<4>>>(device.view(), x, plan));
    const emulator::Counters& c = emulator::launches().back().counters;
    CHECK(c.shared_passes == c.shared_passes_ideal);
    CHECK(c[emulator::Class::Mma] == static_cast<std::uint64_t>(512 * 2048 / 256 * ((batch + 7) / 8)));
    CHECK(c[emulator::Class::LocalMemory] == 0);
    // Weights, their scales once or twice for each block, activations for each row block, the table for each
    // block, sums.
    const std::uint64_t weights = 512 * 2048 / 2 / 32, grid = static_cast<std::uint64_t>(plan.grid);
    const auto rows = static_cast<std::uint64_t>(batch);
    std::uint64_t others = grid * 2 * (4 * 4 * 2 + 256 * rows / 8) + grid * 32 + 2 * rows * 2048 * 2 / 32;
    if (batch == 1) others += grid * 2 * (1024 * 2 / 32 + 4);  // blocks of x that are rotated, and signs
    CHECK(c.sectors_read >= weights);
    CHECK(c.sectors_read <= weights + others);
  }
}

TEST_CASE("a product executes no more instructions, passes and sectors than the table says",
          "[matmul][stream_kernel][counts][gpu]") {
  if (!emulator::in_use) return;
  std::printf("| codebook | M | instructions | passes | conflict-free passes | sectors / least |\n");
  std::printf("|---:|---:|---:|---:|---:|---:|\n");
  constexpr gpu::Reproducibility per_batch = gpu::Reproducibility::PerBatch;
  check_counts<GridCodebook<2, 256>>({{1, {60, 20, 0, 1.1}},
                                      {1, {65.3, 21.2, 0, 1.13}, true},
                                      {2, {72, 22.6, 0, 1.2}, true},
                                      {4, {85, 25.5, 0, 1.34}, true},
                                      {8, {60, 20.3, 0, 1.4}},
                                      {16, {75, 25, 0, 1.75}},
                                      {32, {100, 32, 0, 2.35}},
                                      {64, {145, 45, 0, 3.45}},
                                      {256, {540, 160, 0, 11}},
                                      {256, {490, 151, 0, 9}, false, per_batch}});
  check_counts<GridCodebook<2, 64>>({{1, {75, 25, 0, 1.15}},
                                     {1, {70, 21.2, 0, 1.16}, true},
                                     {8, {75, 25, 0, 1.52}},
                                     {16, {94, 31, 0, 2}},
                                     {32, {125, 40, 0, 2.75}},
                                     {64, {181, 56, 0, 4.1}}});
  check_counts<GridCodebook<2, 16>>({{1, {75, 25, 0, 1.37}},
                                     {1, {49, 21.2, 0, 1.42}, true},
                                     {8, {75, 25, 0, 1.94}},
                                     {16, {94, 31, 0, 2.54}},
                                     {32, {125, 40, 0, 3.6}},
                                     {64, {181, 56, 0, 5.3}}});
  check_counts<higgs::E8Codebook>(
      {{1, {100, 20, 0, 2.05}}, {16, {113, 23, 0, 3.16}}, {32, {136, 28, 0, 4.17}}});
  check_counts<WindowCode<8>>({{1, {105, 20, 0, 1.15}},
                               {1, {109, 21.2, 0, 1.16}, true},
                               {2, {116, 22.6, 0, 1.25}, true},
                               {4, {130, 25.5, 0, 1.4}, true},
                               {8, {105, 20.3, 0, 1.45}},
                               {16, {118, 23, 0, 1.8}},
                               {32, {139, 28, 0, 2.4}},
                               {64, {181, 39, 0, 3.5}}});
  check_counts<WindowCode<6>>({{1, {109, 20, 0, 1.17}},
                               {1, {115, 21.2, 0, 1.21}, true},
                               {8, {111, 20.3, 0, 1.6}},
                               {16, {122, 23, 0, 2}},
                               {64, {186, 39, 0, 4.2}}});
  check_counts<WindowCode<4>>({{1, {107, 20, 0, 1.25}},
                               {1, {112, 21.2, 0, 1.3}, true},
                               {8, {109, 20.3, 0, 1.85}},
                               {16, {120, 23, 0, 2.5}},
                               {64, {184, 39, 0, 5.3}}});
  check_counts<WindowCode<7>>({{1, {108, 20, 0, 1.15}}});
  check_counts<WindowCode<5>>({{1, {110, 20, 0, 1.2}}});
  check_counts<WindowCode<3>>({{1, {110, 20, 0, 2}}});
  check_counts<WindowCode<2>>({{1, {107, 20, 0, 2.5}}});
}
