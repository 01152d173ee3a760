// SPDX-License-Identifier: Apache-2.0
// A tensor of any size, a few rows at a time.
#pragma once

#include "source/source.hpp"

#include <higgs/core/matrix_view.hpp>
#include <higgs/store/mapped_file.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace higgs::model {

/// Calls work(first, rows) for pieces of a tensor, as floats, that fit in memory: rows [first, first + rows.rows).
template <class Work>
void for_pieces(const ModelTensor& tensor, Work&& work) {
  constexpr std::int64_t piece_weights = 1 << 22;  // in memory at once
  const std::int64_t rows =
      std::max<std::int64_t>(1, piece_weights / std::max<std::int64_t>(1, tensor.cols()));
  std::vector<float> values;
  for (std::int64_t first = 0; first < tensor.rows(); first += rows) {
    const std::int64_t count = std::min(rows, tensor.rows() - first);
    values.resize(static_cast<std::size_t>(count * tensor.cols()));
    tensor.read_rows(first, count, values);
    work(first, MatrixView<const float>(values.data(), count, tensor.cols()));
    release_pages(tensor.stored->data);
  }
}

}  // namespace higgs::model
