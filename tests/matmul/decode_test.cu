// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/decode.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <span>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

template <class Out, class Book, class Owner = gpu::PackedMatrix>
void check_dequantize(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group) {
  INFO(Book::name() << ", " << rows << " x " << cols << ", block " << block << ", group " << group);
  const auto w = random_matrix<Book>(rows, cols, block, group, 17, true);
  const Owner device(w);
  const gpu::Device here = gpu::current_device();
  const std::int64_t padded = w.layout.padded_cols();
  const gpu::DeviceBuffer<Out> rotated(static_cast<std::size_t>(rows * padded)),
      original(static_cast<std::size_t>(rows * cols));
  const gpu::DeviceBuffer<float> workspace(static_cast<std::size_t>(64 * padded + 3));
  gpu::dequantize_async(device.view(), gpu::DenseView<Out>(rotated.data(), rows, padded), gpu::Basis::Rotated,
                        here, nullptr);
  gpu::dequantize_async(device.view(), gpu::DenseView<Out>(original.data(), rows, cols), gpu::Basis::Original,
                        here, nullptr, workspace.span());
  gpu::check(cudaDeviceSynchronize(), "dequantize_async");

  const higgs::GroupDecoder<Book> points(w.book);
  const std::vector<Out> in_rotated = rotated.to_host(), in_original = original.to_host();
  std::vector<float> row(static_cast<std::size_t>(padded)), all(static_cast<std::size_t>(rows * cols));
  std::vector<higgs::SymbolOf<Book>> codes;
  higgs::dequantize(w, higgs::MatrixView<float>(all.data(), rows, cols));
  std::size_t wrong = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    higgs::decode_groups(w, points, r, 0, w.layout.groups(), row, codes);
    for (std::int64_t c = 0; c < padded; ++c)
      wrong += !(in_rotated[static_cast<std::size_t>(r * padded + c)] ==
                 static_cast<Out>(row[static_cast<std::size_t>(c)]));
  }
  CHECK(wrong == 0);
  for (std::size_t i = 0; i < all.size(); ++i) wrong += !(in_original[i] == static_cast<Out>(all[i]));
  CHECK(wrong == 0);
}

using FourBits = gpu::MatmulFormats<gpu::TableFormat<4>>;

// Several tiles for each warp, in so many random schedules.
void check_schedules(std::uint32_t count) {
  constexpr std::int64_t rows = 130, cols = 256;
  const auto w = random_matrix<GridCodebook<2, 256>>(rows, cols, 256, 256, 19, false);
  const gpu::PackedMatrix device(w);
  const gpu::DeviceBuffer<Half> out(rows * cols);
  gpu::Device here = gpu::current_device();
  here.multiprocessors = 1;
  here.shared_bytes = gpu::LookupTable::end;
  std::vector<Half> first;
  emulator::for_each_schedule(count, [&](std::uint32_t seed) {
    gpu::dequantize_async<FourBits>(device.view(), gpu::DenseView<Half>(out.data(), rows, cols),
                                    gpu::Basis::Rotated, here, nullptr);
    gpu::check(cudaDeviceSynchronize(), "dequantize_async");
    if (seed == 0) first = out.to_host();
    CHECK((out.to_host() == first));
  });
}

}  // namespace

TEST_CASE("dequantized weights are the host's, rounded once, in both bases", "[matmul][decode][gpu]") {
  check_dequantize<Half, GridCodebook<2, 256>>(70, 130, 64, 64);
  check_dequantize<Half, GridCodebook<2, 64>>(3, 300, 60, 20);
  check_dequantize<Half, GridCodebook<4, 256>>(65, 100, 100, 50);
  check_dequantize<Half, GridCodebook<1, 256>>(10, 512, 512, 128);
  check_dequantize<Half, higgs::E8Codebook>(70, 130, 64, 64);
  check_dequantize<Half, higgs::E8Codebook>(3, 300, 60, 20);
  check_dequantize<higgs::BFloat16, GridCodebook<2, 256>>(64, 64, 64, 64);
  check_dequantize<higgs::BFloat16, higgs::E8Codebook>(64, 128, 128, 128);
  check_dequantize<float, GridCodebook<2, 16>>(130, 256, 256, 128);
  check_dequantize<Half, higgs::WindowCode<8>>(70, 256, 256, 128);
  check_dequantize<Half, higgs::WindowCode<5>>(65, 130, 64, 64);
}

