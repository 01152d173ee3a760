// SPDX-License-Identifier: Apache-2.0
// What a GPU can do at most, and a model of the time of a quantized matmul made of it. A prediction, not a measurement:
// no figure of this file was measured; the rates are the vendors'.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

namespace bench {

struct Gpu {
  std::string_view name;
  int sms;
  double clock_ghz;
  double memory_gb_per_s;
  double products_per_clock;  // mma.sync, fp16 with fp32 sums, multiply-adds a clock and SM
};

inline constexpr std::array gpus{
    Gpu{"A100 40GB", 108, 1.41, 1555, 1024}, Gpu{"A100 80GB", 108, 1.41, 2039, 1024},
    Gpu{"H100 SXM", 132, 1.755, 3350, 1280},  // mma.sync reaches about 62 % of wgmma's 2048
    Gpu{"H200", 132, 1.755, 4800, 1280},     Gpu{"RTX 3090", 82, 1.70, 936, 256},
    Gpu{"RTX 4090", 128, 2.52, 1008, 256},   Gpu{"L40S", 142, 2.52, 864, 512},
    Gpu{"RTX 5090", 170, 2.41, 1792, 256},
};

/// y (batch, rows) = x (batch, cols) times the transposed weights (rows, cols).
struct Problem {
  std::int64_t batch, rows, cols;
  double bits;               // of a weight's code
  std::int64_t group = 256;  // inputs that share a 16-bit scale
  bool table = true;         // decoding looks codes up in shared memory

  double weight_bytes() const {
    return static_cast<double>(rows * cols) * (bits / 8 + 2.0 / static_cast<double>(group));
  }
  double bytes() const { return weight_bytes() + 2.0 * static_cast<double>(batch * (rows + cols)); }
};

/// The times, in microseconds, that each part would take alone.
struct Prediction {
  double memory, lookups, products, launch;
  /// The parts of one kernel overlap, so the longest counts.
  double total() const { return launch + std::max({memory, lookups, products}); }
  std::string_view bound() const {
    if (launch > std::max({memory, lookups, products})) return "launch";
    if (memory >= lookups && memory >= products) return "memory";
    return lookups >= products ? "lookups" : "products";
  }
};

inline Prediction predict(const Gpu& gpu, const Problem& p) {
  constexpr double launch_us = 2.5, shared_bytes_per_clock = 128;
  const double clocks_per_us = gpu.clock_ghz * 1e3 * gpu.sms;
  const double weights = static_cast<double>(p.rows * p.cols);
  const double padded_batch =
      static_cast<double>((p.batch + 7) / 8 * 8);                  // an mma takes 8 rows of activations
  const double slices = static_cast<double>((p.batch + 63) / 64);  // every 64 rows decode the weights again
  return {
      .memory = p.bytes() / (gpu.memory_gb_per_s * 1e3),
      .lookups = p.table ? slices * 2 * weights / shared_bytes_per_clock / clocks_per_us : 0,  // 2 bytes each
      .products = weights * padded_batch / gpu.products_per_clock / clocks_per_us,
      .launch = launch_us};
}

}  // namespace bench
