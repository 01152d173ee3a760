// SPDX-License-Identifier: Apache-2.0
#include "quantize/block_rounder.hpp"

#include "architecture/parts.hpp"
#include "model/tiny_model.hpp"
#include "network/transformer.hpp"
#include "quantize/quantize.hpp"

#include <higgs/codes/grid/grid.hpp>
#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/round/feedback_quantizer.hpp>
#include <higgs/round/second_moment.hpp>
#include <higgs/store/checkpoint.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

using namespace higgs::model;

namespace {

struct RoundingStopped {};

// Does the work on this thread, and stops the program after so many pieces of it.
class StoppingExecutor final : public higgs::Executor {
 public:
  explicit StoppingExecutor(std::int64_t runs) : left_(runs) {}
  int width() const noexcept override { return 1; }
  void run(std::int64_t count, higgs::TaskRef task) override {
    if (--left_ < 0) throw RoundingStopped();
    for (std::int64_t i = 0; i < count; ++i) task(i);
  }
  std::int64_t left() const noexcept { return left_; }

 private:
  std::int64_t left_;
};

// Three blocks. Queries have rows enough for input scales, and gate and up have together.
ModelConfig three_blocks() {
  ModelConfig config = tiny_config("llama");
  config.layers = 3;
  config.heads = 22;
  config.ffn_width = 100;
  return config;
}

QuantizeRequest by_second_moments(int tokens = 24) {
  QuantizeRequest request{.codebook = "2x64", .calibrated = true};
  request.second_moments = {.tokens = tiny_text(tokens), .window = 10, .memory = std::int64_t{1} << 30};
  return request;
}

std::string bytes_in(const std::filesystem::path& folder) { return read_file(folder / "model.safetensors"); }

// A matrix as the library rounds it for inputs x (tokens, cols) that come in windows of 10.
template <class Book>
higgs::QuantizedMatrix<Book> rounded_for(higgs::MatrixView<const float> w,
                                         const higgs::ColumnStatistics& columns,
                                         higgs::MatrixView<const float> x, std::vector<std::uint8_t>& codes,
                                         std::vector<higgs::Half>& scales, std::vector<higgs::Half>& factors,
                                         const higgs::Feedback* outputs = nullptr) {
  higgs::SecondMoment moment(w.cols);
  for (std::int64_t first = 0; first < x.rows; first += 10)
    moment.add(x.row_range(first, std::min<std::int64_t>(10, x.rows - first)));
  const higgs::QuantizeOptions options{.statistics = &columns};
  higgs::QuantizedMatrix<Book> out;
  out.layout = higgs::make_layout(w.rows, w.cols, Book::dim, options);
  const auto normalization =
      higgs::make_normalization(columns, out.layout, out.book.step(), moment.mean_squares());
  factors = normalization.input_scales;
  out.exponent = normalization.exponent;
  const higgs::Feedback feedback(moment, out.layout, options.seed, factors, SecondMomentOptions{}.damping);
  codes.resize(static_cast<std::size_t>(w.rows * out.row_bytes()));
  scales.resize(static_cast<std::size_t>(w.rows * out.layout.groups()));
  const higgs::FeedbackQuantizer<Book> quantizer(out.book, out.layout, options.seed, out.exponent, factors,
                                                 feedback);
  if (outputs)
    quantizer.quantize_matrix(w, *outputs, codes, scales);
  else
    quantizer.quantize_rows(w, codes, scales);
  return out;
}

// What the layers of a model read, by the names of their weights.
std::map<std::string, std::vector<float>, std::less<>> inputs_of(const Transformer& model, std::size_t block,
                                                                 const Matrix& states, std::int64_t window,
                                                                 Matrix& after) {
  std::map<std::string, std::vector<float>, std::less<>> out;
  Transformer copy = model;
  copy.observer = [&](std::span<const Linear* const> layers, higgs::MatrixView<const float> x) {
    for (const BlockLinear& each : block_linears(model.config()))
      if (std::ranges::count(layers, &each.in(copy.weights)) > 0)
        out[each.name].insert(out[each.name].end(), x.data, x.data + x.size());
  };
  after = states;
  for (std::int64_t first = 0; first < states.rows; first += window) {
    KvCache cache(model.config(), window);
    copy.run_blocks(block, block + 1, after.view().row_range(first, std::min(window, states.rows - first)),
                    cache);
  }
  return out;
}

}  // namespace

