// SPDX-License-Identifier: Apache-2.0
// From codes back to weights: in the rotated basis, where products are taken, or in the original one.
#pragma once

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Decodes the whole matrix into `out` (rows, cols), in the basis that it was quantized from. For tests, for tools and for
/// batches so large that a dense product is cheaper; matmul() does not need it. Throws InvalidArgument unless out has
/// the shape of w.
template <Code C>
void dequantize(const QuantizedMatrix<C>& w, MatrixView<float> out, Executor& executor = default_executor());
/// The same for a code that is known at run time.
template <std::same_as<AnyQuantizedMatrix> Any>
void dequantize(const Any& w, MatrixView<float> out, Executor& executor = default_executor());

/// Symbols of one group to floats: for a Codebook by a table of its points, made once for many decodes, or point by
/// point where the table would not fit a cache; for a ChainCode by decode_group().
template <Code C>
class GroupDecoder {
 public:
  explicit GroupDecoder(const C& code) : code_(code) {
    if constexpr (tabulated())
      for (std::int64_t i = 0; i < C::size; ++i)
        points_.push_back(to_floats(code.decode(static_cast<SymbolOf<C>>(i))));
  }

  /// out[i] = scale * coordinate i, rounded once; ceil(out.size() / C::dim) symbols.
  void decode(std::span<const SymbolOf<C>> symbols, float scale, std::span<float> out) const {
    if constexpr (ChainCode<C>) {
      std::vector<typename C::Element> values(out.size());
      decode_group(code_, symbols, std::span<typename C::Element>(values));
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(values[i]) * scale;
    } else {
      constexpr std::size_t dim = C::dim;
      const SymbolOf<C>* symbol = symbols.data();
      std::size_t i = 0;
      for (; i + dim <= out.size(); i += dim, ++symbol) {
        const auto point = floats_of(*symbol);
        for (std::size_t d = 0; d < dim; ++d) out[i + d] = point[d] * scale;
      }
      for (std::size_t d = 0; i + d < out.size(); ++d) out[i + d] = floats_of(*symbol)[d] * scale;
    }
  }

 private:
  static constexpr bool tabulated() noexcept {
    if constexpr (Codebook<C>) return C::size <= 4096;
    return false;
  }
  using Floats = std::array<float, C::dim>;

  template <class Point>
  static Floats to_floats(const Point& point) noexcept {
    Floats floats;
    std::copy(point.begin(), point.end(), floats.begin());
    return floats;
  }
  Floats floats_of(SymbolOf<C> symbol) const noexcept {
    if constexpr (tabulated())
      return points_[symbol];
    else
      return to_floats(code_.decode(symbol));
  }

  C code_;
  std::vector<Floats> points_;  // (size), empty where points are decoded one by one
};

/// Decodes groups [first, first + count) of one row into `out` (count * group floats, rotated basis):
/// scale * 2^exponent * coordinate, each product rounded once. `symbols` is scratch that the call resizes.
template <Code C>
void decode_groups(const QuantizedMatrix<C>& w, const GroupDecoder<C>& decoder, std::int64_t row,
                   std::int64_t first, std::int64_t count, std::span<float> out,
                   std::vector<SymbolOf<C>>& symbols) {
  const auto group = static_cast<std::size_t>(w.layout.group);
  const auto each = static_cast<std::size_t>(w.layout.codes_per_group(C::dim));
  symbols.resize(static_cast<std::size_t>(count) * each);
  unpack_bits(w.row_codes(row), code_bits<C>, static_cast<std::size_t>(first) * each,
              std::span<SymbolOf<C>>(symbols));
  const std::span<const Half> scales = w.row_scales(row);
  const float output_scale = std::ldexp(1.0f, w.exponent);
  for (std::size_t g = 0; g < static_cast<std::size_t>(count); ++g)
    decoder.decode(std::span<const SymbolOf<C>>(symbols).subspan(g * each, each),
                   static_cast<float>(scales[static_cast<std::size_t>(first) + g]) * output_scale,
                   out.subspan(g * group, group));
}

template <Code C>
void dequantize(const QuantizedMatrix<C>& w, MatrixView<float> out, Executor& executor) {
  detail::expect_whole("higgs::dequantize", w);
  expects(out.rows == w.rows() && out.cols == w.cols(), [&] {
    return "higgs::dequantize: out is " + detail::shape_text(out.rows, out.cols) + ", but w is " +
           detail::shape_text(w.rows(), w.cols());
  });
  detail::expect_data("higgs::dequantize", "out", out);
  const GroupDecoder<C> decoder(w.book);
  parallel_for(executor, w.rows(), 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(w.layout.padded_cols()));
    std::vector<SymbolOf<C>> codes;
    for (std::int64_t r = begin; r < end; ++r) {
      decode_groups(w, decoder, r, 0, w.layout.groups(), row, codes);
      unrotate_row(row, w.layout.block, w.seed);
      for (std::size_t c = 0; c < w.input_scales.size(); ++c) row[c] *= static_cast<float>(w.input_scales[c]);
      for (std::int64_t c = 0; c < out.cols; ++c) out(r, c) = row[static_cast<std::size_t>(c)];
    }
  });
}
template <std::same_as<AnyQuantizedMatrix> Any>
void dequantize(const Any& w, MatrixView<float> out, Executor& executor) {
  w.visit([&](const auto& matrix) { dequantize(matrix, out, executor); });
}

}  // namespace v0
}  // namespace higgs
