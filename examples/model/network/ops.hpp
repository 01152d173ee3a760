// SPDX-License-Identifier: Apache-2.0
// The operations that a forward pass is written in. Each has its way back beside it: the same forward pass runs a model,
// and with a Tape it yields the gradients of its linear layers.
#pragma once

#include "architecture/config.hpp"
#include "architecture/weights.hpp"
#include "math/matrix.hpp"
#include "network/kv_cache.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace higgs::model {

/// A matrix that a forward pass computes, a row for each token. On a tape it gets a gradient of the same shape on the way
/// back.
struct Node {
  Matrix value;
  Matrix gradient{};
};
/// A buffer is used again when the last holder of its value is gone. A tape holds the values that its way back needs.
using Value = std::shared_ptr<Node>;

/// Records the steps of one forward pass, and goes back through them.
class Tape {
 public:
  /// Called on the way back for each linear layer with its input (tokens, cols) and the gradient after it (tokens, rows).
  /// The gradient of its weight is after^T * input.
  using OnLinear = std::function<void(const Linear& layer, const Matrix& input, const Matrix& after)>;
  explicit Tape(OnLinear on_linear) : on_linear_(std::move(on_linear)) {}

  /// Adds a step; `back` adds to the gradients before the step, from those after it.
  void record(std::function<void()> back) { steps_.push_back(std::move(back)); }
  /// Goes back from `end`, where the gradient is `gradient`, to the values that the pass began with. Once only: the tape
  /// is empty then.
  void go_back(const Value& end, Matrix gradient);
  void report(const Linear& layer, const Matrix& input, const Matrix& after) const {
    on_linear_(layer, input, after);
  }

 private:
  OnLinear on_linear_;
  std::vector<std::function<void()>> steps_;
};

/// The operations of one forward pass over tokens of one text or several. A matrix has the rows of the first text, then
/// those of the next. A row has the bits that it has when its text is read alone.
class Ops {
 public:
  /// Called with the input of linear layers (tokens, cols), once for all layers that read the same matrix.
  using Observer = std::function<void(std::span<const Linear* const> layers, MatrixView<const float> input)>;

  /// `texts`: each has a cache of its own, with room for its tokens; none where no operation turns heads or mixes tokens.
  /// All arguments and caches must outlive this; `observer` and `tape` may be null. A tape wants one text with an empty
  /// cache of floats.
  Ops(const ModelConfig& config, std::vector<TextPart> texts, Executor& executor,
      const Observer* observer = nullptr, Tape* tape = nullptr);

  /// What messages call the token of a row: "token 5 of the text".
  std::string name_of(std::int64_t row) const;

  /// A value to begin with: a copy of `x`.
  Value begin(MatrixView<const float> x);
  /// x / rms(x) * gain for each piece of a row that is as long as the gain.
  Value norm(const Value& x, const std::vector<float>& gain);
  /// x * weight^T + bias for each of the layers, which read the same.
  template <class... Layers>
  std::array<Value, sizeof...(Layers)> linear(const Value& x, const Layers&... layers) {
    std::array<Value, sizeof...(Layers)> out;
    apply(x, std::array<const Linear*, sizeof...(Layers)>{&layers...}, out);
    return out;
  }
  /// Turns the heads of every row by the angles of its position, in place.
  void rotate(const Value& x);
  /// softmax(scale * q k^T) v of each head, causal and within each text, in block `block`: q (tokens, query_width), k and v
  /// (tokens, kv_width). Keys and values join those in the caches.
  Value attention(std::size_t block, const Value& q, const Value& k, const Value& v, float scale);
  /// silu(gate) * up; the gate's memory is used for it where nothing goes back.
  Value swiglu(const Value& gate, const Value& up);
  /// x + y, in y's memory: no operation but the one that made y may need it.
  Value add(const Value& x, const Value& y);
  /// x * factor in place, if that is not 1: no operation but the one that made x may need it.
  void scale(const Value& x, float factor);

 private:
  struct Pool;
  struct Row {
    std::size_t text;
    std::int64_t position;  // in the text
  };
  // What one task of attention does: some tokens of a text in one head, or one token in all heads that share keys.
  struct Queries {
    std::int64_t row, rows;
    std::int64_t head, heads;
  };
  void plan_attention(std::int64_t row, std::int64_t count);
  Value make(std::int64_t rows, std::int64_t cols);
  void apply(const Value& x, std::span<const Linear* const> layers, std::span<Value> out);
  void store(std::size_t block, MatrixView<const float> k, MatrixView<const float> v);
  template <class T>
  void attend(const KvCache::Layer<T>& layer, const Queries& queries, MatrixView<const float> q, float scale,
              MatrixView<float> out) const;

  const ModelConfig& config_;
  std::vector<TextPart> texts_;
  std::vector<Row> rows_;
  std::vector<Queries> queries_;
  Executor& executor_;
  const Observer* observer_;
  Tape* tape_;
  std::shared_ptr<Pool> pool_;
  Matrix cosines_, sines_;  // (tokens, head_width / 2)
};

/// out = x / rms(x) * gain for each piece of a row that is as long as the gain; `out` may be x.
void norm_rows(MatrixView<const float> x, const std::vector<float>& gain, double epsilon,
               MatrixView<float> out, Executor& executor);
/// A matrix whose rows are the columns of another.
Matrix transposed(MatrixView<const float> in);

}  // namespace higgs::model
