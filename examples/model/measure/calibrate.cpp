// SPDX-License-Identifier: Apache-2.0
#include "measure/calibrate.hpp"

#include "architecture/parts.hpp"
#include "measure/evaluate.hpp"
#include "measure/probe.hpp"
#include "network/transformer.hpp"
#include "source/load.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>
#include <utility>

namespace higgs::model {

namespace {

// Adds the squares of each column of x, over the tokens that there are in all.
void add_squares(MatrixView<const float> x, std::int64_t tokens, std::vector<double>& squares) {
  squares.resize(static_cast<std::size_t>(x.cols));
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const auto value = static_cast<double>(x(r, c));
      squares[static_cast<std::size_t>(c)] += value * value / static_cast<double>(tokens);
    }
}

}  // namespace

std::vector<TokenId> calibration_tokens(const ModelSource& source, const std::string& random_or_file,
                                        std::int64_t count) {
  if (random_or_file == "random") return random_tokens(count, source.require_config().vocabulary, 1);
  return read_tokens(random_or_file, Tokenizer(source.vocabulary(), source.path().string()), count);
}

InputSquares measure_inputs(const ModelSource& source, std::span<const TokenId> tokens, std::int64_t window,
                            Executor& executor,
                            const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const ModelConfig& config = source.require_config();
  const auto count = static_cast<std::int64_t>(tokens.size());
  expects(count > 0 && window > 0,
          "higgs::model::measure_inputs: there must be tokens, in windows of at least one");
  const ModelTensor* embedding = source.find(embedding_name);
  if (!embedding)
    throw FormatError(source.path().string() +
                      ": the embedding is quantized already; start from the original model");
  Matrix states(count, config.width);
  for (std::int64_t t = 0; t < count; ++t) {
    const TokenId id = tokens[static_cast<std::size_t>(t)];
    check_token(id, embedding->rows(), source.path().string());
    read_finite_rows(*embedding, id, 1, {states.row(t), static_cast<std::size_t>(config.width)});
  }

  Weights frame;
  frame.blocks.resize(static_cast<std::size_t>(config.layers));
  Transformer model(config, std::move(frame), source.path().string());
  InputSquares out;
  std::map<const Linear*, std::string> names;
  for (const BlockLinear& each : block_linears(config)) names.emplace(&each.in(model.weights), each.name);
  model.observer = [&](std::span<const Linear* const> layers, MatrixView<const float> x) {
    std::vector<double>& squares = out[names.at(layers.front())];
    add_squares(x, count, squares);
    for (const Linear* layer : layers.subspan(1)) out[names.at(layer)] = squares;
  };
  KvCache cache(config, std::min(window, count));  // one window at a time: a block leaves no tokens in it
  for (std::int64_t block = 0; block < config.layers; ++block) {
    const auto index = static_cast<std::size_t>(block);
    model.weights.blocks[index] = load_block(source, block, executor);
    for (std::int64_t first = 0; first < count; first += window)
      model.run_blocks(index, index + 1, states.view().row_range(first, std::min(window, count - first)),
                       cache, executor);
    model.weights.blocks[index] = {};
    if (progress) progress(block + 1, config.layers);
  }
  model.weights.norm = load_norm(source, executor);
  const MatrixView<float> hidden = states.view();
  model.finish(hidden, hidden, executor);
  add_squares(hidden, count, out[std::string(config.tied_embeddings ? embedding_name : output_name)]);
  return out;
}

ColumnStatistics shared_columns(const ModelConfig& config, std::string_view name, Sharing sharing,
                                const std::function<SharedMatrix(std::string_view)>& dense,
                                Executor& executor) {
  const SharedMatrix own = dense(name);
  ColumnStatistics columns(own->cols);
  const std::vector<BlockLinear> layers = sharing_layers(name, sharing);
  if (layers.empty()) columns.add(own->view(), executor);
  for (const BlockLinear& layer : layers)
    if (!layer.part->shape(config).empty())
      columns.add(layer.name == name ? own->view() : dense(layer.name)->view(), executor);
  return columns;
}

}  // namespace higgs::model
