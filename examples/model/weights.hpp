// SPDX-License-Identifier: Apache-2.0
// The weights of a model in memory: dense floats, or quantized matrices in the order that products read.
#pragma once

#include "source.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/matmul/tiled_matrix.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace higgs::model {

/// A matrix of floats, row-major. A value: copies share the floats.
struct DenseMatrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::shared_ptr<const std::vector<float>> values;

  DenseMatrix() = default;
  DenseMatrix(std::int64_t row_count, std::int64_t col_count, std::vector<float> content)
      : rows(row_count),
        cols(col_count),
        values(std::make_shared<const std::vector<float>>(std::move(content))) {}
  MatrixView<const float> view() const noexcept { return {values->data(), rows, cols}; }
};

/// y = x * weight^T + bias.
struct Linear {
  std::variant<DenseMatrix, TiledMatrix> weight;
  std::vector<float> bias;  // (rows), or empty

  std::int64_t rows() const noexcept;
  std::int64_t cols() const noexcept;
  /// x (M, cols), y (M, rows).
  void apply(MatrixView<const float> x, MatrixView<float> y, Executor& executor) const;
};

/// The kinds of linear layers in a decoder block, in the order of the data.
enum class Part { Q, K, V, O, Gate, Up, Down };
inline constexpr Part all_parts[] = {Part::Q, Part::K, Part::V, Part::O, Part::Gate, Part::Up, Part::Down};

/// One decoder block.
struct Block {
  std::vector<float> attention_norm;  // (width)
  std::vector<float> ffn_norm;        // (width)
  std::vector<float> q_norm, k_norm;  // (head_width), or empty
  Linear linear[7];                   // by Part

  Linear& operator[](Part part) noexcept { return linear[static_cast<int>(part)]; }
  const Linear& operator[](Part part) const noexcept { return linear[static_cast<int>(part)]; }
};

/// All weights of a model. A value: a copy shares every matrix, so that variants of a model are cheap.
struct Weights {
  DenseMatrix embedding;  // (vocabulary, width)
  std::vector<Block> blocks;
  std::vector<float> norm;          // (width)
  Linear output;                    // (vocabulary, width)
  std::vector<float> rope_factors;  // (head_width / 2) divisors of the rotary frequencies, or empty
};

/// "model.layers.3.mlp.up_proj.weight".
std::string weight_name(std::int64_t block, Part part);
/// Whether a tensor of that name is one of the linear layers that quantization is for: neither an embedding,
/// a norm, nor the output layer.
bool is_block_linear(std::string_view name) noexcept;

/// Loads block `index` of a model, dense weights as floats. Throws as load_weights() does.
Block load_block(const ModelSource& source, std::int64_t index, Executor& executor = default_executor());
/// Divisors of the rotary frequencies, or empty.
std::vector<float> load_rope_factors(const ModelSource& source, Executor& executor = default_executor());
/// Loads the weights of a model, dense ones as floats. Throws FormatError, which names the tensor that is
/// missing or of the wrong shape.
Weights load_weights(const ModelSource& source, Executor& executor = default_executor());

}  // namespace higgs::model
