// SPDX-License-Identifier: Apache-2.0
#include "device/network.cuh"

#include "emulator/emulator.hpp"
#include "measure/probe.hpp"
#include "model/device/device_model.hpp"
#include "quantize/quantize.hpp"

#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <regex>
#include <string>
#include <vector>

using namespace higgs::model;
using Catch::Contains;

namespace {

constexpr int tokens = 20;

struct Logits {
  Matrix hidden, values;

  explicit Logits(Network& model)
      : hidden(tokens, model.config().width), values(tokens, model.config().vocabulary) {
    model.forward(tiny_text(tokens), hidden.view());
    model.logits(hidden.view(), values.view());
  }
};

// The largest ||a - b|| / ||b|| of a row.
double difference(const Matrix& a, const Matrix& b) {
  double most = 0;
  for (std::int64_t r = 0; r < a.rows; ++r) {
    double squares = 0, norm = 0;
    for (std::int64_t c = 0; c < a.cols; ++c) {
      squares += std::pow(static_cast<double>(a.row(r)[c]) - static_cast<double>(b.row(r)[c]), 2);
      norm += std::pow(static_cast<double>(b.row(r)[c]), 2);
    }
    most = std::max(most, std::sqrt(squares / norm));
  }
  return most;
}

std::unique_ptr<Network> on_device(const TinySource& source, DeviceOptions options = {}) {
  emulator::options().count = false;
  return open_device_network(*source, options);
}

}  // namespace

TEST_CASE("a GPU gives the logits of the CPU for a model of each family, in fp16", "[model][device]") {
  for (const auto& [name, config] : device_models()) {
    INFO(name);
    const TinySource source(config);
    HostNetwork host(Transformer::load(*source));
    const auto device = on_device(source);
    const double away = difference(Logits(*device).values, Logits(host).values);
    CAPTURE(away);
    CHECK(away < 5e-3);
    CHECK(away > 0);
  }
}

TEST_CASE("a GPU gives the logits of the CPU in bf16", "[model][device]") {
  for (const char* family : {"llama", "qwen3"}) {
    const TinySource source(tiny_config(family));
    HostNetwork host(Transformer::load(*source));
    const auto device = on_device(source, {.type = DeviceType::Bf16});
    const double away = difference(Logits(*device).values, Logits(host).values);
    CAPTURE(away);
    CHECK(away < 4e-2);
    CHECK(away > 1e-3);
  }
}

TEST_CASE("steps, and prompts read in chunks, give the bits of one pass", "[model][device]") {
  for (const char* family : {"qwen3", "granite"}) {
    const ModelConfig config = tiny_config(family);
    const TinySource source(config);
    const Logits whole(*on_device(source));
    const auto chunked = on_device(source, {.chunk = 7});
    CHECK(Logits(*chunked).values.values == whole.values.values);

    Matrix states(tokens, config.width), out(tokens, config.vocabulary);
    chunked->embed(tiny_text(tokens), states.view());
    for (std::size_t block = 0; block < 2; ++block) chunked->run_blocks(block, block + 1, states.view());
    chunked->finish(states.view(), states.view());
    CHECK(states.values == whole.hidden.values);
    chunked->output()(states.view(), out.view());
    CHECK(out.values == whole.values.values);
  }
}

TEST_CASE("a range of no blocks changes no bit, and blocks can run again from states that were kept",
          "[model][device]") {
  const ModelConfig config = tiny_config("granite");
  REQUIRE(config.embedding_scale != 1);
  const TinySource source(config);
  const auto device = on_device(source);
  const Logits whole(*device);
  Matrix kept(tokens, config.width);
  device->embed(tiny_text(tokens), kept.view());
  for (int run = 0; run < 2; ++run) {
    Matrix states = kept;
    device->run_blocks(0, 0, states.view());
    CHECK(states.values == kept.values);
    device->run_blocks(0, 1, states.view());
    const Matrix between = states;
    device->run_blocks(1, 1, states.view());
    CHECK(states.values == between.values);
    device->run_blocks(1, 2, states.view());
    device->finish(states.view(), states.view());
    CHECK(states.values == whole.hidden.values);
  }
}

