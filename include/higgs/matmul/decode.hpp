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
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

/// The points of a codebook as floats: a table made once for many decodes, or, where it would not fit a cache, each point
/// when it is asked for.
template <Codebook Book>
class PointTable {
 public:
  explicit PointTable(const Book& book) : book_(book) {
    if constexpr (tabulated)
      for (std::int64_t i = 0; i < Book::size; ++i)
        points_.push_back(decode(static_cast<typename Book::Index>(i)));
  }
  std::array<float, Book::dim> operator[](typename Book::Index index) const noexcept {
    if constexpr (tabulated) return points_[index];
    return decode(index);
  }

 private:
  static constexpr bool tabulated = Book::size <= 4096;

  std::array<float, Book::dim> decode(typename Book::Index index) const noexcept {
    const typename Book::Point point = book_.decode(index);
    std::array<float, Book::dim> floats;
    std::copy(point.begin(), point.end(), floats.begin());
    return floats;
  }

  Book book_;
  std::vector<std::array<float, Book::dim>> points_;  // (size, dim)
};

/// Decodes groups [first, first + count) of one row into `out` (count * group floats, rotated basis):
/// scale * 2^exponent * coordinate, each product rounded once. `codes` is scratch that the call resizes.
template <Codebook Book>
void decode_groups(const QuantizedMatrix<Book>& w, const PointTable<Book>& points, std::int64_t row,
                   std::int64_t first, std::int64_t count, std::span<float> out,
                   std::vector<typename Book::Index>& codes) {
  const auto group = static_cast<std::size_t>(w.layout.group);
  const auto codes_each = static_cast<std::size_t>(w.layout.codes_per_group(Book::dim));
  codes.resize(static_cast<std::size_t>(count) * codes_each);
  unpack_bits(w.row_codes(row), code_bits<Book>, static_cast<std::size_t>(first) * codes_each,
              std::span<typename Book::Index>(codes));
  const std::span<const Half> scales = w.row_scales(row);
  const float unit = std::ldexp(1.0f, w.exponent);
  constexpr auto dim = static_cast<std::size_t>(Book::dim);
  for (std::size_t g = 0; g < static_cast<std::size_t>(count); ++g) {
    const float scale = static_cast<float>(scales[static_cast<std::size_t>(first) + g]) * unit;
    const typename Book::Index* code = codes.data() + g * codes_each;
    float* to = out.data() + g * group;
    std::size_t i = 0;
    for (; i + dim <= group; i += dim, ++code) {
      const auto point = points[*code];
      for (std::size_t d = 0; d < dim; ++d) to[i + d] = point[d] * scale;
    }
    for (std::size_t d = 0; i + d < group; ++d)
      to[i + d] = points[*code][d] * scale;  // last vector, cut short
  }
}

/// Decodes the whole matrix into `out` (rows, cols), in the basis it was quantized from. For tests, for tools and for
/// batches so large that a dense product is cheaper; matmul() does not need it.
template <Codebook Book>
void dequantize(const QuantizedMatrix<Book>& w, MatrixView<float> out,
                Executor& executor = default_executor()) {
  detail::expect_whole("higgs::dequantize", w);
  expects(out.rows == w.rows() && out.cols == w.cols(), [&] {
    return "higgs::dequantize: out is " + detail::shape_text(out.rows, out.cols) + ", but w is " +
           detail::shape_text(w.rows(), w.cols());
  });
  detail::expect_data("higgs::dequantize", "out", out);
  const PointTable<Book> points(w.book);
  parallel_for(executor, w.rows(), 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(w.layout.padded_cols()));
    std::vector<typename Book::Index> codes;
    for (std::int64_t r = begin; r < end; ++r) {
      decode_groups(w, points, r, 0, w.layout.groups(), row, codes);
      unrotate_row(row, w.layout.block, w.seed);
      for (std::size_t c = 0; c < w.input_scales.size(); ++c) row[c] *= static_cast<float>(w.input_scales[c]);
      for (std::int64_t c = 0; c < out.cols; ++c) out(r, c) = row[static_cast<std::size_t>(c)];
    }
  });
}
inline void dequantize(const AnyQuantizedMatrix& w, MatrixView<float> out,
                       Executor& executor = default_executor()) {
  w.visit([&](const auto& matrix) { dequantize(matrix, out, executor); });
}

}  // namespace v0
}  // namespace higgs
