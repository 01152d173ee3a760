// SPDX-License-Identifier: Apache-2.0
// What a GPU can do at most, and a model of the time of a quantized matmul made of it. A prediction, not a
// measurement: the rates are the vendors', the counts those of the emulator (bench/README.md), and no GPU was
// timed.
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
  // Multiply-adds a clock and SM, fp16 with fp32 sums: by mma.sync, and by the best instruction, which cuBLAS
  // uses.
  double products_per_clock, dense_products_per_clock;
};

inline constexpr std::array gpus{
    Gpu{"A100 40GB", 108, 1.41, 1555, 1024, 1024},
    Gpu{"A100 80GB", 108, 1.41, 2039, 1024, 1024},
    Gpu{"H100 SXM", 132, 1.755, 3350, 1280, 2048},  // mma.sync: about 62 % of wgmma
    Gpu{"H200", 132, 1.755, 4800, 1280, 2048},
    Gpu{"B200", 148, 1.85, 8000, 1024, 4096},  // mma.sync: a guess
    Gpu{"RTX 3090", 82, 1.70, 936, 256, 256},
    Gpu{"RTX 4090", 128, 2.52, 1008, 256, 256},
    Gpu{"L40S", 142, 2.52, 864, 512, 512},
    Gpu{"RTX 5090", 170, 2.41, 1792, 256, 256},
};

/// The GPU of that many multiprocessors whose memory is nearest to the rate that a copy reached; none:
/// nullptr.
inline const Gpu* gpu_like(int sms, double copy_gb_per_s) {
  const auto miss = [&](const Gpu& g) {
    return std::max(g.memory_gb_per_s / copy_gb_per_s, copy_gb_per_s / g.memory_gb_per_s);
  };
  const Gpu* best = nullptr;
  for (const Gpu& each : gpus)
    if (each.sms == sms && (best == nullptr || miss(each) < miss(*best))) best = &each;
  return best;
}

/// y (batch, rows) = x (batch, cols) times the transposed weights (rows, cols).
struct Problem {
  std::int64_t batch, rows, cols;
  double bits;                // of a weight's code; 16: dense
  std::int64_t group = 1024;  // inputs that share a 16-bit scale
  bool window = false;        // a window code of 2 to 4 bits, not a grid

  bool dense() const { return bits >= 16; }
  double weights() const { return static_cast<double>(rows * cols); }
  double weight_bytes() const {
    const double tail = window ? 64.0 / 4096 : 0;  // bytes of context in a warp tile
    return weights() * (bits / 8 + tail + (dense() ? 0 : 2.0 / static_cast<double>(group)));
  }
  double bytes() const { return weight_bytes() + 2.0 * static_cast<double>(batch * (rows + cols)); }
};

/// What the streaming kernel does for 1000 weights with so many rows of activations at a time, as the
/// emulator counts. Up to 4 rows it rotates them, too.
struct KernelCounts {
  std::int64_t batch;
  double instructions, shared_passes;
};
inline constexpr std::int64_t rotated_inside = 4;
inline constexpr std::array kernel_counts{KernelCounts{1, 63.5, 20.9},  KernelCounts{2, 70.0, 22.3},
                                          KernelCounts{4, 82.6, 25.1},  KernelCounts{8, 59.4, 20.0},
                                          KernelCounts{16, 70.7, 22.4}, KernelCounts{32, 90.4, 27.3},
                                          KernelCounts{64, 131.2, 37.1}};
/// The same for window codes of 4 bits; other rates take up to 7 instructions more.
inline constexpr std::array window_counts{KernelCounts{1, 107.2, 21.0},  KernelCounts{2, 113.7, 22.4},
                                          KernelCounts{4, 126.3, 25.2},  KernelCounts{8, 103.6, 20.1},
                                          KernelCounts{16, 115.0, 22.5}, KernelCounts{32, 135.2, 27.4},
                                          KernelCounts{64, 177.6, 38.5}};
inline double window_instructions(double bits) {
  return bits == 4 ? 0 : bits == 3.5 ? 4.9 : bits == 3 ? 5.9 : bits == 2.5 ? 6.8 : 3.7;
}

/// The times, in microseconds, that each part would take alone.
struct Prediction {
  double memory, issue, lookups, products, launch;
  double longest() const { return std::max({memory, issue, lookups, products}); }
  /// The parts of one kernel overlap, so the longest counts.
  double total() const { return launch + longest(); }
  std::string_view bound() const {
    if (launch > longest()) return "launch";
    if (memory == longest()) return "memory";
    return products == longest() ? "products" : issue == longest() ? "issue" : "lookups";
  }
};

/// A fused product is two launches, rotation and product, or one for few rows; a dense one is one.
inline Prediction predict(const Gpu& gpu, const Problem& p) {
  constexpr double launch_us = 2, warp_instructions_per_clock = 4, passes_per_clock = 1;
  const double clocks_per_us = gpu.clock_ghz * 1e3 * gpu.sms;
  const double padded_batch =
      static_cast<double>((p.batch + 7) / 8 * 8);  // an mma takes 8 rows of activations
  Prediction out{.memory = p.bytes() / (gpu.memory_gb_per_s * 1e3),
                 .issue = 0,
                 .lookups = 0,
                 .products = p.weights() * padded_batch / clocks_per_us /
                             (p.dense() ? gpu.dense_products_per_clock : gpu.products_per_clock),
                 .launch = p.dense() || p.batch <= rotated_inside ? launch_us : 2 * launch_us};
  if (p.dense()) return out;
  const std::int64_t columns = std::min<std::int64_t>(p.batch, 64);  // the kernel's widest tile
  const auto& all = p.window ? window_counts : kernel_counts;
  const auto& counts = *std::find_if(all.begin(), all.end() - 1,
                                     [&](const KernelCounts& each) { return columns <= each.batch; });
  const double instructions = counts.instructions + (p.window ? window_instructions(p.bits) : 0);
  const double thousands = p.weights() / 1000 * static_cast<double>((p.batch + 63) / 64);
  out.issue = thousands * instructions / warp_instructions_per_clock / clocks_per_us;
  out.lookups = thousands * counts.shared_passes / passes_per_clock / clocks_per_us;
  return out;
}

}  // namespace bench
