// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "matrices.hpp"

using higgs::MatrixView;

TEST_CASE("any run of groups decodes to scale * coordinate, rounded once", "[matmul][decode]") {
  using Book = higgs::GridCodebook<4, 256>;
  const Normals w(3, 300, 1);
  const auto quantized = higgs::quantize(w.view, Book{}, {.group = 30});
  const std::int64_t group = quantized.layout.group, groups = quantized.layout.groups();
  const auto each = static_cast<std::size_t>(quantized.layout.codes_per_group(Book::dim));
  const higgs::GroupDecoder<Book> points(quantized.book);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(quantized.layout.codes_per_row(Book::dim))),
      scratch;
  for (std::int64_t row = 0; row < 3; ++row) {
    higgs::unpack_bits(quantized.row_codes(row), 8, 0, std::span(codes));
    for (std::int64_t first = 0; first < groups; first += 3) {
      const std::int64_t count = std::min<std::int64_t>(4, groups - first);
      std::vector<float> out(static_cast<std::size_t>(count * group));
      higgs::decode_groups(quantized, points, row, first, count, out, scratch);
      for (std::int64_t i = 0; i < count * group; ++i) {
        const auto g = static_cast<std::size_t>(first + i / group),
                   within = static_cast<std::size_t>(i % group);
        const double scale = static_cast<double>(static_cast<float>(quantized.row_scales(row)[g]));
        const int coordinate = Book{}.decode(codes[g * each + within / 4])[within % 4];
        REQUIRE(out[static_cast<std::size_t>(i)] ==
                static_cast<float>(std::ldexp(scale * coordinate, quantized.exponent)));
      }
    }
  }
}

TEST_CASE("dequantize undoes the rotation, with and without signs", "[matmul][decode]") {
  const Normals w(130, 384, 2);
  for (const auto seed : {std::optional<std::uint64_t>(), std::optional<std::uint64_t>(9)}) {
    const auto quantized = higgs::quantize(w.view, higgs::GridCodebook<1, 256>{}, {.seed = seed});
    std::vector<float> back(w.data.size());
    higgs::dequantize(higgs::AnyQuantizedMatrix(quantized), MatrixView<float>(back.data(), 130, 384));
    for (std::size_t i = 0; i < back.size(); ++i) REQUIRE(std::fabs(back[i] - w.data[i]) < 0.1);
  }
  CHECK_THROWS_AS(higgs::dequantize(higgs::quantize(w.view, higgs::GridCodebook<1, 4>{}),
                                    MatrixView<float>(nullptr, 384, 130)),
                  higgs::InvalidArgument);
}
