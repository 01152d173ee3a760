// SPDX-License-Identifier: Apache-2.0
// Prints the times that a model of the GPUs expects of the fused matmul (gpus.hpp), so that the first run on a GPU can
// confirm or refute them.
//
//     predict_matmul [BITS [GPU]]    layers: us, what bounds it, speed-up over fp16 weights. BITS is a grid's number of bits
//                                    or a window code's name, w4; GPU a word of names
//     predict_matmul tokens [GPU]    whole models: the linear layers of a token at 4, 3 and 2 bits
//     predict_matmul notes           the tables of docs/notes/cuda-kernels.md
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "gpus.hpp"
#include "shapes.hpp"

namespace {

const bench::Gpu& gpu_named(std::string_view name) {
  for (const bench::Gpu& gpu : bench::gpus)
    if (gpu.name == name) return gpu;
  std::abort();
}
constexpr std::array<std::int64_t, 4> token_batches{1, 4, 16, 64};
constexpr std::array modern{"A100 80GB", "H100 SXM", "H200", "B200", "RTX 4090", "RTX 5090"};

void print_layers(double bits, bool window, std::string_view only) {
  std::printf(
      "PREDICTED, not measured: us of a fused matmul at %g bits (%s); what bounds it (memory, latency, "
      "issue, lookups, "
      "products, ends: launch, prologue and fixup); speed-up over fp16 weights\n",
      bits, window ? "window code" : "grid");
  for (const bench::Gpu& gpu : bench::gpus) {
    if (gpu.name.find(only) == std::string_view::npos) continue;
    std::printf("\n%s\n%-14s %-9s", gpu.name.data(), "", "");
    for (const std::int64_t batch : bench::batches)
      std::printf("   M=%-10lld", static_cast<long long>(batch));
    for (const bench::Layer& layer : bench::layers) {
      std::printf("\n%-14s %-9s", layer.model.data(), layer.name.data());
      for (const std::int64_t batch : bench::batches) {
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

void print_tokens(std::string_view only) {
  std::printf(
      "PREDICTED, not measured: the linear layers of one step of a model in a CUDA graph, without attention, "
      "norms and output "
      "head; a token for each sequence of a batch. us; tokens/s; speed-up over fp16 weights; share of the "
      "memory's rate\n");
  for (const bench::Gpu& gpu : bench::gpus) {
    if (gpu.name.find(only) == std::string_view::npos) continue;
    std::printf("\n%s\n", gpu.name.data());
    for (const bench::Model& model : bench::models())
      for (const double bits : {4.0, 3.0, 2.0}) {
        std::printf("%-14s %g bits", model.name.data(), bits);
        for (const std::int64_t batch : token_batches) {
          const bench::TokenPrediction p = bench::predict_token(gpu, model, batch, bits),
                                       fp16 = bench::predict_token(gpu, model, batch, 16);
          std::printf(" | %lld: %7.0f %6.0f %4.2fx %3.0f %%", static_cast<long long>(batch), p.us,
                      1e6 * static_cast<double>(batch) / p.us, fp16.us / p.us,
                      100e-3 * p.bytes / p.us / gpu.memory_gb_per_s);
        }
        std::printf("\n");
      }
  }
}

// Each as a Markdown table.

void print_shares() {
  std::printf(
      "| GPU | 4 bits | 3 bits | 2 bits | 2 bits, one plane of int8 | two planes "
      "|\n|---|---:|---:|---:|---:|---:|\n");
  for (const char* name : modern) {
    std::printf("| %s |", name);
    for (const double bits : {4.0, 3.0, 2.0}) {
      const bench::Problem p{.batch = 8, .rows = 28672, .cols = 8192, .bits = bits};
      std::printf(" %.0f -> %.0f %% |", 100 * bench::memory_share(gpu_named(name), p, bench::serial_build),
                  100 * bench::memory_share(gpu_named(name), p, bench::stream_build));
    }
    for (const int planes : {1, 2})
      std::printf(
          " %.0f %% |",
          100 * bench::memory_share(gpu_named(name),
                                    {.batch = 8, .rows = 28672, .cols = 8192, .bits = 2, .planes = planes},
                                    bench::stream_build));
    std::printf("\n");
  }
}

void print_products(bool window) {
  constexpr std::array<std::pair<std::int64_t, std::int64_t>, 2> shapes{{{4096, 4096}, {14336, 4096}}};
  std::printf("| GPU |");
  for (const auto& [rows, cols] : shapes)
    for (const int m : {1, 16, 64})
      std::printf(" %lld x %lld, M = %d |", static_cast<long long>(rows), static_cast<long long>(cols), m);
  std::printf(" bound at M = 1, 64 |\n|---|---:|---:|---:|---:|---:|---:|---|\n");
  for (const char* name : modern) {
    const bench::Gpu& gpu = gpu_named(name);
    std::printf("| %s |", name);
    std::string bounds;
    for (const auto& [rows, cols] : shapes)
      for (const int m : {1, 16, 64}) {
        const bench::Prediction p = bench::predict(
                                    gpu,
                                    {.batch = m, .rows = rows, .cols = cols, .bits = 4, .window = window}),
                                fp16 =
                                    bench::predict(gpu, {.batch = m, .rows = rows, .cols = cols, .bits = 16});
        std::printf(" %.1f, %.1fx |", p.total(), fp16.total() / p.total());
        if (rows > 4096 && m != 16) bounds += (m == 1 ? "" : ", ") + std::string(p.bound());
      }
    std::printf(" %s |\n", bounds.c_str());
  }
}

void print_models() {
  std::printf("| model | bits |");
  for (const char* name : modern) std::printf(" %s |", name);
  std::printf("\n|---|---:|---:|---:|---:|---:|---:|---:|\n");
  for (const bench::Model& model : bench::models())
    for (const auto& [bits, planes] :
         {std::pair{16.0, 0}, {4.0, 0}, {3.0, 0}, {2.0, 0}, {2.0, 1}, {2.0, 2}}) {
      if (planes > 0 && model.experts.count > 0) continue;  // experts have no int8 product
      std::printf("| %s | %g%s |", model.name.data(), bits,
                  planes == 0   ? ""
                  : planes == 1 ? ", one plane"
                                : ", two planes");
      for (const char* name : modern) {
        for (const std::int64_t batch : token_batches)
          std::printf("%s%.0f", batch == 1 ? " " : ", ",
                      1e6 * static_cast<double>(batch) /
                          bench::predict_token(gpu_named(name), model, batch, bits, false,
                                               bench::stream_build, planes)
                              .us);
        std::printf(" |");
      }
      std::printf("\n");
    }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "4", only = argc > 2 ? argv[2] : "";
  if (first == "tokens") {
    print_tokens(only);
  } else if (first == "notes") {
    print_shares();
    std::printf("\n");
    print_products(false);
    std::printf("\n");
    print_products(true);
    std::printf("\n");
    print_models();
  } else {
    const bool window = first[0] == 'w';
    print_layers(std::atof(first.data() + (window ? 1 : 0)), window, only);
  }
}