TEST_CASE("noise in a layer costs on a GPU what it costs on the CPU", "[model][device]") {
  const TinySource source(tiny_config("granite"));
  HostNetwork host(Transformer::load(*source));
  const auto device = on_device(source);
  const std::vector<double> levels{0.05};
  NoiseProbe here(*device, tiny_text(tokens), tokens / 2), there(host, tiny_text(tokens), tokens / 2);
  for (const std::string& name : {weight_name(0, &Block::q), weight_name(0, &Block::down),
                                  weight_name(1, &Block::v), std::string(embedding_name)}) {
    INFO(name);
    const ProbeResult a = here.measure(name, levels, 3).at(0), b = there.measure(name, levels, 3).at(0);
    CHECK(a.kl == Approx(b.kl).epsilon(0.05));
  }
}

TEST_CASE("quantized layers of any format give the logits of their decoded weights", "[model][device]") {
  const std::vector<std::string> codes{"2x256", "2x64", "1x16", "e8", "w4", "w2.5", "2x16"};
  const TinySource source(tiny_config("granite"));
  HostNetwork host(Transformer::load(*source));
  const auto device = on_device(source);
  std::size_t next = 0;
  std::vector<std::string> names{std::string(embedding_name)};
  for (const BlockLinear& each : block_linears(host.config())) names.push_back(each.name);
  for (const std::string& name : names) {
    const auto quantized = higgs::quantize(host.dense(name, "test")->view(), codes[next++ % codes.size()]);
    Matrix decoded(quantized.rows(), quantized.cols());
    higgs::dequantize(quantized, decoded.view());
    host.replace(name, share(std::move(decoded)));
    device->replace(name, quantized);
    CHECK_THROWS_AS(device->dense(name, "test"), higgs::InvalidArgument);
  }
  const double away = difference(Logits(*device).values, Logits(host).values);
  CAPTURE(away);
  CHECK(away < 5e-3);
  CHECK(away > 0);
}

TEST_CASE("a replaced matrix changes its network alone, and an output layer outlives the change",
          "[model][device]") {
  const TinySource source(tiny_config("llama"));
  const auto device = on_device(source);
  const Logits before(*device);
  const OutputLayer old_output = device->output();
  for (const std::string& name : {weight_name(1, &Block::v), std::string(embedding_name)}) {
    INFO(name);
    Matrix values = *device->dense(name, "test");
    for (float& value : values.values) value *= 2;
    const SharedMatrix doubled = share(std::move(values));
    const std::unique_ptr<Network> copy = device->copy();
    CHECK(Logits(*copy).values.values == before.values.values);  // it has run before it changes
    copy->replace(name, doubled);
    HostNetwork host(Transformer::load(*source));
    host.replace(name, doubled);
    CHECK(difference(Logits(*copy).values, Logits(host).values) < 5e-3);
    CHECK(difference(Logits(*copy).values, before.values) > 0.1);
    CHECK(Logits(*device).values.values == before.values.values);
    CHECK_THROWS_AS(copy->dense(name, "test"), higgs::InvalidArgument);
    Matrix out(tokens, 40);
    old_output(before.hidden.view(), out.view());
    CHECK(out.values == before.values.values);
  }
  CHECK_THAT(message_of<higgs::InvalidArgument>(
                 [&] { device->replace("lm_head.weight", device->dense(embedding_name, "test")); }),
             Contains("\"lm_head.weight\""));
}

TEST_CASE("a dense layer of a group that is replaced by itself gives the bits of the whole group",
          "[model][device]") {
  ModelConfig config = tiny_config("llama");
  config.qkv_bias = config.o_bias = config.mlp_bias = true;
  const TinySource source(config);
  const auto device = on_device(source);
  const Logits before(*device);
  for (const auto place : {&Block::v, &Block::q}) {
    const std::string name = weight_name(1, place);
    device->replace(name, device->dense(name, "test"));
    CHECK(Logits(*device).values.values == before.values.values);
  }
  const std::string up = weight_name(0, &Block::up);  // gate and up are rounded before they are multiplied
  device->replace(up, device->dense(up, "test"));
  const double away = difference(Logits(*device).values, before.values);
  CAPTURE(away);
  CHECK(away > 0);
  CHECK(away < 2e-3);
}

namespace {

// Block 0: all layers in one code. Block 1: another code for keys, a gate that stays dense.
struct GroupedModel {
  TemporaryFolder folder;
  std::unique_ptr<ModelSource> source;

  GroupedModel() {
    ModelConfig config = tiny_config("llama");
    config.qkv_bias = config.o_bias = true;
    write_folder(folder / "model", config);
    QuantizeRequest request{.codebook = "2x256"};
    request.codebooks = {{weight_name(1, &Block::k), "w4"}};
    request.skip = std::regex("layers\\.1\\..*gate_proj");
    quantize_model(ModelSource(folder / "model"), folder / "out", request);
    source = std::make_unique<ModelSource>(folder / "out");
  }
};

}  // namespace

