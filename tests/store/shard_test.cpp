// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/grid.hpp>
#include <higgs/core/random.hpp>
#include <higgs/store/shard.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

using Book = higgs::GridCodebook<1, 8>;

TEST_CASE("a shard holds its rows, its columns and their scales, wherever in a byte they begin",
          "[store][shard]") {
  higgs::QuantizedMatrix<Book> w;
  w.layout = {.rows = 5, .cols = 50, .block = 20, .group = 4};
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(5 * w.row_bytes()));
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  std::vector<higgs::Half> scales(5 * 15), input_scales(50);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = higgs::Half(static_cast<float>(i));
  for (std::size_t i = 0; i < input_scales.size(); ++i) input_scales[i] = higgs::Half(static_cast<float>(i));
  w.codes = codes;
  w.scales = scales;
  w.input_scales = input_scales;
  w.t2 = w.weight_error = 0.5;
  const auto code_at = [](const higgs::QuantizedMatrix<Book>& matrix, std::int64_t row, std::size_t i) {
    std::array<std::uint8_t, 1> code{};
    higgs::unpack_bits(matrix.row_codes(row), 3, i, std::span<std::uint8_t>(code));
    return code[0];
  };
  for (const higgs::Shard part : {higgs::Shard{0, 5, 0, 50}, {1, 3, 20, 20}, {2, 3, 40, 10}, {0, 0, 0, 20}}) {
    const higgs::ShardedMatrix<Book> shard(w, part);
    REQUIRE(shard.matrix.rows() == part.rows);
    REQUIRE(shard.matrix.cols() == part.cols);
    REQUIRE((std::isnan(shard.matrix.t2) && std::isnan(shard.matrix.weight_error)));
    REQUIRE(shard.matrix.input_scales.data() == input_scales.data() + part.first_col);
    for (std::int64_t row = 0; row < part.rows; ++row) {
      for (std::int64_t i = 0; i < shard.matrix.layout.padded_cols(); ++i)
        REQUIRE(code_at(shard.matrix, row, static_cast<std::size_t>(i)) ==
                code_at(w, part.first_row + row, static_cast<std::size_t>(part.first_col + i)));
      for (std::size_t g = 0; g < static_cast<std::size_t>(shard.matrix.layout.groups()); ++g)
        REQUIRE(shard.matrix.row_scales(row)[g].bits ==
                w.row_scales(part.first_row + row)[static_cast<std::size_t>(part.first_col / 4) + g].bits);
    }
  }
  for (const higgs::Shard part :
       {higgs::Shard{0, 6, 0, 50}, {-1, 2, 0, 50}, {0, 5, 10, 20}, {0, 5, 0, 30}, {0, 5, 40, 20}})
    CHECK_THROWS_AS((higgs::ShardedMatrix<Book>(w, part)), higgs::InvalidArgument);
}

TEST_CASE("a shard that cannot be says which row or column it is about, and what to do", "[store][shard]") {
  using Catch::Contains;
  higgs::QuantizedMatrix<Book> w;
  w.layout = {.rows = 5, .cols = 1024, .block = 1024, .group = 64};
  const auto shard = [&](const higgs::Shard& part) { return higgs::ShardedMatrix<Book>(w, part); };
  CHECK_THROWS_WITH(shard({0, 5, 0, 512}), Contains("column 512 is not a multiple of the block 1024") &&
                                               Contains("QuantizeOptions::shards"));
  CHECK_THROWS_WITH(shard({0, 5, 512, 512}), Contains("column 512 is not a multiple of the block 1024"));
  CHECK_THROWS_WITH(shard({2, 4, 0, 1024}), Contains("4 rows from row 2") && Contains("has 5"));
  CHECK_THROWS_WITH(shard({0, 5, 512, 1024}),
                    Contains("1024 columns from column 512") && Contains("has 1024"));
  CHECK_THROWS_WITH(shard({}), Contains("0 columns"));
}
