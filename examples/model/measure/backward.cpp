// SPDX-License-Identifier: Apache-2.0
#include "measure/backward.hpp"

#include "math/math.hpp"

#include <higgs/core/random.hpp>
#include <higgs/round/outer_product.hpp>

#include <algorithm>

namespace higgs::model {

Matrix draw_backward(const Transformer& model, const Matrix& hidden, std::uint64_t seed, Matrix& logits,
                     Executor& executor) {
  constexpr std::int64_t rows_at_once = 64;
  const SharedMatrix weights = require_dense(model.weights.output, "higgs::model::draw_backward");
  Matrix out(hidden.rows, hidden.cols);
  for (std::int64_t first = 0; first + 1 < hidden.rows; first += rows_at_once) {
    const std::int64_t rows = std::min(rows_at_once, hidden.rows - 1 - first);
    const MatrixView<float> part = logits.view().row_range(first, rows);
    model.logits(hidden.view().row_range(first, rows), part, executor);
    parallel_for(executor, rows, 1, [&](std::int64_t r, std::int64_t) {
      float* p = part.row(r);
      softmax(p, part.cols);
      double left = random_uniform(seed, static_cast<std::uint64_t>(first + r));
      std::int64_t drawn = 0;
      while (drawn + 1 < part.cols && (left -= static_cast<double>(p[drawn])) > 0) ++drawn;
      p[drawn] -= 1;
    });
    add_outer_products(MatrixView<const float>(part).transposed(), weights->view(),
                       out.view().row_range(first, rows), executor);
  }
  return out;
}

}  // namespace higgs::model
