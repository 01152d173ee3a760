// SPDX-License-Identifier: Apache-2.0
// The weights of a model in memory: dense floats, or quantized matrices in the order that products read.
#pragma once

#include "source/source.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/store/quantized_matrix.hpp>

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
  std::variant<DenseMatrix, PackedMatrix> weight;
  std::vector<float> bias;  // (rows), or empty

  std::int64_t rows() const noexcept;
  std::int64_t cols() const noexcept;
  /// x (M, cols), y (M, rows).
  void apply(MatrixView<const float> x, MatrixView<float> y, Executor& executor) const;
};

/// The embedding: a row of floats for each token. A quantized one keeps its codes, and decodes the rows that are asked
/// for. A value: copies share the bytes.
struct Embedding {
  std::variant<DenseMatrix, AnyQuantizedMatrix> weight;  // (vocabulary, width)

  std::int64_t rows() const noexcept;
  std::int64_t cols() const noexcept;
  /// Writes row `row` to `out`, cols() floats: of a quantized matrix, that row of dequantize().
  void read_row(std::int64_t row, float* out) const;
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
  Embedding embedding;  // (vocabulary, width)
  std::vector<Block> blocks;
  std::vector<float> norm;  // (width)
  Linear output;            // (vocabulary, width)
};

/// The matrices outside of the blocks.
inline constexpr std::string_view embedding_name = "model.embed_tokens.weight",
                                  output_name = "lm_head.weight";
/// "model.layers.3.mlp.up_proj.weight".
std::string weight_name(std::int64_t block, Part part);
/// Whether a tensor of that name is one of the linear layers that quantization is for: neither an embedding,
/// a norm, nor the output layer.
bool is_block_linear(std::string_view name) noexcept;

/// A tensor that a model of some configuration is made of.
struct NeededTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // (rows, cols) of a matrix, (size) of a vector
};
/// All tensors that the forward pass asks for, in the order of the data. Loading asks for these and for no other.
std::vector<NeededTensor> needed_tensors(const ModelConfig& config);
/// What keeps `source` from running with `config`, in a sentence that names the file and the first tensor that is
/// missing, of a wrong shape, of a type that cannot be read, or a vector with a number that is not finite; empty if
/// nothing does. Reads no matrices.
std::string problem_of(const ModelSource& source, const ModelConfig& config);
/// The tensors and layers of a model that the forward pass has no use for, by the names that the file has for them:
/// leftovers of adapters, norms and biases that the architecture lacks, layers beyond the last one. Empty without a
/// configuration.
std::vector<std::string> unused_tensors(const ModelSource& source);

/// Loads block `index` of a model, dense weights as floats. Throws as load_weights() does.
Block load_block(const ModelSource& source, std::int64_t index, Executor& executor = default_executor());
/// The norm after the last block (width).
std::vector<float> load_norm(const ModelSource& source, Executor& executor = default_executor());
/// Loads the weights of a model, dense ones as floats. Throws FormatError, which names file and tensor, for a model
/// that has a problem_of(), and for a weight that is NaN or infinite, by row and column.
Weights load_weights(const ModelSource& source, Executor& executor = default_executor());
/// Reads rows [first, first + count) of a tensor as floats. Throws FormatError, which names file, tensor, row and
/// column, for one that is NaN or infinite.
void read_finite_rows(const ModelTensor& tensor, std::int64_t first, std::int64_t count,
                      std::span<float> out);

}  // namespace higgs::model
