// SPDX-License-Identifier: Apache-2.0
// Tokens a second of whole models: the decoder of higgs-model with random weights, a CUDA graph for each token, attention
// and the choice of tokens included. The embedding and the output layer are fp16.
//
//     decoder [WORD [BITS]]      models whose name has WORD; 1, 4, 16 and 64 texts, after 512 tokens of each
//     decoder --tiny             a small model, each measurement once: does the program run?
//
// It is compiled with nvcc alone, together with decoder.cu and dense_matrix.cu of examples/model/device and with
// examples/model/architecture/rope.cpp; its folders of headers are include and examples/model.
#include "device/decoder.cuh"
#include "device/linear_matrix.cuh"
#include "device/sampling.cuh"
#include "device/stream.cuh"

#include <higgs/codes/grid/grid.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/packed_matrix.cuh>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace higgs::model;
using higgs::Half;
namespace gpu = higgs::gpu;
#if defined(HIGGS_BENCH_FEW_CODES)
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;
#else
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>, gpu::TableFormat<3>, gpu::TableFormat<2>>;
#endif

}  // namespace

template struct higgs::model::LinearProducts<Half, Formats>;

namespace {

// A matrix of random codes whose products are as large as their inputs.
template <class Book>
SharedDeviceMatrix<Half> random_matrix(std::int64_t rows, std::int64_t cols) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
  };
  const std::vector<std::int16_t> table = gpu::device_table(Book{});
  double squares = 0;  // sum over coordinates, two in an entry
  for (const std::int16_t entry : table)
    for (const int each : {static_cast<std::int8_t>(entry & 255), static_cast<std::int8_t>(entry >> 8)})
      squares += static_cast<double>(each) * each / (2.0 * static_cast<double>(table.size()));
  const auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  const std::int64_t group = std::min<std::int64_t>(1024, cols & -cols);
  w.layout = {rows, cols, group, group};
  w.seed = 1;
  storage->codes.resize(static_cast<std::size_t>(rows * w.row_bytes()));
  for (std::size_t i = 0; i < storage->codes.size(); ++i)
    storage->codes[i] =
        i < 65536 ? static_cast<std::uint8_t>(higgs::random_bits(1, i)) : storage->codes[i - 65521];
  storage->scales.assign(static_cast<std::size_t>(rows * w.layout.groups()),
                         Half(static_cast<float>(1 / std::sqrt(squares * static_cast<double>(cols)))));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.owner = storage;
  return std::make_shared<LinearMatrix<Half, Formats>>(gpu::PackedMatrix(w));
}

SharedDeviceMatrix<Half> random_matrix(int bits, std::int64_t rows, std::int64_t cols) {
  if (bits == 4) return random_matrix<higgs::GridCodebook<2, 256>>(rows, cols);
  if (bits == 3) return random_matrix<higgs::GridCodebook<2, 64>>(rows, cols);
  return random_matrix<higgs::GridCodebook<2, 16>>(rows, cols);
}

SharedFloats ones(std::int64_t count) {
  const std::vector<float> values(static_cast<std::size_t>(count), 1.0f);
  return std::make_shared<gpu::DeviceBuffer<float>>(std::span<const float>(values));
}

std::shared_ptr<const gpu::DeviceBuffer<Half>> random_table(std::int64_t rows, std::int64_t cols) {
  std::vector<Half> values(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = i < 65536 ? Half(static_cast<float>(higgs::random_normal(2, i))) : values[i - 65521];
  return std::make_shared<gpu::DeviceBuffer<Half>>(std::span<const Half>(values));
}

DeviceWeights<Half> random_weights(const ModelConfig& config, int bits) {
  DeviceWeights<Half> out;
  out.embedding = random_table(config.vocabulary, config.width);
  out.norm = ones(config.width);
  out.output.weight = dense_matrix<Half>(out.embedding, config.vocabulary, config.width);
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    DeviceBlock<Half> block;
    block.attention_norm = block.ffn_norm = out.norm;
    if (config.head_norms) block.q_norm = block.k_norm = ones(config.head_width);
    block.qkv.joined.weight = random_matrix(bits, config.query_width() + 2 * config.kv_width(), config.width);
    block.o.weight = random_matrix(bits, config.width, config.query_width());
    block.gate_up.joined.weight = random_matrix(bits, 2 * config.ffn_width, config.width);
    block.down.weight = random_matrix(bits, config.width, config.ffn_width);
    out.blocks.push_back(std::move(block));
  }
  return out;
}

struct Model {
  std::string_view name;
  std::int64_t layers, width, ffn_width, heads, kv_heads, head_width, vocabulary;
  bool head_norms;

  ModelConfig config() const {
    ModelConfig out;
    out.layers = layers;
    out.width = width;
    out.ffn_width = ffn_width;
    out.heads = heads;
    out.kv_heads = kv_heads;
    out.head_width = head_width;
    out.vocabulary = vocabulary;
    out.context = 4096;
    out.head_norms = head_norms;
    out.tied_embeddings = true;
    return out;
  }
};

