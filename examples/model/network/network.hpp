// SPDX-License-Identifier: Apache-2.0
// A model that a processor runs, the CPU or a GPU: what the commands that measure models call.
#pragma once

#include "architecture/config.hpp"
#include "math/matrix.hpp"
#include "network/kv_cache.hpp"
#include "network/transformer.hpp"
#include "tokenizer/tokenizer.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace higgs::model {

/// A matrix that takes the place of one of a model: floats, or quantized.
using Replacement = std::variant<SharedMatrix, AnyQuantizedMatrix>;

/// Turns hidden states (M, width) into logits (M, vocabulary). It holds the weights that it needs, and checks nothing.
using OutputLayer = std::function<void(MatrixView<const float> hidden, MatrixView<float> logits)>;

/// A model on one processor. Its matrices of states are in host memory. Matrices have the names that Hugging Face gives
/// their weights. Errors of the forward pass are those of Transformer.
class Network {
 public:
  virtual ~Network() = default;

  virtual const ModelConfig& config() const noexcept = 0;
  /// What messages call the model.
  virtual const std::string& name() const noexcept = 0;

  /// What the first block sees of a text: x (tokens, width).
  virtual void embed(std::span<const TokenId> tokens, MatrixView<float> x) = 0;
  /// What blocks [first, last) make of it: x holds the states of all tokens of a text.
  virtual void run_blocks(std::size_t first, std::size_t last, MatrixView<float> x) = 0;
  /// What the output layer sees: hidden (tokens, width), which may be x.
  virtual void finish(MatrixView<const float> x, MatrixView<float> hidden) = 0;
  /// The three steps at once: hidden (tokens, width).
  virtual void forward(std::span<const TokenId> tokens, MatrixView<float> hidden);
  /// The logits that follow each row: hidden (M, width), logits (M, vocabulary). Throws FormatError if one is NaN or
  /// infinite.
  virtual void logits(MatrixView<const float> hidden, MatrixView<float> logits) = 0;
  /// The output layer, for use after this model has changed or is gone.
  virtual OutputLayer output() const = 0;

  /// The floats of a matrix that is not quantized. Throws InvalidArgument, in the name of `function`, for one that is.
  virtual SharedMatrix dense(std::string_view matrix, const char* function) const = 0;
  /// A copy that shares all matrices.
  virtual std::unique_ptr<Network> copy() const = 0;
  /// Puts another matrix in the place of one; biases stay. A tied output layer follows the embedding. Throws
  /// InvalidArgument if the model has no matrix of that name.
  virtual void replace(std::string_view matrix, const Replacement& weight) = 0;
};

/// A Transformer on the CPU. `executor` must outlive this.
class HostNetwork final : public Network {
 public:
  explicit HostNetwork(Transformer model, Executor& executor = default_executor(), KvType kv = KvType::Float);

  const Transformer& model() const noexcept { return model_; }

  const ModelConfig& config() const noexcept override { return model_.config(); }
  const std::string& name() const noexcept override { return model_.name(); }
  void embed(std::span<const TokenId> tokens, MatrixView<float> x) override;
  void run_blocks(std::size_t first, std::size_t last, MatrixView<float> x) override;
  void finish(MatrixView<const float> x, MatrixView<float> hidden) override;
  void logits(MatrixView<const float> hidden, MatrixView<float> logits) override;
  OutputLayer output() const override;
  SharedMatrix dense(std::string_view matrix, const char* function) const override;
  std::unique_ptr<Network> copy() const override;
  void replace(std::string_view matrix, const Replacement& weight) override;

 private:
  Transformer model_;
  Executor& executor_;
  KvType kv_;
  std::optional<KvCache>
      cache_;  // room for the text that run_blocks() saw last; holds no tokens between calls
};

}  // namespace higgs::model
