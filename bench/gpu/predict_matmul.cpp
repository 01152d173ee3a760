// SPDX-License-Identifier: Apache-2.0
// Prints the time that a model of the GPUs expects of the fused matmul, so that the first run on a GPU can confirm or
// refute it. `predict_matmul [BITS]`
#include <cstdio>
#include <cstdlib>

#include "gpus.hpp"
#include "shapes.hpp"

int main(int argc, char** argv) {
  const double bits = argc > 1 ? std::atof(argv[1]) : 4;
  std::printf(
      "PREDICTION, not measured: us of a fused matmul at %g bits, what bounds it, speed-up over fp16 "
      "weights\n",
      bits);
  for (const bench::Gpu& gpu : bench::gpus) {
    for (const bench::Layer& layer : bench::layers) {
      std::printf("%-10s %-14s %-9s", gpu.name.data(), layer.model.data(), layer.name.data());
      for (std::int64_t batch : bench::batches) {
        const bench::Problem quantized{.batch = batch, .rows = layer.rows, .cols = layer.cols, .bits = bits};
        const bench::Problem dense{
            .batch = batch, .rows = layer.rows, .cols = layer.cols, .bits = 16, .table = false};
        const bench::Prediction p = bench::predict(gpu, quantized), fp16 = bench::predict(gpu, dense);
        std::printf("  M=%lld %.1f %.1s %.2fx", static_cast<long long>(batch), p.total(), p.bound().data(),
                    fp16.total() / p.total());
      }
      std::printf("\n");
    }
  }
}