TEST_CASE("a block is rounded for the inputs that the rounded blocks before it give",
          "[model][block_rounder]") {
  const ModelConfig config = three_blocks();
  const TemporaryFolder folder;
  write_folder(folder / "model", config);
  const ModelSource source(folder / "model");
  QuantizeRequest request = by_second_moments();
  request.sharing = GENERATE(Sharing::Alike, Sharing::Fused);
  request.second_moments->gradient_tokens = GENERATE(0, 14);
  const bool both_sides = request.second_moments->gradient_tokens > 0;
  request.codebooks.emplace("model.layers.1.mlp.down_proj.weight", "2x256");
  request.skip = std::regex("layers\\.0\\.self_attn\\.o_proj|layers\\.1\\.self_attn\\.[qkv]_proj");
  quantize_model(source, folder / "out", request);
  const ModelSource written(folder / "out");
  Transformer model = Transformer::load(source);
  Matrix states(24, config.width), after;
  model.embed(request.second_moments->tokens, states.view());
  OutputGradients gradients(source, std::span(request.second_moments->tokens).first(14), 10);
  for (std::size_t block = 0; block < 3; ++block) {
    const auto after_layers =
        gradients.of_block(static_cast<std::int64_t>(block), model.weights.blocks[block]);
    const auto inputs = inputs_of(model, block, states, 10, after);
    std::map<std::string, SharedMatrix> rounded;
    for (const BlockLinear& layer : block_linears(config)) {
      if (layer.block != block || !written.checkpoint()->find_layer(layer.name)) continue;
      INFO(layer.name);
      const std::vector<float>& x = inputs.at(layer.name);
      const SharedMatrix dense = require_dense(layer.in(model.weights), "the test");
      higgs::ColumnStatistics columns(dense->cols);
      for (const BlockLinear& each : sharing_layers(layer.name, request.sharing))
        columns.add(require_dense(each.in(model.weights), "the test")->view());
      const auto stored = written.checkpoint()->load(layer.name);
      const auto check = [&]<class Book>(std::type_identity<Book>) {
        std::vector<std::uint8_t> codes;
        std::vector<higgs::Half> scales, factors;
        higgs::SecondMoment moment(dense->rows);
        moment.add(after_layers.at(layer.part->name).view());
        const higgs::Feedback outputs(moment, higgs::Feedback::default_output_damping);
        const auto expected = rounded_for<Book>(dense->view(), columns, {x.data(), 24, dense->cols}, codes,
                                                scales, factors, both_sides ? &outputs : nullptr);
        const auto& matrix = std::get<higgs::QuantizedMatrix<Book>>(stored);
        CHECK(std::ranges::equal(matrix.codes, codes));
        CHECK(std::ranges::equal(matrix.scales, scales));
        CHECK(std::ranges::equal(matrix.input_scales, factors));
        CHECK(matrix.exponent == expected.exponent);
      };
      if (layer.name == "model.layers.1.mlp.down_proj.weight")
        check(std::type_identity<higgs::GridCodebook<2, 256>>());
      else
        check(std::type_identity<higgs::GridCodebook<2, 64>>());
      Matrix decoded(dense->rows, dense->cols);
      higgs::dequantize(stored, decoded.view());
      rounded.emplace(layer.name, share(std::move(decoded)));
    }
    CHECK(rounded.size() == (block == 0 ? 6u : block == 1 ? 4u : 7u));
    for (const BlockLinear& layer : block_linears(config))
      if (rounded.contains(layer.name)) layer.in(model.weights).weight = rounded.at(layer.name);
    inputs_of(model, block, states, 10, after);
    states = after;
  }
  Matrix hidden(24, config.width);
  model.finish(states.view(), hidden.view());
  std::vector<double> squares;
  add_squares(hidden.view(), 24, squares);
  const TinyTensor embedding = tiny_tensor("model.embed_tokens.weight", {40, 24});
  QuantizeRequest plain{.calibrated = true};  // the embedding is the output layer
  plain.skip = std::regex("layers");
  plain.input_squares.emplace("model.embed_tokens.weight", squares);
  quantize_model(source, folder / "plain", plain);
  const auto codes_of = [](const auto& matrix) {
    return std::vector<std::uint8_t>(matrix.codes.begin(), matrix.codes.end());
  };
  const ModelSource embedded(folder / "plain");
  CHECK(written.checkpoint()->load(embedding.name).visit(codes_of) ==
        embedded.checkpoint()->load(embedding.name).visit(codes_of));
}