TEST_CASE(
    "layers of one code are one matrix, layers of several codes share a rotation, and both give the CPU's "
    "logits",
    "[model][device]") {
  const GroupedModel model;
  const auto weights = load_device_weights<higgs::Half>(*model.source, {}, higgs::default_executor());
  CHECK(weights.blocks[0].qkv.is_joined());
  CHECK(weights.blocks[0].gate_up.is_joined());
  CHECK(!weights.blocks[1].qkv.is_joined());
  CHECK(weights.blocks[1].qkv.rotate_alike);
  CHECK(!weights.blocks[1].gate_up.is_joined());
  CHECK(!weights.blocks[1].gate_up.rotate_alike);
  emulator::options().count = false;
  HostNetwork host(Transformer::load(*model.source));
  const auto device = open_device_network(*model.source, {});
  const double away = difference(Logits(*device).values, Logits(host).values);
  CAPTURE(away);
  CHECK(away < 5e-3);
  CHECK(away > 0);

  const ModelConfig& config = model.source->require_config();
  const auto positions = higgs::gpu::DeviceBuffer<std::int32_t>(
      std::span<const std::int32_t>(std::vector<std::int32_t>{0, 1, 2, 3, 4}));
  const auto sequences = higgs::gpu::DeviceBuffer<std::int32_t>::zeros(5);
  Decoder<higgs::Half> decoder(config, weights, {.rows = 5, .capacity = 5});
  const auto launches = [&](std::size_t block) {
    emulator::clear_launches();
    decoder.blocks_async(block, block + 1, 5, {positions.data(), sequences.data()}, Pass::Prompt, nullptr);
    REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
    return emulator::launches().size();
  };
  if (!emulator::in_use) return;
  emulator::options().count = true;
  // Two norms, turned heads and attention; a rotation and a product for qkv, o, gate_up and down.
  CHECK(launches(0) == 4 + 4 * 2);
  // A rotation and three products for q, k and v, a dense gate, a rotation and a product for up, SwiGLU.
  CHECK(launches(1) == 4 + 4 + 2 + 1 + 2 + 1 + 2);
  emulator::options().count = false;
}

TEST_CASE("a layer that replaces one of a quantized group leaves the others as they were",
          "[model][device]") {
  const GroupedModel model;
  emulator::options().count = false;
  const auto device = open_device_network(*model.source, {});
  const Logits before(*device);
  for (const std::string& name : {weight_name(0, &Block::k), weight_name(0, &Block::gate),
                                  weight_name(0, &Block::up), weight_name(1, &Block::q)}) {
    INFO(name);
    const auto quantized = model.source->checkpoint()->load(name);
    Matrix values(quantized.rows(), quantized.cols());
    higgs::dequantize(quantized, values.view());
    const std::unique_ptr<Network> copy = device->copy();
    copy->replace(name, share(Matrix(values)));
    CHECK(difference(Logits(*copy).values, before.values) < 5e-3);
    for (float& value : values.values) value *= -1;
    const SharedMatrix other = share(std::move(values));
    copy->replace(name, other);
    HostNetwork host(Transformer::load(*model.source));
    host.replace(name, other);
    CHECK(difference(Logits(*copy).values, Logits(host).values) < 1e-2);
    CHECK(Logits(*device).values.values == before.values.values);
  }
}

namespace {

// A matrix whose products are never gated, as those of many rows where a GEMM multiplies.
class Ungated final : public DeviceMatrix<higgs::Half> {
 public:
  using T = higgs::Half;
  explicit Ungated(SharedDeviceMatrix<T> matrix) : matrix_(std::move(matrix)) {}
  std::int64_t rows() const noexcept override { return matrix_->rows(); }
  std::int64_t cols() const noexcept override { return matrix_->cols(); }
  std::size_t size_bytes() const noexcept override { return matrix_->size_bytes(); }
  std::size_t workspace_bytes(std::int64_t batch) const override { return matrix_->workspace_bytes(batch); }
  void multiply_async(higgs::gpu::DenseView<const T> x, higgs::gpu::DenseView<T> y,
                      const higgs::gpu::Epilogue<T>& epilogue, const ProductSpace& space,
                      Queue queue) const override {
    REQUIRE(!epilogue.gated);
    matrix_->multiply_async(x, y, epilogue, space, queue);
  }
  void multiply_async(higgs::gpu::DenseView<const T> x, higgs::gpu::DenseView<float> y,
                      const higgs::gpu::Epilogue<float>& epilogue, const ProductSpace& space,
                      Queue queue) const override {
    matrix_->multiply_async(x, y, epilogue, space, queue);
  }
  std::int64_t gated_below() const noexcept override { return 0; }
  std::int64_t rotated_cols() const noexcept override { return matrix_->rotated_cols(); }
  const RotatedProducts<T>* shared_rotation(higgs::gpu::DenseView<const T> x) const override {
    return matrix_->shared_rotation(x);
  }

