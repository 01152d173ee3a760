// SPDX-License-Identifier: Apache-2.0
// Tokens a second that the linear layers of whole models allow: all of them in one CUDA graph, each with packed weights of
// its own, which are random. Attention, norms and the output head are left out.
//
//     tokens [MODEL]     models whose name contains the word, 4, 3 and 2 bits, batches of 1, 4, 16 and 64
//     tokens --tiny      one small model, each measurement once: does the program run?
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "answer.hpp"
#include "gpus.hpp"
#include "product.cuh"
#include "shapes.hpp"
#include "timing.cuh"

namespace gpu = higgs::gpu;
using bench::check;

namespace {

/// All packed matrices of a model: for each kind of layer one that repacked random codes, and copies of it. Layers of which
/// there are more than memory holds use the copies in turns.
class Weights {
 public:
  Weights(const bench::Model& model, std::string_view code) : model_(model) {
    std::size_t bytes = 0, free = 0, total = 0;
    for (const bench::ModelLayer& layer : model.layers) {
      originals_.push_back(bench::random_weights(code, layer.rows, layer.cols));
      bytes += originals_.back().size_bytes() * static_cast<std::size_t>(layer.count);
      copies_.emplace_back();
    }
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    const auto fit =
        static_cast<int>(std::min<std::size_t>(free / 10 * 8 / std::max<std::size_t>(bytes, 1), 100000));
    own_ = std::clamp(fit, 1, model.blocks);
    for (std::size_t i = 0; i < originals_.size(); ++i)
      for (int copy = 0; copy < own_ * model.layers[i].count; ++copy)
        copies_[i].emplace_back(originals_[i].view());
  }
  const bench::Model& model() const { return model_; }
  /// Blocks of the model with weights of their own.
  int own() const { return own_; }
  /// Layer number k of those of one shape in a block.
  const gpu::PackedView& view(std::size_t layer, int block, int k) const {
    return copies_[layer][static_cast<std::size_t>(block % own_ * model_.layers[layer].count + k)].view;
  }

 private:
  const bench::Model& model_;
  std::vector<gpu::PackedMatrix> originals_;
  std::vector<std::vector<bench::PackedCopy>> copies_;  // (layer, block and number in it)
  int own_ = 1;
};

/// Microseconds of all layers for `batch` tokens, one of each sequence.
double measure(const Weights& weights, std::int64_t batch, int repetitions) {
  const gpu::Device device = gpu::current_device();
  const bench::Model& model = weights.model();
  const bench::Stream stream;
  std::vector<std::unique_ptr<bench::Product>> products;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const gpu::PackedView& w = weights.view(i, 0, 0);
    products.push_back(
        std::make_unique<bench::Product>(w, batch, gpu::plan_matmul(w.layout, device), device));
    (*products.back())(stream);
  }
  check(cudaStreamSynchronize(stream), "warm-up");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t work = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int block = 0; block < model.blocks; ++block)
    for (std::size_t i = 0; i < model.layers.size(); ++i)
      for (int k = 0; k < model.layers[i].count; ++k) products[i]->with(weights.view(i, block, k), stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&work, graph, 0), "cudaGraphInstantiate");
  const double us = bench::median_launch_us(work, stream, repetitions);
  check(cudaGraphExecDestroy(work), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  return us;
}

void run(const bench::Model& model, const bench::BenchCode& code, const bench::Gpu* known, bool tiny) {
  const Weights weights(model, code.name);
  std::printf("%s, %s: weights of %d of %d blocks\n", model.name.data(), code.name.data(), weights.own(),
              model.blocks);
  for (const std::int64_t batch : {1, 4, 16, 64}) {
    if (tiny && batch != 4) continue;
    const double us = measure(weights, batch, tiny ? 1 : 11), tokens = static_cast<double>(batch) * 1e6 / us;
    char question[96], predicted[64] = "-";
    std::snprintf(question, sizeof question, "tokens/s of %s's linear layers, %s, batch %lld",
                  model.name.data(), code.name.data(), static_cast<long long>(batch));
    if (known != nullptr)
      std::snprintf(predicted, sizeof predicted, "%.0f",
                    static_cast<double>(batch) * 1e6 /
                        bench::predict_token(*known, model, batch, code.bits, code.window).us);
    bench::answer(question, predicted, "%.0f (%.0f us)", tokens, us);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string_view word = argc > 1 ? argv[1] : "";
  const bool tiny = word == "--tiny";
  const gpu::Device device = gpu::current_device();
  const bench::Gpu* known = bench::gpu_like(device.multiprocessors, bench::Stopwatch(!tiny).copy_rate());
  std::printf("predictions are a model's word for %s\n",
              known != nullptr ? known->name.data() : "no GPU that it knows");
  if (tiny) {
    const bench::Model model{"a tiny model", 2, {{"q, k, v", 1, 64, 128}, {"down", 2, 128, 64}}};
    run(model, bench::codes()[0], known, true);
    return 0;
  }
  for (const bench::Model& model : bench::models()) {
    if (model.name.find(word) == std::string_view::npos || model.experts.count > 0) continue;
    for (const bench::BenchCode& code : bench::codes())
      if (!code.window) run(model, code, known, false);
  }
  return 0;
} catch (const std::exception& error) {
  std::printf("FAILED: %s\n", error.what());
  return 1;
}
