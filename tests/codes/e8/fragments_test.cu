// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/e8/fragments.cuh>

#include <catch2/catch.hpp>

#include <cstdint>

#include "codes/device_fragments.cuh"
#include "emulator/emulator.hpp"
#include "matmul/device_matrices.cuh"

namespace gpu = higgs::gpu;

namespace {

template <class T>
void check_fragments() {
  const higgs::E8Codebook code;
  const auto w = random_matrix<higgs::E8Codebook>(64, 64, 64, 64, 3);
  const gpu::PackedMatrix matrix(w);
  CHECK(wrong_fragments<gpu::E8Format, T>(matrix.view().codes, matrix.view().table, [&](int row, int k) {
          const auto at = static_cast<std::size_t>(row * 8 + k / 8);
          const auto symbol = static_cast<std::uint16_t>(w.codes[2 * at] | w.codes[2 * at + 1] << 8);
          return static_cast<float>(code.decode(symbol)[static_cast<std::size_t>(k % 8)]);
        }) == 0);
  if (!emulator::in_use) return;
  const emulator::Counters& c = emulator::launches().back().counters;
  CHECK(c.shared_passes == c.shared_passes_ideal);
}

}  // namespace

TEST_CASE("E8's fragments hold the coordinates that symbols name, without bank conflicts",
          "[codes][e8][fragments][gpu]") {
  check_fragments<higgs::Half>();
  check_fragments<higgs::BFloat16>();
}