TEST_CASE("rounding block by block that is killed at any moment ends with the same bytes",
          "[model][block_rounder]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  const ModelSource source(folder / "model");
  QuantizeRequest request = by_second_moments();
  request.second_moments->gradient_tokens = GENERATE(0, 13);
  StoppingExecutor whole(1'000'000);
  const auto expected = quantize_model(source, folder / "whole", request, whole);
  const std::int64_t runs = 1'000'000 - whole.left();
  CHECK(runs > 100);
  std::int64_t resumed = 0;
  for (std::int64_t stop = 0; stop < runs; stop += 1 + runs / 40) {
    INFO(stop << " of " << runs);
    const auto out = folder / ("out" + std::to_string(stop));
    StoppingExecutor stopping(stop);
    CHECK_THROWS_AS(quantize_model(source, out, request, stopping), RoundingStopped);
    CHECK_FALSE(std::filesystem::exists(out / "model.safetensors"));
    QuantizeRequest again = request;
    again.say = [&](const std::string& note) { resumed += note == "goes on after block 1 of 2"; };
    const auto report = quantize_model(source, out, again);
    CHECK(bytes_in(out) == bytes_in(folder / "whole"));
    CHECK((report && report->layers == expected->layers));  // those of the killed run among them
    CHECK(std::distance(std::filesystem::directory_iterator(out), {}) == 3);  // nothing is left over
  }
  CHECK(resumed > 5);
}

TEST_CASE("states of another text, of other options or of other parts are not continued",
          "[model][block_rounder]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", three_blocks());
  const ModelSource source(folder / "model");
  QuantizeRequest first = by_second_moments();
  first.options.block = 12;
  std::vector<QuantizeRequest> others(8, first);
  others[0].second_moments->tokens.back() = 1;
  others[1].second_moments->window = 12;
  others[2].skip = std::regex("layers\\.0");
  others[3].codebooks.emplace("model.layers.0.mlp.up_proj.weight", "2x256");
  others[4].calibrated = false;
  others[5].second_moments->memory = 150'000;  // diagonal parts
  others[6].second_moments->gradient_tokens = 12;
  others[7].second_moments->damping = 0.2;
  for (std::size_t i = 0; i < others.size(); ++i) {
    INFO(i);
    const auto out = folder / ("out" + std::to_string(i));
    QuantizeRequest stopped = first;
    stopped.second_moments->progress = [](std::int64_t done, std::int64_t) {
      if (done == 1) throw RoundingStopped();  // with block 0 left alone, states may look usable
    };
    CHECK_THROWS_AS(quantize_model(source, out, stopped), RoundingStopped);
    const auto report = quantize_model(source, out, others[i]);
    CHECK((report && report->blocks == 3));
    quantize_model(source, folder / "whole", others[i]);
    const bool equal = bytes_in(out) == bytes_in(folder / "whole");
    CHECK(equal);
  }
}

TEST_CASE("matrices that only look like layers of a block are rounded to the nearest",
          "[model][block_rounder]") {
  const ModelConfig config = tiny_config("llama");
  std::vector<TinyTensor> tensors = tiny_tensors(config);
  const std::vector<std::string> others{"model.layers.0.adapter.mlp.up_proj.weight",
                                        "model.layers.x.mlp.up_proj.weight",
                                        "model.layers.9.mlp.up_proj.weight"};
  for (const std::string& name : others) tensors.push_back(tiny_tensor(name, {36, 24}));
  const TemporaryFolder folder;
  write_folder(folder / "model", config, tensors);
  QuantizeRequest request = by_second_moments();
  request.second_moments->gradient_tokens = 12;
  const ModelSource source(folder / "model");
  const auto report = quantize_model(source, folder / "out", request);
  REQUIRE(report);
  CHECK(report->layers.size() == 14);
  const ModelSource written(folder / "out");
  const auto moments = divide_moments(outline_of(source, request), std::int64_t{1} << 30, true);
  CHECK(moments.outputs.size() == 7);
  for (const std::string& name : others) {
    INFO(name);
    CHECK_FALSE(report->layers.contains(name));
    CHECK(written.checkpoint()->find_layer(name));
  }
}

