// SPDX-License-Identifier: Apache-2.0
// The definition of the product: decode exactly, rotate and multiply in double. Every fast path is tested against it.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {

/// y = x * W^T for x (M, cols), y (M, rows), in double throughout: slow, obvious, right.
template <class X, Code C>
  requires Scalar<std::remove_const_t<X>>
void matmul_reference(MatrixView<X> x, const QuantizedMatrix<C>& w, MatrixView<double> y) {
  detail::expect_whole("higgs::matmul_reference", w);
  detail::expect_product("higgs::matmul_reference", x, w.rows(), w.cols(), y);
  const CodeLayout& layout = w.layout;
  const auto padded = static_cast<std::size_t>(layout.padded_cols());
  const auto block = static_cast<std::size_t>(layout.block);
  const auto group = static_cast<std::size_t>(layout.group);

  // x: input scales, signs, then each block times the orthonormal Hadamard matrix.
  std::vector<double> rotated(static_cast<std::size_t>(x.rows) * padded);  // (M, padded)
  for (std::int64_t m = 0; m < x.rows; ++m)
    for (std::size_t i = 0; i < padded; ++i) {
      const std::size_t start = i / block * block;
      double sum = 0;
      for (std::size_t j = start; j < start + block && j < static_cast<std::size_t>(x.cols); ++j) {
        const double scale =
            w.input_scales.empty() ? 1.0 : static_cast<double>(static_cast<float>(w.input_scales[j]));
        const double value =
            scale * static_cast<double>(static_cast<float>(x(m, static_cast<std::int64_t>(j))));
        const bool negative = w.seed && (sign_bits(*w.seed, static_cast<std::int64_t>(j)) & 1u) != 0;
        sum += hadamard_sign(layout.block, static_cast<std::int64_t>(i - start),
                             static_cast<std::int64_t>(j - start)) *
               (negative ? -value : value);
      }
      rotated[static_cast<std::size_t>(m) * padded + i] = sum / std::sqrt(static_cast<double>(block));
    }

  std::vector<SymbolOf<C>> codes(static_cast<std::size_t>(layout.codes_per_row(C::dim)));
  std::vector<double> weights(padded);
  std::vector<typename C::Element> coordinates(group);
  const auto codes_each = static_cast<std::size_t>(layout.codes_per_group(C::dim));
  for (std::int64_t n = 0; n < w.rows(); ++n) {
    unpack_bits(w.row_codes(n), code_bits<C>, 0, std::span<SymbolOf<C>>(codes));
    for (std::size_t i = 0; i < padded; i += group) {
      decode_group(w.book, std::span<const SymbolOf<C>>(codes).subspan(i / group * codes_each, codes_each),
                   std::span<typename C::Element>(coordinates));
      const double scale = static_cast<double>(static_cast<float>(w.row_scales(n)[i / group]));
      for (std::size_t k = 0; k < group; ++k)
        weights[i + k] = std::ldexp(scale * static_cast<double>(coordinates[k]), w.exponent);
    }
    for (std::int64_t m = 0; m < x.rows; ++m) {
      double sum = 0;
      for (std::size_t i = 0; i < padded; ++i)
        sum += rotated[static_cast<std::size_t>(m) * padded + i] * weights[i];
      y(m, n) = sum;
    }
  }
}

}  // namespace v0
}  // namespace higgs
