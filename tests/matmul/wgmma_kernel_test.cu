// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.cuh>
#include <higgs/matmul/wgmma_kernel.cuh>
#include <higgs/matmul/wgmma_launch.cuh>

#include <catch2/catch.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::BFloat16;
using higgs::GridCodebook;
using higgs::Half;
using higgs::WindowCode;
namespace gpu = higgs::gpu;

namespace {

// A Hopper GPU with so many multiprocessors while it lives; here(): or a real one.
struct Hopper {
  emulator::Options before = emulator::options();
  explicit Hopper(int multiprocessors) {
    emulator::options().compute_capability = 90;
    emulator::options().sm_count = multiprocessors;
  }
  Hopper(const Hopper&) = delete;
  Hopper& operator=(const Hopper&) = delete;
  ~Hopper() { emulator::options() = before; }
  bool here() const { return gpu::current_device().architecture == 90; }
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// One block for all inputs of its rows, by warpgroup products or by the streaming kernel.
gpu::MatmulPlan unsplit_plan(bool warpgroups) {
  gpu::MatmulPlan plan;
  plan.wgmma_from = warpgroups ? 1 : plan.dense_from;
  plan.rotate_inside = 0;
  return plan;
}

// The sums of both kernels are in the same order, so they are equal where tensor cores add exactly, and close elsewhere.
template <class Book, class X>
void check_product(const higgs::CodeLayout& layout, std::int64_t batch) {
  using Formats = gpu::MatmulFormats<typename gpu::FormatOf<Book>::type>;
  INFO(Book::name() << ": M " << batch << ", N " << layout.rows << ", K " << layout.cols);
  const auto w = random_matrix<Book>(layout.rows, layout.cols, layout.block, layout.group, 5, batch % 2 == 0);
  const gpu::PackedMatrix device(w);
  const Normals<X> x(batch, layout.cols, 6);
  std::vector<float> bias(static_cast<std::size_t>(layout.rows));
  for (std::size_t n = 0; n < bias.size(); ++n) bias[n] = static_cast<float>(n % 7) - 3;
  const std::vector<float> residual(bias.size() * static_cast<std::size_t>(batch), 0.25f);
  emulator::clear_launches();
  const auto y = device_product<float, Formats>(device.view(), x, unsplit_plan(true), bias, residual);
  const auto want = device_product<float, Formats>(device.view(), x, unsplit_plan(false), bias, residual);
  CHECK(relative_error(y, std::vector<double>(want.begin(), want.end())) < 1e-5);
  if (!emulator::in_use) return;
  REQUIRE(emulator::launches().size() >= 4);
  const emulator::Launch& product = emulator::launches()[emulator::launches().size() - 3];
  CHECK(product.kernel.find("wgmma_kernel") != std::string::npos);
  CHECK(product.counters[emulator::Class::LocalMemory] == 0);
  CHECK(product.counters.shared_passes == product.counters.shared_passes_ideal);
  if (emulator::options().mma == emulator::MmaRounding::Exact) CHECK(same_bits(y, want));
}

// A product by the instance for RowTiles alone, with `rows` rows of x at a time and so many splits of the inputs, beside
// the reference.
template <class Book, class X, int RowTiles>
std::vector<float> check_instance(const higgs::CodeLayout& layout, std::int64_t batch, std::int64_t rows,
                                  int splits = 1) {
  using Format = typename gpu::FormatOf<Book>::type;
  INFO(Book::name() << ": M " << batch << ", N " << layout.rows << ", K " << layout.cols);
  const auto w = random_matrix<Book>(layout.rows, layout.cols, layout.block, layout.group, 5, batch % 2 == 0);
  const gpu::PackedMatrix device(w);
  const gpu::Device here = gpu::current_device();
  const Normals<X> x(batch, layout.cols, 6);
  const gpu::DeviceBuffer<X> x_device{std::span<const X>(x.data)};
  gpu::DeviceBuffer<float> y(static_cast<std::size_t>(batch * layout.rows));
  gpu::MatmulTask<X, float> task;
  task.w = device.view();
  task.batch = batch;
  task.plan = unsplit_plan(true);
  task.x = {x_device.data(), batch, layout.cols};
  task.y = {y.data(), batch, layout.rows};
  gpu::detail::WgmmaSplit split(task, here);
  REQUIRE(split.row_tiles == RowTiles);
  split.batch_tiles = gpu::ceil_div(rows, split.columns);
  split.splits = splits;
  split.most_units = split.row_blocks * split.batch_tiles * splits;
  const gpu::detail::WgmmaWorkspace parts(task, split, here);
  auto workspace = gpu::DeviceBuffer<std::byte>::zeros(parts.bytes());
  REQUIRE(gpu::detail::launch_wgmma<Format, gpu::BuiltFor, RowTiles>(task, split, workspace.data(), here,
                                                                     nullptr));
  gpu::check(cudaDeviceSynchronize(), "launch_wgmma");
  std::vector<std::byte> counters(gpu::workspace_counters);
  gpu::check(cudaMemcpy(counters.data(), workspace.data(), counters.size(), cudaMemcpyDeviceToHost),
             "counters");
  CHECK(counters == std::vector<std::byte>(counters.size()));  // ready for the next call
  std::vector<double> exact(static_cast<std::size_t>(batch * layout.rows));
  higgs::matmul_reference(higgs::MatrixView<const X>(x.view), w,
                          higgs::MatrixView<double>(exact.data(), batch, layout.rows));
  const auto out = y.to_host();
  CHECK(relative_error(out, exact) <= (std::is_same_v<X, BFloat16> ? 2.5e-3 : 3e-4));
  return out;
}

// What the last launch took for 1000 weights: warp instructions without mov and parameters, passes of shared memory, and what
// the tensor cores take of these to read activations.
template <class Book>
void print_counts(const gpu::PackedMatrix& w, std::int64_t batch, bool warpgroups, double instructions,
                  double passes) {
  using Formats = gpu::MatmulFormats<typename gpu::FormatOf<Book>::type>;
  const gpu::PackedLayout& layout = w.view().layout;
  gpu::MatmulPlan plan =
      gpu::plan_matmul(layout, gpu::current_device(), gpu::Reproducibility::PerBatch, batch);
  plan.wgmma_from = warpgroups ? 1 : plan.dense_from;
  emulator::clear_launches();
  static_cast<void>(device_product<float, Formats>(w.view(), Normals<Half>(batch, layout.depth(), 6), plan));
  const emulator::Counters& c = emulator::launches().back().counters;
  const auto each = [&](std::uint64_t events) {
    return static_cast<double>(events) / (static_cast<double>(layout.rows * layout.depth()) / 1e3);
  };
  std::printf("| %s | %lld x %lld | %lld | %s | %.1f | %.1f | %.1f | %.2f |\n", Book::name().c_str(),
              static_cast<long long>(layout.rows), static_cast<long long>(layout.depth()),
              static_cast<long long>(batch), warpgroups ? "wgmma" : "mma", each(c.work()),
              each(c.shared_passes), each(c[emulator::Class::Mma]),
              each(c.sectors_read + c.sectors_written) * 32 / 1000);
  CHECK(c.shared_passes == c.shared_passes_ideal);
  CHECK(each(c.work()) <= instructions);
  CHECK(each(c.shared_passes) <= passes);
}

}  // namespace

TEST_CASE("warpgroup products have the bits of the streaming kernel where tensor cores add exactly",
          "[matmul][wgmma_kernel][gpu]") {
  const Hopper hopper(1);
  if (!hopper.here()) return;
  check_product<GridCodebook<2, 256>, Half>({130, 512, 128, 128}, 200);
  check_product<GridCodebook<2, 256>, Half>({300, 320, 64, 64}, 100);
  check_product<GridCodebook<2, 256>, Half>({70, 1024, 1024, 256}, 40);
}

TEST_CASE("warpgroup products of every format are those of the reference", "[matmul][wgmma_kernel][gpu]") {
  const Hopper hopper(132);
  if (!hopper.here()) return;
  check_instance<GridCodebook<2, 16>, Half, 1>({70, 320, 64, 64}, 150, 256);
  check_instance<GridCodebook<2, 64>, BFloat16, 2>({300, 640, 128, 128}, 100, 128);
  check_instance<GridCodebook<1, 256>, Half, 2>({65, 300, 60, 20}, 40, 128);
  check_instance<higgs::E8Codebook, BFloat16, 1>({65, 576, 576, 192}, 129, 256);
  check_instance<higgs::E8Codebook, Half, 2>({520, 256, 256, 256}, 33, 128);
  check_instance<WindowCode<8>, Half, 1>({130, 512, 128, 128}, 300, 256);  // 256 rows, then 44
  check_instance<WindowCode<7>, Half, 2>({65, 320, 64, 64}, 50, 128);
  check_instance<WindowCode<5>, Half, 2>({65, 1104, 256, 256}, 70, 128, 5);
  check_instance<WindowCode<2>, BFloat16, 2>({65, 320, 64, 64}, 1, 128);
}

TEST_CASE("no schedule changes a bit of warpgroup products, and none has a race",
          "[matmul][wgmma_kernel][gpu]") {
  const Hopper hopper(132);
  if (!hopper.here()) return;
  // Rings that are filled more than once, with the inputs split and not.
  for (const std::int64_t batch : {130, 40}) {
    const std::int64_t inputs = batch == 130 ? 832 : 1152;
    const higgs::CodeLayout layout{batch == 130 ? 70 : 300, inputs, 64, 64};
    emulator::options().sm_count = batch == 130 ? 132 : 1;
    std::vector<float> first;
    emulator::for_each_schedule(batch == 130 ? 6 : 3, [&](std::uint32_t seed) {
      emulator::options().resident_blocks = 1 + seed % 3;
      const auto y = batch == 130 ? check_instance<GridCodebook<2, 256>, Half, 1>(layout, batch, 256, 2)
                                  : check_instance<GridCodebook<2, 256>, Half, 2>(layout, batch, 128);
      if (seed == 0) first = y;
      REQUIRE(same_bits(y, first));
    });
  }
}

TEST_CASE(
    "warpgroup products keep their bounds however tensor cores round sums, with equal bits in every schedule",
    "[matmul][wgmma_kernel][gpu]") {
  const Hopper hopper(132);
  if (!hopper.here()) return;
  const higgs::CodeLayout layout{70, 448, 64, 64};
  std::vector<float> exact;
  emulator::for_each_mma_rounding([&](emulator::MmaRounding rounding) {
    std::vector<float> first;
    emulator::for_each_schedule(1, [&](std::uint32_t seed) {
      const auto y = check_instance<GridCodebook<2, 256>, Half, 1>(layout, 130, 256, 2);
      if (seed == 0) first = y;
      REQUIRE(same_bits(y, first));
    });
    if (rounding == emulator::MmaRounding::Exact) exact = first;
    CHECK(same_bits(first, exact) == (rounding == emulator::MmaRounding::Exact));
  });
  if (emulator::in_use) emulator::options().mma = emulator::MmaRounding::Hopper;
  check_instance<higgs::E8Codebook, BFloat16, 1>({65, 576, 576, 192}, 129, 256);
  check_instance<WindowCode<7>, Half, 2>({65, 320, 64, 64}, 50, 128);
  emulator::options().sm_count = 1;
  check_product<GridCodebook<2, 256>, Half>({70, 1024, 1024, 256}, 40);
}

TEST_CASE("warpgroup products execute no more than the table says",
          "[matmul][wgmma_kernel][counts][.long][gpu]") {
  if (!emulator::in_use) return;
  const Hopper hopper(132);
  std::printf(
      "| codebook | N x K | M | by | instructions | passes | products | bytes of global memory a weight |\n");
  std::printf("|---:|---:|---:|---:|---:|---:|---:|---:|\n");
  const gpu::PackedMatrix four(random_matrix<GridCodebook<2, 256>>(4096, 4096, 1024, 1024, 5));
  print_counts<GridCodebook<2, 256>>(four, 128, false, 290, 80);
  print_counts<GridCodebook<2, 256>>(four, 64, true, 118, 65);
  print_counts<GridCodebook<2, 256>>(four, 128, true, 135, 68);
  print_counts<GridCodebook<2, 256>>(four, 256, true, 190, 130);
  const gpu::PackedMatrix few(random_matrix<GridCodebook<2, 256>>(2048, 1024, 1024, 1024, 5));
  print_counts<GridCodebook<2, 256>>(few, 2048, true, 1600, 1040);
  const gpu::PackedMatrix three(random_matrix<GridCodebook<2, 64>>(1024, 4096, 1024, 1024, 5));
  print_counts<GridCodebook<2, 64>>(three, 256, true, 232, 135);
  const gpu::PackedMatrix two(random_matrix<GridCodebook<2, 16>>(1024, 4096, 1024, 1024, 5));
  print_counts<GridCodebook<2, 16>>(two, 256, true, 211, 135);
  const gpu::PackedMatrix window(random_matrix<WindowCode<8>>(1024, 4096, 1024, 1024, 5));
  print_counts<WindowCode<8>>(window, 256, true, 313, 135);
}
