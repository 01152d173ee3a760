// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/window/packed.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/reference.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "cpu/panels.hpp"
#include "matmul/matrices.hpp"

using higgs::WindowCode;
using higgs::cpu::WindowFormat;

namespace {

// Calls visit(WindowCode<K>) for every K.
template <class Visit>
void for_each_window_code(const Visit& visit) {
  [&]<int... K>(std::integer_sequence<int, K...>) {
    (visit(WindowCode<K + 2>()), ...);
  }(std::make_integer_sequence<int, 7>{});
}

// Bit `i` of the stream of a group in one row's lanes, as the comment at the top of the header places it.
template <int K>
unsigned bit_at(const std::uint8_t* lanes, std::int64_t i) {
  const std::int64_t block_bits = 16 * K, blocks = K % 2 + 1, h = K / 2, block = i / block_bits % blocks;
  lanes += i / (block_bits * blocks) * WindowFormat<K>::step_bytes;
  const std::int64_t column = i % block_bits / (4 * K), bit = i % (4 * K);
  if (bit / 8 < h) return lanes[64 * (h * block + bit / 8) + column] >> bit % 8 & 1u;
  return lanes[64 * (K - 1) + column] >> (bit % 8 + 4 * block) & 1u;
}

}  // namespace

TEST_CASE("every bit of a window code is packed at the offset that the header says, the rest is zero",
          "[codes][window]") {
  for_each_window_code([]<int K>(const WindowCode<K>&) {
    for (const std::int64_t count : {1, 3, 4, 16, 32, 41, 64, 71})
      for (const std::int64_t group : {0, 1, 2}) {
        std::vector<std::uint8_t> symbols(static_cast<std::size_t>(3 * count));
        for (std::size_t i = 0; i < symbols.size(); ++i)
          symbols[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i) % (1u << K));
        std::vector<std::uint8_t> row(higgs::packed_bytes(symbols.size(), K));
        higgs::pack_bits(std::span<const std::uint8_t>(symbols), K, std::span(row));
        const std::int64_t each = WindowFormat<K>::step_inputs / 2, steps = (count + each - 1) / each;
        std::vector<std::uint8_t> lanes(static_cast<std::size_t>(steps * WindowFormat<K>::step_bytes));
        WindowFormat<K>::pack_group({row, group * count, count, K}, 1, steps, WindowFormat<K>::step_bytes,
                                    lanes.data());
        for (std::int64_t i = 0; i < steps * each * K; ++i)
          REQUIRE(
              bit_at<K>(lanes.data(), i) ==
              (i < count * K ? symbols[static_cast<std::size_t>(group * count + i / K)] >> i % K & 1u : 0));
      }
  });
}

TEST_CASE("every instruction set decodes window codes as their definition does, from every step on",
          "[codes][window]") {
  for_each_window_code([]<int K>(const WindowCode<K>& code) {
    using Format = WindowFormat<K>;
    const std::int64_t symbols = 256;  // a chunk
    const RandomPanel<WindowCode<K>> panel(code, symbols / 4);
    std::vector<std::vector<std::int8_t>> expected;
    for (std::int64_t row = 0; row < 32; ++row) {
      const std::uint8_t* lane = panel.codes() + row / 16 * (Format::step_bytes / 2) + row % 16 * 4;
      std::vector<std::uint8_t> stream(static_cast<std::size_t>(symbols));
      for (std::int64_t i = 0; i < symbols * K; ++i)
        stream[static_cast<std::size_t>(i / K)] |= static_cast<std::uint8_t>(bit_at<K>(lane, i) << i % K);
      code.decode(stream, expected.emplace_back(static_cast<std::size_t>(2 * symbols)));
    }
    for_each_set([&]<class Set>(Set set) {
      const auto decode = chunk_decoder(set, Format{}, panel.tables);
      const std::int64_t steps = panel.layout.steps_per_group();
      for (std::int64_t first = 0; first < steps; ++first) {
        alignas(64) std::uint8_t out[2 * higgs::cpu::chunk_bytes] = {};
        decode(panel.codes() + first * Format::step_bytes, steps - first, first, out);
        for (std::int64_t row = 0; row < 32; ++row)
          for (std::int64_t i = 0; i < (steps - first) * Format::step_inputs; ++i) {
            INFO(code.name() << ", instruction set " << static_cast<int>(Set::isa) << ", row " << row
                             << ", first step " << first << ", input " << i);
            const std::int64_t at = higgs::cpu::quad_position(i, 8);
            REQUIRE(int{out[at / 4 * 128 + row * 4 + at % 4]} - 128 ==
                    expected[static_cast<std::size_t>(row)]
                            [static_cast<std::size_t>(first * Format::step_inputs + i)]);
          }
      }
    });
  });
}

TEST_CASE(
    "products from packed window codes have the bits of products from their coordinates, also of shards",
    "[codes][window]") {
  for_each_window_code([]<int K>(const WindowCode<K>& code) {
    for (const std::int64_t group : {5, 12, 40, 96, 1024}) {
      const std::int64_t block = group % 5 == 0 ? 160 : group < 512 ? 96 : 1024, cols = 2 * block;
      const auto w = random_matrix<WindowCode<K>>(33, cols, block, group, 1);
      INFO(code.name() << ", groups of " << group);
      const Normals x(9, cols, 2);
      const auto check = [&](const auto& x_part, const higgs::PackedMatrix& packed,
                             const higgs::PackedMatrix& coordinates, const auto& part) {
        REQUIRE(&packed.format() != &coordinates.format());
        std::vector<double> exact(static_cast<std::size_t>(9 * part.rows()));
        higgs::matmul_reference(x_part, part, higgs::MatrixView<double>(exact.data(), 9, part.rows()));
        for (const auto kind : {higgs::Activations::Int16, higgs::Activations::Int8})
          for (const std::int64_t batch : {1, 2, 3, 9}) {
            std::vector<float> y(static_cast<std::size_t>(batch * part.rows())), expected(y.size());
            const auto product = [&](const higgs::PackedMatrix& matrix, std::vector<float>& out,
                                     higgs::Isa isa) {
              higgs::matmul(x_part.row_range(0, batch), matrix,
                            higgs::MatrixView<float>(out.data(), batch, part.rows()), {},
                            higgs::default_executor(), {.activations = kind, .isa = isa});
            };
            product(coordinates, expected, higgs::Isa::Portable);
            double error = 0, norm = 0;
            for (std::size_t i = 0; i < y.size(); ++i) {
              error += std::pow(expected[i] - exact[i], 2);
              norm += std::pow(exact[i], 2);
            }
            REQUIRE(std::sqrt(error / norm) < (kind == higgs::Activations::Int16 ? 2e-4 : 2e-2));
            for (const auto isa : all_isas()) {
              INFO("instruction set " << static_cast<int>(isa) << ", " << batch << " rows");
              product(packed, y, isa);
              REQUIRE(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
            }
          }
      };
      const auto pack = [](const auto& matrix, higgs::PackedForm form) {
        return higgs::PackedMatrix(matrix, higgs::default_executor(), form);
      };
      using enum higgs::PackedForm;
      check(x.view, pack(w, Codes), pack(w, Coordinates), w);
      const higgs::ShardedMatrix<WindowCode<K>> right(w, {.rows = 33, .first_col = block, .cols = block});
      check(x.view.col_range(block, block), pack(right.matrix, Codes), pack(right.matrix, Coordinates),
            right.matrix);
    }
  });
}
