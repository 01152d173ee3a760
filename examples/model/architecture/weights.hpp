// SPDX-License-Identifier: Apache-2.0
// The weights of a model in memory: floats, or quantized matrices in the order that products read.
#pragma once

#include "math/matrix.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cstdint>
#include <span>
#include <variant>
#include <vector>

namespace higgs::model {

/// y = x * weight^T + bias.
struct Linear {
  std::variant<SharedMatrix, PackedMatrix> weight;  // (rows, cols)
  std::vector<float> bias{};                        // (rows), or empty

  std::int64_t rows() const noexcept;
  std::int64_t cols() const noexcept;
  /// x (M, cols), y (M, rows).
  void apply(MatrixView<const float> x, MatrixView<float> y, Executor& executor) const;
};

/// y[i] = x * layers[i]->weight^T + bias with the bits of Linear::apply(). Quantized layers that rotate alike share the
/// rotation of x.
void apply_all(std::span<const Linear* const> layers, MatrixView<const float> x,
               std::span<const MatrixView<float>> y, Executor& executor);

/// The embedding: a row of floats for each token. A quantized one keeps its codes, and decodes the rows that are asked
/// for. A value: copies share the bytes.
struct Embedding {
  std::variant<SharedMatrix, AnyQuantizedMatrix> weight;  // (vocabulary, width)

  std::int64_t rows() const noexcept;
  std::int64_t cols() const noexcept;
  /// Writes row `row` to `out`, cols() floats: of a quantized matrix, that row of dequantize().
  void read_row(std::int64_t row, float* out) const;
};

/// One decoder block, with the members of all families. block_parts() lists the members of a model and their shapes; the
/// others are empty.
struct Block {
  std::vector<float> attention_norm;  // (width)
  std::vector<float> ffn_norm;        // (width)
  std::vector<float> q_norm, k_norm;  // (head_width)
  Linear q, k, v;                     // (query_width or kv_width, width)
  Linear o;                           // (width, query_width)
  Linear gate, up;                    // (ffn_width, width)
  Linear down;                        // (width, ffn_width)
};

/// All weights of a model. A value: a copy shares every matrix, so that variants of a model are cheap.
struct Weights {
  Embedding embedding;  // (vocabulary, width)
  std::vector<Block> blocks;
  std::vector<float> norm;  // (width)
  Linear output;            // (vocabulary, width)
};

/// The floats of a layer that is not quantized. Throws InvalidArgument, in the name of `function`, for one that is.
const SharedMatrix& require_dense(const Linear& layer, const char* function);
const SharedMatrix& require_dense(const Embedding& layer, const char* function);

}  // namespace higgs::model
