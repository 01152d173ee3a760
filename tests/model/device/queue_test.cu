// SPDX-License-Identifier: Apache-2.0
#include "device/queue.cuh"

#include "device/decoder.cuh"
#include "device/linear_matrix.cuh"
#include "device/stream.cuh"
#include "model/device/device_numbers.cuh"

#include <higgs/codes/grid/grid.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/store/stacked_rows.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "emulator/emulator.hpp"

namespace gpu = higgs::gpu;
using namespace higgs::model;
using higgs::Half;
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;
using Book = higgs::GridCodebook<2, 256>;

template struct higgs::model::LinearProducts<Half, Formats>;

namespace {

higgs::QuantizedMatrix<Book> quantized(std::uint64_t seed, std::int64_t rows, std::int64_t cols) {
  const auto values = random_numbers<float>(seed, rows * cols, 0.1f);
  return higgs::quantize(higgs::MatrixView<const float>(values.data(), rows, cols), Book{},
                         {.input_scales = false});
}

SharedDeviceMatrix<Half> packed(const higgs::QuantizedMatrix<Book>& w) {
  return std::make_shared<LinearMatrix<Half, Formats>>(gpu::PackedMatrix(w));
}

ModelConfig config_with(double residual_scale) {
  ModelConfig out;
  out.layers = 2;
  out.width = 128;
  out.ffn_width = 192;  // its products take a launch that rotates
  out.heads = 4;
  out.kv_heads = 2;
  out.head_width = 32;
  out.vocabulary = 40;
  out.context = 64;
  out.residual_scale = residual_scale;
  return out;
}

// Random weights: groups are one matrix, or layers that share a rotation.
DeviceWeights<Half> weights_of(const ModelConfig& config, bool joined) {
  DeviceWeights<Half> out;
  const auto table = std::make_shared<gpu::DeviceBuffer<Half>>(
      on_device(random_numbers<Half>(1, config.vocabulary * config.width)));
  out.embedding = table;
  out.output.weight = dense_matrix<Half>(table, config.vocabulary, config.width);
  out.norm = std::make_shared<gpu::DeviceBuffer<float>>(
      on_device(std::vector<float>(static_cast<std::size_t>(config.width), 1.0f)));
  const auto group = [&](const std::vector<higgs::QuantizedMatrix<Book>>& parts, bool in_turn) {
    DeviceGroup<Half> made{.joined = {}, .parts = {}, .rotate_alike = !joined};
    if (joined)
      made.joined.weight =
          packed(in_turn ? higgs::interleave_rows(parts[0], parts[1])
                         : higgs::concatenate_rows(std::span<const higgs::QuantizedMatrix<Book>>(parts)));
    else
      for (const auto& part : parts) made.parts.push_back({packed(part), nullptr});
    return made;
  };
  for (std::uint64_t seed = 10; seed < 10 * static_cast<std::uint64_t>(config.layers + 1); seed += 10) {
    DeviceBlock<Half> block;
    block.attention_norm = block.ffn_norm = out.norm;
    block.qkv = group({quantized(seed, config.query_width(), config.width),
                       quantized(seed + 1, config.kv_width(), config.width),
                       quantized(seed + 2, config.kv_width(), config.width)},
                      false);
    block.o.weight = packed(quantized(seed + 3, config.width, config.query_width()));
    block.gate_up = group({quantized(seed + 4, config.ffn_width, config.width),
                           quantized(seed + 5, config.ffn_width, config.width)},
                          true);
    block.down.weight = packed(quantized(seed + 6, config.width, config.ffn_width));
    out.blocks.push_back(std::move(block));
  }
  return out;
}

// The logits of a prompt of 6 tokens, and of two steps behind it, which are a graph.
std::vector<float> logits_of(const ModelConfig& config, DeviceWeights<Half> weights, bool overlap) {
  weights.overlap = overlap;
  Decoder<Half> decoder(config, std::move(weights), {.rows = 6, .capacity = 10, .logit_rows = 1});
  const auto tokens = on_device(std::vector<std::int32_t>{3, 1, 4, 1, 5, 9}),
             positions = on_device(std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}),
             next = on_device(std::vector<std::int32_t>{6}), zeros = on_device(std::vector<std::int32_t>(6));
  const Stream stream = make_stream();
  std::vector<float> out;
  const auto pass = [&](std::int64_t rows, const TokenRows& places, Pass kind) {
    decoder.embed_async(tokens.data(), rows, 1, stream.get());
    decoder.blocks_async(0, static_cast<std::size_t>(config.layers), rows, places, kind, stream.get());
    decoder.finish_async(rows - 1, 1, stream.get());
    decoder.logits_async(1, stream.get());
  };
  const auto take = [&] {
    std::vector<float> row(static_cast<std::size_t>(config.vocabulary));
    REQUIRE(cudaMemcpyAsync(row.data(), decoder.logits(1).data, row.size() * sizeof(float),
                            cudaMemcpyDeviceToHost, stream.get()) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream.get()) == cudaSuccess);
    out.insert(out.end(), row.begin(), row.end());
  };
  pass(6, {positions.data(), zeros.data()}, Pass::Prompt);
  take();
  const auto step = [&] { pass(1, {next.data(), nullptr}, Pass::Step); };
  step();  // loads all kernels, which a capture must not do
  take();
  const Graph graph = capture(stream.get(), step);
  REQUIRE(cudaGraphLaunch(graph.get(), stream.get()) == cudaSuccess);
  take();
  return out;
}

}  // namespace

TEST_CASE("launches that overlap give the bits of launches that do not", "[model][device][gpu]") {
  const emulator::Options before = emulator::options();
  emulator::options().count = false;
  if (emulator::in_use) emulator::options().compute_capability = 90;
  if (launches_can_overlap(gpu::current_device()))
    for (const auto& [joined, residual_scale] : {std::pair{true, 1.0}, {false, 0.5}}) {
      INFO((joined ? "groups are one matrix" : "layers share a rotation"));
      const ModelConfig config = config_with(residual_scale);
      const DeviceWeights<Half> weights = weights_of(config, joined);
      const std::vector<float> apart = logits_of(config, weights, false);
      for (const std::uint32_t seed : {0u, 1u}) {
        emulator::options().seed = seed;  // the order of warps
        CHECK(logits_of(config, weights, true) == apart);
      }
      CHECK(std::vector<float>(apart.begin(), apart.begin() + 40) != std::vector<float>(40));
    }
  emulator::options() = before;
}

TEST_CASE("launches overlap from compute capability 9.0 on alone", "[model][device][gpu]") {
  gpu::Device device = gpu::current_device();
  for (const int architecture : {80, 89}) {
    device.architecture = architecture;
    CHECK(!launches_can_overlap(device));
  }
}
