// SPDX-License-Identifier: Apache-2.0
// The forward pass of a decoder on the CPU, in float.
#pragma once

#include "architecture/config.hpp"
#include "network/weights.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace higgs::model {

/// How keys and values are kept.
enum class KvType { Float, Half };

/// Keys and values of the tokens that a model has read. One text at a time.
class KvCache {
 public:
  /// Room for `capacity` tokens.
  KvCache(const ModelConfig& config, std::int64_t capacity, KvType type = KvType::Float);

  std::int64_t capacity() const noexcept { return capacity_; }
  std::int64_t size() const noexcept { return size_; }
  /// Forgets all tokens from `size` on.
  void truncate(std::int64_t size);

 private:
  friend class Transformer;
  template <class T>
  struct Layer {
    std::vector<T> keys;    // (kv_heads, capacity, head_width)
    std::vector<T> values;  // transposed, as products read rows: (kv_width, capacity)
  };
  std::int64_t capacity_;
  std::int64_t size_ = 0;
  std::vector<std::variant<Layer<float>, Layer<Half>>> layers_;
};

/// Throws InvalidArgument, which names both numbers, unless `token` is one of the `rows` of the embedding of `model`.
void check_token(TokenId token, std::int64_t rows, const std::string& model);

/// A model that can be run. A value: copies share the weights, and `weights` may be replaced layer by layer.
class Transformer {
 public:
  /// `name` stands for the model in messages.
  Transformer(ModelConfig model_config, Weights model_weights, std::string name = "the model");
  /// Loads a model. Throws FormatError or IoError.
  static Transformer load(const ModelSource& source, Executor& executor = default_executor());

  /// Reads `tokens` after those in `cache` and writes what the output layer sees of each: hidden (tokens,
  /// width). Throws InvalidArgument for ids outside the vocabulary and for more tokens than the cache has
  /// room for, and FormatError, with layer and token, where activations become NaN or infinite: a model that is
  /// damaged, or whose numbers exceed floats (in a cache of 16 bits: those).
  void forward(std::span<const TokenId> tokens, KvCache& cache, MatrixView<float> hidden,
               Executor& executor = default_executor()) const;

  /// The steps of forward(), for callers that want the states between blocks: x (tokens, width) is what the
  /// first block sees of the tokens,
  void embed(std::span<const TokenId> tokens, MatrixView<float> x) const;
  /// what blocks [first, last) make of it, after the tokens in `cache`, to which they add no token,
  void run_blocks(std::size_t first, std::size_t last, MatrixView<float> x, KvCache& cache,
                  Executor& executor = default_executor()) const;
  /// and what the output layer sees.
  void finish(MatrixView<const float> x, MatrixView<float> hidden,
              Executor& executor = default_executor()) const;

  /// The logits that follow each row: hidden (M, width), logits (M, vocabulary). Callers with many rows pass
  /// a few at a time, so that memory stays bounded. Throws FormatError if one is NaN or infinite.
  void logits(MatrixView<const float> hidden, MatrixView<float> logits,
              Executor& executor = default_executor()) const;

  const ModelConfig& config() const noexcept { return config_; }
  /// What messages call it: the path that it was loaded from.
  const std::string& name() const noexcept { return name_; }
  /// Cosines and sines of the angles by which the heads at positions [first, first + rows of either) of a text of at
  /// most `capacity` tokens are turned: (positions, head_width / 2) each.
  void rotations(std::int64_t first, std::int64_t capacity, MatrixView<float> cosines,
                 MatrixView<float> sines) const;

  Weights weights;
  /// Called with what linear layers read, where set: once for Q, K and V, which read the same, and once for Gate and Up.
  std::function<void(std::span<const Part> parts, MatrixView<const float> x)> observer;

 private:
  struct Scratch;
  void attend(const Block& block, KvCache& cache, std::size_t layer, MatrixView<float> x, Scratch& scratch,
              Executor& executor) const;
  template <class T>
  void mix_values(const Block& block, KvCache::Layer<T>& layer, std::int64_t past, std::int64_t capacity,
                  Scratch& scratch, Executor& executor) const;
  void observe(std::span<const Part> parts, MatrixView<const float> x) const {
    if (observer) observer(parts, x);
  }
  // Throws FormatError unless all numbers are finite; row 0 is token `past` of the text.
  void check_finite(MatrixView<const float> x, std::size_t layer, std::int64_t past) const;
  void feed_forward(const Block& block, MatrixView<float> x, Scratch& scratch, Executor& executor) const;

  ModelConfig config_;
  std::string name_;
};

}  // namespace higgs::model
