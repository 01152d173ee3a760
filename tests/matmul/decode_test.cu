// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/decode.cuh>
#include <higgs/matmul/decode.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

#include "device_matrices.cuh"

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
