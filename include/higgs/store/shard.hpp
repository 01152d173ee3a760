// SPDX-License-Identifier: Apache-2.0
// Parts of a quantized matrix, for several devices or processes that share a layer.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

/// A part of a matrix: rows (outputs) and columns (inputs), these in whole blocks of the rotation. The
/// products of column shards with their part of x add up to the whole. QuantizeOptions::shards chooses a
/// block that allows so many equal column shards; any rows do.
struct Shard {
  std::int64_t first_row = 0, rows = 0;
  std::int64_t first_col = 0, cols = 0;
};

/// The codes and scales of a shard as a matrix of its own. Its random signs are those of the columns of the whole
/// matrix.
template <Code C>
struct ShardedMatrix {
  QuantizedMatrix<C> matrix;
  std::vector<std::uint8_t> codes;
  std::vector<Half> scales;

  /// Throws InvalidArgument unless the shard lies within `w` and is of whole blocks.
  ShardedMatrix(const QuantizedMatrix<C>& w, const Shard& part) : matrix(w) {
    const CodeLayout& layout = w.layout;
    check(layout, part);
    matrix.t2 = matrix.weight_error = std::numeric_limits<double>::quiet_NaN();  // those were of the whole
    matrix.layout.rows = part.rows;
    matrix.layout.cols = part.cols;
    const std::int64_t first_group = part.first_col / layout.group, groups = matrix.layout.groups();
    const std::int64_t bits = layout.codes_per_group(C::dim) * code_bits<C>;  // bits of a group
    slice_bits(w, part, first_group * bits, groups * bits);
    for (std::int64_t r = 0; r < part.rows; ++r) {
      const std::span<const Half> row = w.row_scales(part.first_row + r);
      scales.insert(scales.end(), row.begin() + first_group, row.begin() + first_group + groups);
    }
    matrix.codes = codes;
    matrix.scales = scales;
    if (!w.input_scales.empty())
      matrix.input_scales = w.input_scales.subspan(static_cast<std::size_t>(part.first_col),
                                                   static_cast<std::size_t>(part.cols));
  }
  ShardedMatrix(const ShardedMatrix&) = delete;
  ShardedMatrix& operator=(const ShardedMatrix&) = delete;

 private:
  static void check(const CodeLayout& layout, const Shard& part) {
    using detail::sentence;
    expects(part.first_row >= 0 && part.rows >= 0 && part.first_row <= layout.rows - part.rows, [&] {
      return sentence("higgs::Shard: ", part.rows, " rows from row ", part.first_row,
                      " on, but the matrix has ", layout.rows);
    });
    expects(part.first_col >= 0 && part.cols > 0 && part.first_col <= layout.cols - part.cols, [&] {
      return sentence("higgs::Shard: ", part.cols, " columns from column ", part.first_col,
                      " on, but the matrix has ", layout.cols, ", and a shard at least one");
    });
    const std::int64_t end = part.first_col + part.cols;
    const auto whole = [&](std::int64_t col) { return col % layout.block == 0 || col == layout.cols; };
    expects(whole(part.first_col) && whole(end), [&] {
      return sentence("higgs::Shard: column ", whole(part.first_col) ? end : part.first_col,
                      " is not a multiple of the block ", layout.block,
                      ", and shards are of whole blocks; quantize with QuantizeOptions::shards = the number "
                      "of shards, or "
                      "with a block that divides their columns");
    });
  }

  /// The bits [first, first + count) of each row, from a byte on.
  void slice_bits(const QuantizedMatrix<C>& w, const Shard& part, std::int64_t first, std::int64_t count) {
    const std::int64_t each = (count + 7) / 8;
    codes.reserve(static_cast<std::size_t>(part.rows * each));
    for (std::int64_t r = 0; r < part.rows; ++r) {
      const std::span<const std::uint8_t> row = w.row_codes(part.first_row + r);
      for (std::int64_t i = 0; i < each; ++i) {
        const auto at = static_cast<std::size_t>(first / 8 + i);
        unsigned two = row[at];
        if (at + 1 < row.size()) two |= unsigned{row[at + 1]} << 8;
        codes.push_back(static_cast<std::uint8_t>(two >> first % 8));
      }
    }
  }
};

}  // namespace v0
}  // namespace higgs
