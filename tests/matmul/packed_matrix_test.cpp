// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "matrices.hpp"

namespace {

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

}  // namespace

TEST_CASE("the tables of a unit hold the coordinates of its codes", "[matmul][packed_matrix]") {
  for_each_book(higgs::ShippedCodebooks{}, [](const auto& book) {
    using Book = std::remove_cvref_t<decltype(book)>;
    const higgs::detail::UnitTables tables = higgs::detail::make_unit_tables(book, higgs::PackedForm::Codes);
    if (tables.kind == higgs::detail::UnitKind::Byte1) {
      for (int unit = 0; unit < 256; ++unit) REQUIRE(tables.bytes[0][unit] == unit);
      return;
    }
    if (tables.kind == higgs::detail::UnitKind::Signed8) return;  // see strip_test.cpp
    const int width = tables.dim / Book::dim, bits = higgs::code_bits<Book>;
    REQUIRE(width * bits == tables.unit_bits);
    for (int unit = 0; unit < 1 << tables.unit_bits; ++unit)
      for (int c = 0; c < tables.dim; ++c) {
        const int code = unit >> c / Book::dim * bits & (Book::size - 1);
        const int expected =
            book.decode(static_cast<typename Book::Index>(code))[static_cast<std::size_t>(c % Book::dim)];
        int bytes = 0;
        for (int plane = 0, weight = 1; plane < tables.planes; ++plane, weight *= 256)
          bytes += weight * (tables.bytes[plane + c][unit] - 128);
        REQUIRE(bytes == expected);
      }
  });
}

TEST_CASE("a tiled matrix keeps its shape, its seed and its size, and copies share the bytes",
          "[matmul][packed_matrix]") {
  const Normals w(70, 300, 1);
  const auto quantized = higgs::Quantizer<2, 64>{}.quantize(w.view);
  const higgs::PackedMatrix tiled{higgs::AnyQuantizedMatrix(quantized)};
  CHECK(tiled.rows() == 70);
  CHECK(tiled.cols() == 300);
  CHECK(tiled.seed() == quantized.seed);
  CHECK(tiled.exponent() == quantized.exponent);
  CHECK(tiled.bytes().size() == static_cast<std::size_t>(tiled.tiles().bytes()));
  const higgs::PackedMatrix copy = tiled;
  CHECK(copy.bytes().data() == tiled.bytes().data());
}

TEST_CASE("a tiled matrix may be made empty, and is empty once it was moved from", "[matmul][packed_matrix]") {
  struct Layer {
    higgs::PackedMatrix q, k;
  };
  std::vector<Layer> layers(3);
  const auto empty = [](const higgs::PackedMatrix& w) {
    return w.rows() == 0 && w.cols() == 0 && w.bytes().empty() && w.input_scales().empty() && !w.seed() &&
           w.first_col() == 0 && w.exponent() == 0;
  };
  CHECK(empty(layers[2].k));
  CHECK(empty(higgs::PackedMatrix(higgs::AnyQuantizedMatrix{})));
  const Normals w(130, 256, 1);
  const auto quantized = higgs::quantize(w.view, "2x256", {.block = 128});
  layers[0].q = higgs::PackedMatrix(quantized, higgs::Shard{0, 130, 128, 128});
  const auto bytes = layers[0].q.bytes();
  layers[1].q = std::move(layers[0].q);
  CHECK(empty(layers[0].q));
  higgs::PackedMatrix last = std::move(layers[1].q);
  CHECK(empty(layers[1].q));
  CHECK(last.rows() == 130);
  CHECK(last.first_col() == 128);
  CHECK(last.bytes().data() == bytes.data());
  auto& self = last;
  last = std::move(self);
  CHECK(last.rows() == 130);
}

TEST_CASE("a matrix whose spans are not those of its layout is refused", "[matmul][packed_matrix]") {
  auto w = random_matrix<higgs::GridCodebook<2, 256>>(3, 64, 64, 32, 1);
  w.codes = w.codes.first(5);
  CHECK_THROWS_WITH(higgs::PackedMatrix(w),
                    Catch::Contains("5 bytes") && Catch::Contains("96") && Catch::Contains("6 scales"));
}

TEST_CASE("coordinates too large for two bytes are refused", "[matmul][packed_matrix]") {
  higgs::GridCodebook<1, 256>::Points points = higgs::GridCodebook<1, 256>{}.points();
  points[255][0] = 32639;
  CHECK_NOTHROW(higgs::detail::make_unit_tables(higgs::GridCodebook<1, 256>(points, 1.0, 0.0),
                                                higgs::PackedForm::Codes));
  points[255][0] = 32640;
  CHECK_THROWS_AS(
      higgs::detail::make_unit_tables(higgs::GridCodebook<1, 256>(points, 1.0, 0.0), higgs::PackedForm::Codes),
      higgs::InvalidArgument);
}
