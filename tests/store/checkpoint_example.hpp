// SPDX-License-Identifier: Apache-2.0
// Quantized matrices with made-up codes and scales.
#pragma once

#include <higgs/core/random.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// How many symbols of a code stand for something.
template <higgs::Code C>
constexpr std::uint64_t symbol_count() {
  if constexpr (higgs::Codebook<C>)
    return static_cast<std::uint64_t>(C::size);
  else
    return std::uint64_t{1} << higgs::code_bits<C>;
}

/// Codes, each of a point, and scales are a function of `seed` and the layout alone.
template <higgs::Code Book>
higgs::QuantizedMatrix<Book> example_matrix(const higgs::CodeLayout& layout,
                                            std::optional<std::uint64_t> seed, int exponent = -3,
                                            double t2 = 0.0078125, const Book& book = Book{}) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<higgs::Half> scales, input_scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> out(book);
  out.layout = layout;
  out.seed = seed;
  out.exponent = exponent;
  out.t2 = t2;
  out.weight_error = 2 * t2;
  storage->codes.resize(static_cast<std::size_t>(layout.rows * out.row_bytes()));
  storage->scales.resize(static_cast<std::size_t>(layout.rows * layout.groups()));
  const std::uint64_t key = seed.value_or(1);
  std::vector<higgs::SymbolOf<Book>> row(static_cast<std::size_t>(layout.codes_per_row(Book::dim)));
  const auto row_bytes = static_cast<std::size_t>(out.row_bytes());
  for (std::size_t r = 0; r < static_cast<std::size_t>(layout.rows); ++r) {
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = static_cast<higgs::SymbolOf<Book>>(higgs::random_bits(key, r * row.size() + i) %
                                                  symbol_count<Book>());
    higgs::pack_bits(std::span<const higgs::SymbolOf<Book>>(row), higgs::code_bits<Book>,
                     std::span(storage->codes).subspan(r * row_bytes, row_bytes));
  }
  for (std::size_t i = 0; i < storage->scales.size(); ++i)
    storage->scales[i] =
        higgs::Half::from_bits(static_cast<std::uint16_t>(higgs::random_bits(key + 1, i) % 0x7c00));
  if (layout.input_scales)
    for (std::int64_t c = 0; c < layout.cols; ++c)
      storage->input_scales.push_back(higgs::Half(0.5f + static_cast<float>(c)));
  out.input_scales = storage->input_scales;
  out.codes = storage->codes;
  out.scales = storage->scales;
  out.owner = std::move(storage);
  return out;
}

/// Whether two matrices hold the same numbers.
template <higgs::Code Book>
bool same(const higgs::QuantizedMatrix<Book>& a, const higgs::QuantizedMatrix<Book>& b) {
  bool points = true;
  if constexpr (higgs::Codebook<Book>) {
    for (std::int64_t i = 0; i < std::min<std::int64_t>(Book::size, 65536); ++i) {
      const auto index = static_cast<typename Book::Index>(i);
      points = points && a.book.decode(index) == b.book.decode(index);
    }
  } else {
    points = a.book.points() == b.book.points();
  }
  const auto equal = [](double x, double y) { return x == y || (x != x && y != y); };
  return points && equal(a.t2, b.t2) && equal(a.weight_error, b.weight_error) && a.layout == b.layout &&
         a.seed == b.seed && a.exponent == b.exponent && a.book.step() == b.book.step() &&
         a.book.mse() == b.book.mse() &&
         std::equal(a.codes.begin(), a.codes.end(), b.codes.begin(), b.codes.end()) &&
         std::equal(a.scales.begin(), a.scales.end(), b.scales.begin(), b.scales.end()) &&
         std::equal(a.input_scales.begin(), a.input_scales.end(), b.input_scales.begin(),
                    b.input_scales.end());
}
