// SPDX-License-Identifier: Apache-2.0
// Where the bytes of a model are, for people and as JSON.
#pragma once

#include "quantize/outline.hpp"
#include "source/source.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace higgs::model {

/// "57.3 MB": three digits, in units of 1000.
std::string with_bytes(std::int64_t bytes);
/// "1 tensor", "3 tensors"; `many` is the plural where an s does not make it.
std::string counted(std::int64_t count, const std::string& one, const std::string& many = "");

/// Tensors of one role, and the bytes that a file spends on them.
struct Share {
  std::int64_t tensors = 0, weights = 0, bytes = 0;
  std::map<std::string, std::int64_t> formats{};  // tensors by codebook or dtype

  void add(std::int64_t weight_count, std::int64_t byte_count, const std::string& format);
  /// For a weight; 0 if there are none.
  double bits() const noexcept;
};

/// The bytes of a model.
struct Sizes {
  Share linear{}, embedding{}, output{},
      rest{};  // by Role; `embedding` is the output layer too if the model is tied
  bool tied = false;
  std::uint64_t file_bytes = 0;  // bytes of all files of weights, headers included

  std::int64_t weights() const noexcept {
    return linear.weights + embedding.weights + output.weights + rest.weights;
  }
  /// Of the whole file, for each weight; 0 if there are none.
  double bits() const noexcept;
  /// One line for each share that is not empty.
  std::vector<std::string> lines() const;
  /// "84.1 MB (84113344 bytes), 5.003 bits a weight".
  std::string total() const;
};

/// Bytes of the codes and scales of a quantized layer.
std::int64_t layer_bytes(const Checkpoint& checkpoint, const CheckpointLayer& layer);
/// The same in bits for a weight.
double bits_of(const Checkpoint& checkpoint, const CheckpointLayer& layer);

/// Bytes of the files that hold the tensors of a model, headers and all.
std::uint64_t file_bytes(const ModelSource& source);

/// What a model takes as it is stored, and what its checkpoint will take.
Sizes sizes_of(const ModelSource& source);
Sizes sizes_of(const ModelSource& source, const Outline& outline);

/// A number as JSON: null if it is NaN, which stands for what is not known.
nlohmann::ordered_json number_or_null(double value);
/// {"bytes": ..., "bits": ..., "weights": ..., "linear": {...}, ...}
nlohmann::ordered_json to_json(const Sizes& sizes);

}  // namespace higgs::model
