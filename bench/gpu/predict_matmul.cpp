// SPDX-License-Identifier: Apache-2.0
// Prints the time that a model of the GPUs expects of the fused matmul, so that the first run on a GPU can
// confirm or refute it. `predict_matmul [BITS [GPU]]`, where BITS is a grid's number of bits or a window code's name, w4.
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "gpus.hpp"
#include "shapes.hpp"

int main(int argc, char** argv) {
  const bool window = argc > 1 && argv[1][0] == 'w';
  const double bits = argc > 1 ? std::atof(argv[1] + (window ? 1 : 0)) : 4;
  const std::string_view only = argc > 2 ? argv[2] : "";
  std::printf(
      "PREDICTION, not measured: us of a fused matmul at %g bits (%s); what bounds it (memory, issue, "
      "lookups, "
      "products, "
      "launch); speed-up over fp16 weights\n",
      bits, window ? "window code" : "grid");
  for (const bench::Gpu& gpu : bench::gpus) {
    if (gpu.name.find(only) == std::string_view::npos) continue;
    std::printf("\n%s\n%-14s %-9s", gpu.name.data(), "", "");
    for (std::int64_t batch : bench::batches) std::printf("   M=%-10lld", static_cast<long long>(batch));
    for (const bench::Layer& layer : bench::layers) {
      std::printf("\n%-14s %-9s", layer.model.data(), layer.name.data());
      for (std::int64_t batch : bench::batches) {
        const bench::Prediction p = bench::predict(
            gpu, {.batch = batch, .rows = layer.rows, .cols = layer.cols, .bits = bits, .window = window});
        const bench::Prediction fp16 =
            bench::predict(gpu, {.batch = batch, .rows = layer.rows, .cols = layer.cols, .bits = 16});
        std::printf(" %7.1f %.2s %4.2f", p.total(), p.bound().data(), fp16.total() / p.total());
      }
    }
    std::printf("\n");
  }
}