 private:
  SharedDeviceMatrix<T> matrix_;
};

}  // namespace

TEST_CASE("a gate that is not part of a product gives the states of one that is", "[model][device]") {
  const TinySource source(tiny_config("llama"));
  const ModelConfig& config = (*source).require_config();
  emulator::options().count = false;
  auto weights = load_device_weights<higgs::Half>(*source, {}, higgs::default_executor());
  const DecoderSize size{.rows = tokens, .capacity = tokens};
  std::vector<std::int32_t> places(tokens);
  for (int i = 0; i < tokens; ++i) places[static_cast<std::size_t>(i)] = i;
  const higgs::gpu::DeviceBuffer<std::int32_t> positions{std::span<const std::int32_t>(places)},
      text{std::span<const TokenId>(tiny_text(tokens))};
  const auto sequences = higgs::gpu::DeviceBuffer<std::int32_t>::zeros(tokens);
  const auto states = [&] {
    Decoder<higgs::Half> decoder(config, weights, size);
    const DeviceNeeds needs = decoder_needs(config, size, layer_needs(weights, size));
    CHECK(static_cast<std::int64_t>(decoder.size_bytes()) == needs.cache + needs.workspace);
    decoder.embed_async(text.data(), tokens, 1, nullptr);
    decoder.blocks_async(0, 2, tokens, {positions.data(), sequences.data()}, Pass::Prompt, nullptr);
    decoder.settle_async(tokens, nullptr);
    Matrix out(tokens, config.width);
    REQUIRE(cudaMemcpy(out.values.data(), decoder.states(tokens).data, out.values.size() * sizeof(float),
                       cudaMemcpyDeviceToHost) == cudaSuccess);
    return out;
  };
  const Matrix gated = states();
  for (DeviceBlock<higgs::Half>& block : weights.blocks)
    block.gate_up.joined.weight = std::make_shared<Ungated>(block.gate_up.joined.weight);
  const double away = difference(states(), gated);
  CAPTURE(away);
  CHECK(away < 2e-3);
  CHECK(away > 0);
}

TEST_CASE("launches that overlap are refused where they cannot", "[model][device]") {
  const TinySource source(tiny_config("llama"));
  if (!launches_can_overlap(higgs::gpu::current_device()))
    CHECK_THAT(message_of<higgs::InvalidArgument>([&] { on_device(source, {.overlap = true}); }),
               Contains("overlap") && Contains("9.0"));
  else
    CHECK(Logits(*on_device(source, {.overlap = true})).values.values ==
          Logits(*on_device(source)).values.values);
}

