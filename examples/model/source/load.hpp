// SPDX-License-Identifier: Apache-2.0
// Weights in memory from the files of a model, and the problems that prevent it.
#pragma once

#include "architecture/parts.hpp"
#include "architecture/weights.hpp"
#include "source/source.hpp"

#include <higgs/core/executor.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace higgs::model {

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
/// The output layer (vocabulary, width); of a tied model the embedding.
Linear load_output(const ModelSource& source, Executor& executor = default_executor());
/// Loads the weights of a model, dense ones as floats. Throws FormatError, which names file and tensor, for a model
/// that has a problem_of(), and for a weight that is NaN or infinite, by row and column.
Weights load_weights(const ModelSource& source, Executor& executor = default_executor());
/// Reads rows [first, first + count) of a tensor as floats. Throws FormatError, which names file, tensor, row and
/// column, for one that is NaN or infinite.
void read_finite_rows(const ModelTensor& tensor, std::int64_t first, std::int64_t count,
                      std::span<float> out);

}  // namespace higgs::model