TEST_CASE("a run that names no memory goes on with that of the killed one", "[model][block_rounder]") {
  const TemporaryFolder folder;
  write_folder(folder / "model", three_blocks());
  const ModelSource source(folder / "model");
  QuantizeRequest request = by_second_moments();
  request.options.block = 12;
  request.second_moments->memory = 150'000;
  std::vector<std::string> notes;
  request.say = [&](const std::string& note) { notes.push_back(note); };
  quantize_model(source, folder / "whole", request);
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], Catch::Contains("parts") && Catch::Contains("model.layers.0."));
  request.second_moments->progress = [](std::int64_t done, std::int64_t) {
    if (done == 1) throw RoundingStopped();
  };
  CHECK_THROWS_AS(quantize_model(source, folder / "out", request), RoundingStopped);
  request.second_moments->progress = {};
  request.second_moments->memory.reset();
  const auto report = quantize_model(source, folder / "out", request);
  REQUIRE(report);
  CHECK(report->blocks == 2);
  CHECK(report->memory == 150'000);
  CHECK(bytes_in(folder / "out") == bytes_in(folder / "whole"));
}

TEST_CASE("matrices that read only zeros are rounded to the nearest, which is said once",
          "[model][block_rounder]") {
  const ModelConfig config = tiny_config("llama");
  std::vector<TinyTensor> tensors = tiny_tensors(config);
  for (TinyTensor& tensor : tensors)
    if (tensor.name == "model.layers.1.input_layernorm.weight") std::ranges::fill(tensor.values, 0.0f);
  const TemporaryFolder folder;
  write_folder(folder / "model", config, tensors);
  QuantizeRequest request = by_second_moments();
  request.embedding = "none";
  std::vector<std::string> notes;
  request.say = [&](const std::string& note) { notes.push_back(note); };
  const auto run = [&] { return quantize_model(ModelSource(folder / "model"), folder / "out", request); };
  const auto report = run();
  REQUIRE(report);
  CHECK(report->silent.size() ==
        4);  // queries, keys and values read zeros; values of zeros are mixed to zeros
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], Catch::Contains("4 matrices") && Catch::Contains(report->silent[0]));
  for (const auto& [name, layer] : report->layers)
    CHECK((layer.silent != 0) == (std::ranges::count(report->silent, name) > 0));
  CHECK_NOTHROW(Transformer::load(ModelSource(folder / "out")));

  // Those of a killed run that only lacked the end of its file are known too.
  std::filesystem::remove_all(folder / "out");
  request.progress = [](std::int64_t done, std::int64_t total, const std::string&) {
    if (done == total) throw RoundingStopped();
  };
  CHECK_THROWS_AS(run(), RoundingStopped);
  request.progress = {};
  notes.clear();
  const auto resumed = run();
  REQUIRE(resumed);
  CHECK(resumed->blocks == 0);
  CHECK(resumed->silent == report->silent);
  CHECK(resumed->layers == report->layers);
  CHECK_THAT(notes.back(), Catch::Contains("4 matrices"));
}

TEST_CASE("activations that are not finite are refused by layer and token", "[model][block_rounder]") {
  const ModelConfig config = tiny_config("llama");
  std::vector<TinyTensor> tensors = tiny_tensors(config);
  for (TinyTensor& tensor : tensors)
    if (tensor.name.find("layers.1.mlp") != tensor.name.npos)
      for (float& value : tensor.values) value *= 1e30f;
  const TemporaryFolder folder;
  write_folder(folder / "model", config, tensors);
  const std::string message = message_of<higgs::FormatError>(
      [&] { quantize_model(ModelSource(folder / "model"), folder / "out", by_second_moments()); });
  CHECK_THAT(message, Catch::Contains("token 0") && Catch::Contains("layer 1"));
  CHECK_FALSE(std::filesystem::exists(folder / "out" / "model.safetensors"));
}