TEST_CASE("needs are counted to the byte before a tensor moves, and refused with the numbers",
          "[model][device]") {
  if (!emulator::in_use) return;
  const TemporaryFolder folder;
  write_folder(folder / "model", tiny_config("llama"));
  QuantizeRequest request{.codebook = "2x256"};
  request.codebooks = {{weight_name(1, &Block::down), "w2.5"}, {weight_name(0, &Block::up), "e8"}};
  request.skip = std::regex("layers\\.1\\..*q_proj");
  quantize_model(ModelSource(folder / "model"), folder / "out", request);
  const ModelSource source(folder / "out");
  const DecoderSize size{.rows = 20, .capacity = 20, .logit_rows = 64};
  const DeviceNeeds needs = device_needs(source, {}, size);
  const auto used = [] {
    std::size_t free = 0, total = 0;
    REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
    return static_cast<std::int64_t>(total - free);
  };
  load_device_weights<higgs::Half>(source, {}, higgs::default_executor());  // loads kernels and their globals
  const std::int64_t before = used();
  {
    const auto weights = load_device_weights<higgs::Half>(source, {}, higgs::default_executor());
    CHECK(used() - before == needs.weights);
    const Decoder<higgs::Half> decoder(source.require_config(), weights, size);
    CHECK(used() - before == needs.weights + needs.cache + needs.workspace);
  }
  {
    emulator::options().coarse_memory = true;
    const std::int64_t coarse = used();
    emulator::clear_most_memory();
    const auto weights = load_device_weights<higgs::Half>(source, {}, higgs::default_executor());
    CHECK(used() - coarse == needs.weights + needs.rounding);
    const auto most = static_cast<std::int64_t>(emulator::most_memory()) - coarse;
    CHECK(most > needs.weights + needs.rounding);
    CHECK(most <= needs.weights + needs.rounding + needs.loading);
    emulator::options().coarse_memory = false;
  }
  const std::uint64_t usual = emulator::options().memory_bytes;
  const auto open_with = [&](std::int64_t free) {
    emulator::options().memory_bytes = static_cast<std::uint64_t>(used() + free);
    const std::uint64_t allocations = emulator::allocations();
    const std::string message =
        message_of<higgs::InvalidArgument>([&] { open_device_network(source, {.tokens = 20}); });
    emulator::options().memory_bytes = usual;
    if (!message.empty()) CHECK(emulator::allocations() == allocations);
    return message;
  };
  CHECK_THAT(open_with(needs.all() - 1), Contains(source.path().string()) && Contains("weights") &&
                                             Contains("keys and values") && Contains("are free"));
  CHECK(open_with(needs.all()).empty());
}

TEST_CASE("a copy with layers of its own fits in the memory that was asked for it", "[model][device]") {
  if (!emulator::in_use) return;
  const TinySource source(tiny_config("llama"));
  const ModelConfig& config = (*source).require_config();
  const DecoderSize size{.rows = 20, .capacity = 20, .logit_rows = 64};
  const auto most_of = [&](auto&& use) {
    const auto run = [&] {
      const auto model = on_device(source);
      Logits{*model};
      use(*model);
    };
    run();  // loads kernels and their globals
    std::size_t free = 0, total = 0;
    REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
    emulator::clear_most_memory();
    run();
    return static_cast<std::int64_t>(emulator::most_memory() - (total - free));
  };
  const auto room = [&](Copies copies) {
    DeviceNeeds needs = device_needs(*source, {}, size);
    needs.copies = copies_bytes(config, needs, copies);
    constexpr std::int64_t small = 8192;  // bytes of tokens, positions and rows of the output layer
    return needs.all() - driver_bytes + (copies == Copies::None ? small : 2 * small - most_product_workspace);
  };
  const std::int64_t alone = most_of([](Network&) {});
  CHECK(alone <= room(Copies::None));
  const std::int64_t compared = most_of([&](Network& model) {
    const std::unique_ptr<Network> other = model.copy();
    for (const BlockLinear& each : block_linears(config))
      other->replace(each.name, model.dense(each.name, "test"));
    Logits{*other};
    Logits{model};
  });
  CHECK(compared > room(Copies::None));
  CHECK(compared <= room(Copies::AllLayers));
  const std::int64_t probed = most_of([&](Network& model) {
    for (const BlockLinear& each : block_linears(config)) {
      const std::unique_ptr<Network> noisy = model.copy();
      for (int level = 0; level < 2; ++level) {
        noisy->replace(each.name, model.dense(each.name, "test"));
        Logits{*noisy};
      }
    }
  });
  CHECK(probed <= room(Copies::OneMatrix));
}

TEST_CASE("activations beyond fp16 are told with the token, and bf16 holds them", "[model][device]") {
  const ModelConfig config = tiny_config("llama");
  std::vector<TinyTensor> tensors = tensors_beyond_fp16(config);
  const TinySource source(config, tensors);
  HostNetwork host(Transformer::load(*source));
  CHECK_THAT(message_of<higgs::FormatError>([&] { Logits{*on_device(source)}; }),
             Contains("token ") && Contains("or one after it") && Contains("NaN or infinite") &&
                 Contains("--dtype bf16"));
  const auto device = on_device(source, {.type = DeviceType::Bf16});
  CHECK(difference(Logits(*device).values, Logits(host).values) < 4e-2);
  for (TinyTensor& tensor : tensors)
    if (tensor.name == weight_name(0, &Block::up)) tensor.values[5] = 1e5f;
  const TinySource large(config, tensors);
  CHECK_THAT(message_of<higgs::InvalidArgument>([&] { on_device(large); }),
             Contains(weight_name(0, &Block::up)) && Contains("100000") && Contains("--dtype bf16"));
}
