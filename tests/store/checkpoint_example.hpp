// SPDX-License-Identifier: Apache-2.0
// Quantized matrices with made-up codes and scales.
#pragma once

#include <higgs/core/random.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

/// Codes and scales are a function of `seed` and the layout alone.
template <higgs::Codebook Book>
higgs::QuantizedMatrix<Book> example_matrix(const higgs::CodeLayout& layout,
                                            std::optional<std::uint64_t> seed, int exponent = -3,
                                            double t2 = 0.0078125, const Book& book = Book{}) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<higgs::Half> scales, input_scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> out;
  out.layout = layout;
  out.seed = seed;
  out.exponent = exponent;
  out.t2 = t2;
  out.book = book;
  storage->codes.resize(static_cast<std::size_t>(layout.rows * out.row_bytes()));
  storage->scales.resize(static_cast<std::size_t>(layout.rows * layout.groups()));
  const std::uint64_t key = seed.value_or(1);
  for (std::size_t i = 0; i < storage->codes.size(); ++i)
    storage->codes[i] = static_cast<std::uint8_t>(higgs::random_bits(key, i));
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
template <higgs::Codebook Book>
bool same(const higgs::QuantizedMatrix<Book>& a, const higgs::QuantizedMatrix<Book>& b) {
  bool points = true;
  for (int i = 0; i < Book::size; ++i) {
    const auto index = static_cast<typename Book::Index>(i);
    points = points && a.book.decode(index) == b.book.decode(index);
  }
  const bool t2 = a.t2 == b.t2 || (a.t2 != a.t2 && b.t2 != b.t2);
  return points && t2 && a.layout == b.layout && a.seed == b.seed && a.exponent == b.exponent &&
         a.book.step() == b.book.step() && a.book.mse() == b.book.mse() &&
         std::equal(a.codes.begin(), a.codes.end(), b.codes.begin(), b.codes.end()) &&
         std::equal(a.scales.begin(), a.scales.end(), b.scales.begin(), b.scales.end()) &&
         std::equal(a.input_scales.begin(), a.input_scales.end(), b.input_scales.begin(),
                    b.input_scales.end());
}
