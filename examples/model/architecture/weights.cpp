// SPDX-License-Identifier: Apache-2.0
#include "architecture/weights.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/matmul.hpp>

#include <algorithm>
#include <string>

namespace higgs::model {
namespace {

// (rows, cols) of what a layer holds; (0, 0) of a layer that is not loaded.
std::int64_t rows_of(const SharedMatrix& matrix) noexcept { return matrix ? matrix->rows : 0; }
std::int64_t cols_of(const SharedMatrix& matrix) noexcept { return matrix ? matrix->cols : 0; }

template <class Layer>
const SharedMatrix& dense(const Layer& layer, const char* function) {
  const auto* matrix = std::get_if<SharedMatrix>(&layer.weight);
  if (!matrix || !*matrix)
    throw InvalidArgument(std::string(function) + ": the model is quantized; it must be dense");
  return *matrix;
}

}  // namespace

std::int64_t Linear::rows() const noexcept {
  if (const auto* dense = std::get_if<SharedMatrix>(&weight)) return rows_of(*dense);
  return std::get<PackedMatrix>(weight).rows();
}

std::int64_t Linear::cols() const noexcept {
  if (const auto* dense = std::get_if<SharedMatrix>(&weight)) return cols_of(*dense);
  return std::get<PackedMatrix>(weight).cols();
}

void Linear::apply(MatrixView<const float> x, MatrixView<float> y, Executor& executor) const {
  if (const auto* quantized = std::get_if<PackedMatrix>(&weight)) {
    matmul(x, *quantized, y, bias, executor);
    return;
  }
  matmul(x, std::get<SharedMatrix>(weight)->view(), y, executor);
  if (bias.empty()) return;
  for (std::int64_t r = 0; r < y.rows; ++r)
    for (std::int64_t c = 0; c < y.cols; ++c) y(r, c) += bias[static_cast<std::size_t>(c)];
}

void apply_all(std::span<const Linear* const> layers, MatrixView<const float> x,
               std::span<const MatrixView<float>> y, Executor& executor) {
  std::vector<Product<float>> products;
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (const auto* quantized = std::get_if<PackedMatrix>(&layers[i]->weight))
      products.push_back({quantized, y[i], layers[i]->bias});
    else
      layers[i]->apply(x, y[i], executor);
  matmul(x, std::span<const Product<float>>(products), executor);
}

std::int64_t Embedding::rows() const noexcept {
  if (const auto* dense = std::get_if<SharedMatrix>(&weight)) return rows_of(*dense);
  return std::get<AnyQuantizedMatrix>(weight).rows();
}

std::int64_t Embedding::cols() const noexcept {
  if (const auto* dense = std::get_if<SharedMatrix>(&weight)) return cols_of(*dense);
  return std::get<AnyQuantizedMatrix>(weight).cols();
}

void Embedding::read_row(std::int64_t row, float* out) const {
  if (const auto* dense = std::get_if<SharedMatrix>(&weight)) {
    std::copy_n((*dense)->row(row), (*dense)->cols, out);
    return;
  }
  std::visit(
      [&](auto one) {  // becomes the matrix of that row alone
        one.codes = one.row_codes(row);
        one.scales = one.row_scales(row);
        one.layout.rows = 1;
        SerialExecutor here;
        dequantize(one, {out, 1, one.cols()}, here);
      },
      std::get<AnyQuantizedMatrix>(weight));
}

const SharedMatrix& require_dense(const Linear& layer, const char* function) {
  return dense(layer, function);
}
const SharedMatrix& require_dense(const Embedding& layer, const char* function) {
  return dense(layer, function);
}

}  // namespace higgs::model