constexpr Model models[] = {{"Llama-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128256, false},
                            {"Qwen3-8B", 36, 4096, 12288, 32, 8, 128, 151936, true},
                            {"Llama-3.1-70B", 80, 8192, 28672, 64, 8, 128, 128256, false}};
constexpr Model tiny_model{"tiny", 2, 128, 256, 4, 2, 32, 256, false};

// Steps of `texts` texts that have `past` tokens each, captured in one graph.
struct Measurement {
  double seconds = 0;         // time of a step
  std::vector<float> logits;  // what the last step gave
};

Measurement measure_steps(const ModelConfig& config, const DeviceWeights<Half>& weights, std::int64_t texts,
                          std::int64_t past, int steps) {
  const DecoderSize size{
      .rows = texts, .sequences = texts, .capacity = past + steps + 1, .logit_rows = texts};
  Decoder<Half> decoder(config, weights, size);
  const auto numbers = [&](std::int64_t value) {
    const std::vector<std::int32_t> all(static_cast<std::size_t>(texts), static_cast<std::int32_t>(value));
    return gpu::DeviceBuffer<std::int32_t>(std::span<const std::int32_t>(all));
  };
  const auto tokens = numbers(1), positions = numbers(past), counts = numbers(0), limits = numbers(1 << 30),
             damage = numbers(0), output = numbers(0);
  const auto seeds = gpu::DeviceBuffer<std::uint64_t>::zeros(static_cast<std::size_t>(texts));
  const TextStates states{.tokens = tokens.data(),
                          .positions = positions.data(),
                          .counts = counts.data(),
                          .limits = limits.data(),
                          .seeds = seeds.data(),
                          .output = output.data(),
                          .ring = 1,
                          .damage = damage.data()};
  const Stream stream = make_stream();
  const auto step_async = [&] {
    decoder.embed_async(tokens.data(), texts, 1, stream.get());
    decoder.blocks_async(0, weights.blocks.size(), texts, {positions.data(), nullptr}, Pass::Step,
                         stream.get());
    decoder.finish_async(0, texts, stream.get());
    decoder.logits_async(texts, stream.get());
    choose_tokens_async(decoder.logits(texts), TokenChoice(), states, stream.get());
  };
  step_async();  // loads all kernels, which a capture must not do
  const Graph step = capture(stream.get(), step_async);
  const auto run = [&](int count) {
    for (int i = 0; i < count; ++i) gpu::check(cudaGraphLaunch(step.get(), stream.get()), "measure_steps");
    gpu::check(cudaStreamSynchronize(stream.get()), "measure_steps");
  };
  run(1);  // warms up
  const auto start = std::chrono::steady_clock::now();
  run(steps - 1);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  for (const std::int32_t wrong : damage.to_host())
    if (wrong != 0) throw std::runtime_error("a logit was NaN or infinite, so texts ended early");
  std::vector<float> logits(static_cast<std::size_t>(texts * config.vocabulary));
  gpu::check(cudaMemcpy(logits.data(), decoder.logits(texts).data, logits.size() * sizeof(float),
                        cudaMemcpyDeviceToHost),
             "measure_steps");
  return {seconds.count() / (steps - 1), std::move(logits)};
}

// Steps as they are, and with launches that overlap where the device and the program have that. Their logits must be equal.
void measure(const Model& model, int bits, bool tiny) {
  const ModelConfig config = model.config();
  DeviceWeights<Half> weights = random_weights(config, bits);
  for (const std::int64_t texts : {1, 4, 16, 64}) {
    if (tiny && texts > 4) break;
    std::vector<float> logits;
    for (const bool overlap : {false, true}) {
      if (overlap && !launches_can_overlap(gpu::current_device())) continue;
      weights.overlap = overlap;
      const Measurement step = measure_steps(config, weights, texts, tiny ? 8 : 512, tiny ? 2 : 64);
      std::printf("= %s, %d bits, %d texts%s | - | %.0f tokens/s, %.0f us a step\n", model.name.data(), bits,
                  static_cast<int>(texts), overlap ? ", overlapping launches" : "",
                  static_cast<double>(texts) / step.seconds, 1e6 * step.seconds);
      std::fflush(stdout);
      if (overlap && step.logits != logits)
        throw std::runtime_error("launches that overlap give other logits");
      logits = step.logits;
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string_view name = argc > 1 ? argv[1] : "Llama-3.1-8B";
  if (name == "--tiny") {
    measure(tiny_model, 4, true);
    return 0;
  }
  bool known = false;
  for (const Model& model : models)
    for (const int bits : {4, 3, 2}) {
      if (model.name.find(name) == model.name.npos || (argc > 2 && std::atoi(argv[2]) != bits)) continue;
      measure(model, bits, false);
      known = true;
    }
  if (!known) throw std::runtime_error("there is no such model, or not with such bits");
  return 0;
} catch (const std::exception& error) {
  std::printf("FAILED: %s\n", error.what());
  return 1;
}
