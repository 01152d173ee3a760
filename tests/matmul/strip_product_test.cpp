// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/strip_product.hpp>
#include <higgs/matmul/tiled_matrix.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

using higgs::Activations;
using higgs::Half;
using higgs::Isa;
namespace detail = higgs::detail;

namespace {

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

}  // namespace

// The largest integers there are: all codes decode to the extreme coordinates, all activations are at the limit.
TEST_CASE("no sum overflows: extreme weights times extreme activations are exact",
          "[matmul][strip_product]") {
  const std::int64_t cols = 1024;
  for_each_book(higgs::ShippedCodebooks{}, [&](const auto& book) {
    using Book = std::remove_cvref_t<decltype(book)>;
    int lowest = 0, code = 0;
    for (int i = 0; i < Book::size; ++i) {
      const auto point = book.decode(static_cast<typename Book::Index>(i));
      int sum = 0;
      for (const auto coordinate : point) sum += coordinate;
      if (sum < lowest) lowest = sum, code = i;
    }
    std::vector<typename Book::Index> codes(static_cast<std::size_t>(cols / Book::dim),
                                            static_cast<typename Book::Index>(code));
    std::vector<std::uint8_t> bytes(higgs::packed_bytes(codes.size(), higgs::code_bits<Book>));
    higgs::pack_bits(std::span<const typename Book::Index>(codes), higgs::code_bits<Book>, std::span(bytes));
    const std::vector<Half> scales(1, Half(1.0f));
    higgs::QuantizedMatrix<Book> w;
    w.layout = {.rows = 1, .cols = cols, .block = cols, .group = cols};
    w.book = book;
    w.codes = bytes;
    w.scales = scales;
    const higgs::TiledMatrix tiled(w);

    const std::vector<float> row(static_cast<std::size_t>(cols), -32639.0f);
    for (const Isa isa : {Isa::Portable, Isa::Avx2, Isa::Avx512}) {
      if (isa > higgs::best_isa()) continue;
      for (const int rows : {1, 2, 3}) {  // in registers and decoded
        const detail::QuadOrder order = detail::quad_order(isa);
        const detail::RunShape shape{.groups = 1,
                                     .group = cols,
                                     .padded_group = cols,
                                     .run = 512,
                                     .dim = tiled.tables().dim,
                                     .planes = 2};
        std::vector<std::uint8_t> memory(detail::Panel::bytes(shape, order, rows));
        const detail::Panel panel(shape, order, rows, memory.data());
        for (int m = 0; m < rows; ++m)
          detail::quantize_row(row.data(), shape, Activations::Int16, order, panel, m, isa);
        std::vector<float> sums(static_cast<std::size_t>(rows * 32));
        detail::strip_product({&tiled.tiles(), &tiled.tables(), &shape, tiled.bytes().data()}, &panel, 1,
                              sums.data(), isa);
        const double exact = -32639.0 * lowest * static_cast<double>(cols / Book::dim);
        for (int m = 0; m < rows; ++m)
          // Two runs of two planes at most, each converted, scaled and added with one rounding.
          REQUIRE(std::fabs(double{sums[static_cast<std::size_t>(m * 32)]} - exact) <= exact * 6 * 0x1p-24);
      }
    }
  });
}
