// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/strip_product.hpp>
#include <higgs/matmul/packed_matrix.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "strips.hpp"

using higgs::Activations;
using higgs::Half;
using higgs::detail::StripKernel;
namespace detail = higgs::detail;

namespace {

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

// Those that this machine has.
std::vector<StripKernel> kernels() {
  std::vector<StripKernel> out{StripKernel::Portable};
  if (higgs::isa_includes(higgs::best_isa(), higgs::Isa::Neon)) {
    out.push_back(StripKernel::Neon);
    if (higgs::usable_isa(higgs::Isa::NeonDot) == higgs::Isa::NeonDot) out.push_back(StripKernel::NeonDot);
    if (higgs::usable_isa(higgs::Isa::NeonI8mm) == higgs::Isa::NeonI8mm) out.push_back(StripKernel::NeonI8mm);
    return out;
  }
  if (higgs::isa_includes(higgs::best_isa(), higgs::Isa::Avx2)) out.push_back(StripKernel::Avx2);
  if (higgs::usable_isa(higgs::Isa::AvxVnni) == higgs::Isa::AvxVnni) out.push_back(StripKernel::AvxVnni);
  if (higgs::isa_includes(higgs::best_isa(), higgs::Isa::Avx512)) {
    out.push_back(StripKernel::AvxVnniEvex);
    out.push_back(StripKernel::Avx512);
  }
  if (higgs::usable_isa(higgs::Isa::Amx) == higgs::Isa::Amx) out.push_back(StripKernel::Amx);
  return out;
}

}  // namespace

TEST_CASE("all kernels give the same bits for every codebook, number of rows and shape of groups",
          "[matmul][strip_product]") {
  for_each_book(higgs::ShippedCodebooks{}, [&](const auto& book) {
    for (const std::int64_t units : {7, 40, 150}) {  // of a group
      RandomStrip strip(book, units);
      const higgs::PackedLayout& layout = strip.layout;
      const detail::UnitTables& tables = strip.tables;
      for (std::int64_t i = 0; i < 2 * 32; ++i) {
        const Half scale(static_cast<float>(higgs::random_normal(2, static_cast<std::uint64_t>(i))));
        std::memcpy(strip.bytes.data() + i / 32 * layout.group_bytes() + i % 32 * 2, &scale, 2);
      }
      const std::int64_t group = units * tables.dim;
      std::vector<float> x(static_cast<std::size_t>(8 * 2 * group));
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(higgs::random_normal(3, i));
      for (const auto kind : {Activations::Int16, Activations::Int8}) {
        std::vector<float> first;
        for (const StripKernel kernel : kernels()) {
          const detail::RunShape shape{.groups = 2,
                                       .group = group,
                                       .padded_group = detail::padded_group(kernel, layout, tables),
                                       .run = detail::run_inputs(kind),
                                       .dim = tables.dim,
                                       .planes = kind == Activations::Int16 ? 2 : 1};
          for (int rows = 8; rows > 0; --rows) {
            const detail::QuadOrder order = detail::quad_order(kernel);
            const int most = detail::panel_rows(kernel, shape.planes), count = (rows + most - 1) / most;
            const std::size_t bytes = detail::Panel::bytes(shape, order, most);
            std::vector<std::uint8_t> memory(static_cast<std::size_t>(count) * bytes);
            std::vector<detail::Panel> panels;
            for (int i = 0; i < count; ++i)
              panels.emplace_back(shape, order, std::min(most, rows - i * most),
                                  memory.data() + static_cast<std::size_t>(i) * bytes);
            for (int m = 0; m < rows; ++m)
              detail::quantize_row_portable(x.data() + m * 2 * group, shape, kind, order,
                                            panels[static_cast<std::size_t>(m / most)], m % most);
            std::vector<float> sums(static_cast<std::size_t>(rows * 32), 0.5f);
            detail::strip_product({&layout, &tables, &shape, strip.bytes.data()}, panels.data(), count,
                                  sums.data(), kernel);
            if (first.empty()) first = sums;
            INFO(book.name() << ", kernel " << static_cast<int>(kernel) << ", rows " << rows);
            REQUIRE(std::memcmp(sums.data(), first.data(), sums.size() * sizeof(float)) == 0);
          }
        }
      }
    }
  });
}

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
    const higgs::PackedMatrix tiled(w);

    const std::vector<float> row(static_cast<std::size_t>(cols), -32639.0f);
    for (const StripKernel kernel : kernels()) {
      for (const int rows : {1, 2, 3}) {  // in registers and decoded
        const detail::QuadOrder order = detail::quad_order(kernel);
        const detail::RunShape shape{.groups = 1,
                                     .group = cols,
                                     .padded_group = cols,
                                     .run = 512,
                                     .dim = tiled.tables().dim,
                                     .planes = 2};
        std::vector<std::uint8_t> memory(detail::Panel::bytes(shape, order, rows));
        const detail::Panel panel(shape, order, rows, memory.data());
        for (int m = 0; m < rows; ++m)
          detail::quantize_row_portable(row.data(), shape, Activations::Int16, order, panel, m);
        std::vector<float> sums(static_cast<std::size_t>(rows * 32));
        detail::strip_product({&tiled.tiles(), &tiled.tables(), &shape, tiled.bytes().data()}, &panel, 1,
                              sums.data(), kernel);
        const double exact = -32639.0 * lowest * static_cast<double>(cols / Book::dim);
        for (int m = 0; m < rows; ++m)
          // Two runs of two planes at most, each converted, scaled and added with one rounding.
          REQUIRE(std::fabs(double{sums[static_cast<std::size_t>(m * 32)]} - exact) <= exact * 6 * 0x1p-24);
      }
    }
  });
}