TEST_CASE("decoded rows are written in whole sectors without a bank conflict, codes are read once",
          "[matmul][decode][gpu]") {
  if (!emulator::in_use) return;
  const auto count = []<class Book>(Book) {
    constexpr std::int64_t rows = 256, cols = 1024;
    const auto w = random_matrix<Book>(rows, cols, 1024, 1024, 18, false);
    const gpu::PackedMatrix device(w);
    const gpu::DeviceBuffer<Half> out(rows * cols);
    gpu::Device here = gpu::current_device();
    here.multiprocessors = 1;  // so that warps have several tiles
    gpu::dequantize_async(device.view(), gpu::DenseView<Half>(out.data(), rows, cols), gpu::Basis::Rotated,
                          here, nullptr);
    const emulator::Launch& launch = emulator::launches().back();
    const emulator::Counters& c = launch.counters;
    INFO(Book::name() << ": " << c.shared_passes << " passes, " << c.sectors_written << " sectors written");
    CHECK(c.shared_passes == c.shared_passes_ideal);
    CHECK(c.sectors_written == rows * cols * 2 / 32);
    CHECK(c[emulator::Class::GlobalStore] == rows * cols * 2 / 512);
    CHECK(launch.sectors_read(device.view().codes) * 32 ==
          static_cast<std::uint64_t>(device.view().layout.load_count()) * 16);
    CHECK(static_cast<double>(c.shared_passes) <= 52e-3 * rows * cols);  // 47 and filling the table
  };
  count(GridCodebook<2, 256>{});
  count(GridCodebook<2, 16>{});
  count(higgs::E8Codebook{});
  count(higgs::WindowCode<8>{});
}

TEST_CASE("no schedule changes a decoded bit, and warps do not race", "[matmul][decode][gpu]") {
  check_schedules(60);  // a missing barrier of a warp shows in a few of these
}

TEST_CASE("a device without room for the table is refused", "[matmul][decode][gpu]") {
  const auto w = random_matrix<GridCodebook<2, 256>>(64, 64, 64, 64, 19, false);
  const gpu::PackedMatrix device(w);
  gpu::Device here = gpu::current_device();
  here.shared_bytes = gpu::LookupTable::end - 1;
  CHECK_THROWS_WITH(gpu::dequantize_async<FourBits>(device.view(), gpu::DenseView<Half>(nullptr, 64, 64),
                                                    gpu::Basis::Rotated, here, nullptr),
                    Catch::Contains("66559 bytes of shared memory, and needs 66560"));
}

TEST_CASE("dequantizing refuses memory that is not aligned, shared or of another device",
          "[matmul][decode][gpu]") {
  const gpu::PackedMatrix w(random_matrix<GridCodebook<2, 256>>(64, 64, 64, 64, 19, false));
  const gpu::Device here = gpu::current_device();
  const gpu::DeviceBuffer<float> memory(2 * 64 * 64 + 1);
  const auto dequantize = [&](float* out, float* workspace, const gpu::Device& device) {
    gpu::dequantize_async<FourBits>(w.view(), gpu::DenseView<float>(out, 64, 64), gpu::Basis::Original,
                                    device, nullptr, std::span(workspace, 64 * 64));
  };
  float* const out = memory.data();
  CHECK_NOTHROW(dequantize(out, out + 64 * 64, here));
  CHECK_THROWS_WITH(dequantize(out, out + 64 * 64 + 1, here),
                    Catch::Contains("the workspace begins 4 bytes after"));
  CHECK_THROWS_WITH(dequantize(out, out + 64 * 64 - 4, here),
                    Catch::Contains("the workspace and out must not share memory"));
  auto* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(out) + 2);
  CHECK_THROWS_WITH(dequantize(odd, out + 64 * 64 + 4, here), Catch::Contains("out begins 2 bytes after"));
  gpu::Device other = here;
  ++other.id;
  CHECK_THROWS_WITH(dequantize(out, out + 64 * 64, other), Catch::Contains("in the memory of device"));

  const gpu::DeviceCodes codes(random_matrix<GridCodebook<2, 256>>(64, 64, 64, 64, 19, false));
  const gpu::DenseView<float> dense(out, 64, 64);
  CHECK_NOTHROW(gpu::dequantize_async(codes.view(), dense, gpu::Basis::Rotated, here, nullptr));
  CHECK_THROWS_WITH(gpu::dequantize_async(codes.view(), dense, gpu::Basis::Rotated, other, nullptr),
                    Catch::Contains("w is in the memory of device"));
}

TEST_CASE("codebooks without tiles are dequantized from the codes of files", "[matmul][decode][gpu]") {
  check_dequantize<Half, GridCodebook<2, 256>, gpu::DeviceCodes>(66, 130, 64, 64);
  check_dequantize<higgs::BFloat16, GridCodebook<3, 64>, gpu::DeviceCodes>(5, 300, 60, 20);
  check_dequantize<Half, GridCodebook<3, 512>, gpu::DeviceCodes>(5, 300, 60, 20);
  check_dequantize<Half, GridCodebook<8, 256>, gpu::DeviceCodes>(5, 130, 64, 64);
  check_dequantize<Half, higgs::E8Codebook, gpu::DeviceCodes>(5, 130, 64, 64);
}

TEMPLATE_TEST_CASE_SIG("window codes are dequantized from the codes of files, a thread for each symbol",
                       "[matmul][decode][gpu]", ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  check_dequantize<float, higgs::WindowCode<K>, gpu::DeviceCodes>(5, 300, 128, 64);
  check_dequantize<Half, higgs::WindowCode<K>, gpu::DeviceCodes>(3, 2048, 1024, 1024);
  check_dequantize<Half, higgs::WindowCode<K>, gpu::DeviceCodes>(66, 130, 60, 15);  // an odd group
  check_dequantize<higgs::BFloat16, higgs::WindowCode<K>, gpu::DeviceCodes>(5, 64, 4, 2);
}
