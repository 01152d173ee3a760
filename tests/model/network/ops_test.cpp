// SPDX-License-Identifier: Apache-2.0
#include "network/ops.hpp"

#include "architecture/parts.hpp"
#include "model/tiny_model.hpp"
#include "network/transformer.hpp"

#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

using namespace higgs::model;

namespace {

// A matrix of normal numbers.
Matrix some_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Matrix out(rows, cols);
  for (std::size_t i = 0; i < out.values.size(); ++i)
    out.values[i] = static_cast<float>(higgs::random_normal(seed, i));
  return out;
}

double dot(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i)
    sum += static_cast<double>(a.values[i]) * static_cast<double>(b.values[i]);
  return sum;
}

// Half the product of what block 1 makes of `x` with `direction`.
double loss(const Transformer& model, const Matrix& x, const Matrix& direction) {
  KvCache cache(model.config(), x.rows);
  Matrix y = x;
  model.run_blocks(1, 2, y.view(), cache);
  return 0.5 * dot(y, direction);
}

// The slope of the loss where a matrix moves along `step`.
template <class Loss>
double slope(const Matrix& at, const Matrix& step, Loss&& loss_at) {
  constexpr float size = 0x1p-7f;
  Matrix up = at, down = at;
  for (std::size_t i = 0; i < at.values.size(); ++i) {
    up.values[i] += size * step.values[i];
    down.values[i] -= size * step.values[i];
  }
  return (loss_at(up) - loss_at(down)) / (2 * static_cast<double>(size));
}

}  // namespace

TEST_CASE("a tape finds the gradients that differences find, in every family", "[model][ops]") {
  for (const std::string family : {"llama", "qwen2", "qwen3", "granite"}) {
    ModelConfig config = tiny_config(family);
    const TemporaryFolder folder;
    write_folder(folder.path(), config);
    const Transformer model = Transformer::load(ModelSource(folder.path()));
    const Matrix x = some_matrix(9, config.width, 1), direction = some_matrix(9, config.width, 2);

    std::map<const Linear*, Matrix> gradients;  // of the weights, (rows, cols)
    Tape tape([&](const Linear& layer, const Matrix& input, const Matrix& after) {
      Matrix& gradient = gradients[&layer] = Matrix(layer.rows(), layer.cols());
      for (std::int64_t t = 0; t < input.rows; ++t)
        for (std::int64_t r = 0; r < gradient.rows; ++r)
          for (std::int64_t c = 0; c < gradient.cols; ++c)
            gradient.row(r)[c] += after.row(t)[r] * input.row(t)[c];
    });
    KvCache cache(config, 9);
    Ops ops(config, {{&cache, 9}}, higgs::default_executor(), nullptr, &tape);
    const Value before = ops.begin(x.view());
    const Value after = model.run_block(1, before, ops);
    ops.scale(after, 0.5f);
    tape.go_back(after, direction);

    // Differences err by the third derivative times the square of their step, 2^-14; 2 % is far above both that and
    // rounding.
    const auto close = [](double found, double expected, double scale) {
      return std::fabs(found - expected) < 0.02 * scale;
    };
    const Matrix step = some_matrix(9, config.width, 3);
    const double expected = slope(x, step, [&](const Matrix& at) { return loss(model, at, direction); });
    CHECK(close(dot(before->gradient, step), expected, std::sqrt(dot(before->gradient, before->gradient))));
    CHECK(gradients.size() == 7);
    for (const BlockLinear& layer : block_linears(config)) {
      if (layer.block != 1) continue;
      const Matrix& gradient = gradients.at(&layer.in(model.weights));
      const Matrix along = some_matrix(gradient.rows, gradient.cols, 4);
      const double found = slope(*require_dense(layer.in(model.weights), ""), along, [&](const Matrix& at) {
        Transformer moved = model;
        layer.in(moved.weights).weight = share(at);
        return loss(moved, x, direction);
      });
      CAPTURE(family, layer.name, found);
      CHECK(close(dot(gradient, along), found, std::sqrt(dot(gradient, gradient))));
    }
  }
}

TEST_CASE("a tape begins with a text, and takes no second one", "[model][ops]") {
  const ModelConfig config = tiny_config("llama");
  KvCache cache(config, 9);
  cache.advance(3);
  Tape tape([](const Linear&, const Matrix&, const Matrix&) {});
  CHECK_NOTHROW(Ops(config, {{&cache, 2}}, higgs::default_executor()));
  CHECK_THROWS_AS(Ops(config, {{&cache, 2}}, higgs::default_executor(), nullptr, &tape),
                  higgs::InvalidArgument);
  KvCache one(config, 9), other(config, 9);
  CHECK_NOTHROW(Ops(config, {{&one, 2}}, higgs::default_executor(), nullptr, &tape));
  CHECK_THROWS_AS(Ops(config, {{&one, 2}, {&other, 2}}, higgs::default_executor(), nullptr, &tape),
                  higgs::InvalidArgument);
}
