// SPDX-License-Identifier: Apache-2.0
// What GPUs can do at most, and a model of the time of a quantized matmul made of it. A PREDICTION, not a measurement: the
// rates are the vendors', the counts those of the emulator (docs/notes/cuda-kernels.md), latencies are assumed, and no GPU
// was timed.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>

#include "overlap.hpp"
#include "shapes.hpp"

namespace bench {

struct Gpu {
  std::string_view name;
  int sms;
  double clock_ghz;
  double memory_gb_per_s;
  // Multiply-adds a clock and multiprocessor, fp16 with fp32 sums: by mma.sync, and by the best instruction, which
  // cuBLAS uses.
  double products_per_clock, dense_products_per_clock;
  int blocks;         // blocks of the streaming kernel that shared memory has room for
  bool prefetches;    // whether kernels can ask for data to come to the second-level cache: sm_90 and later
  double latency_ns;  // latency under load, ns: an assumption
};

inline constexpr std::array gpus{
    Gpu{"A100 40GB", 108, 1.41, 1555, 1024, 1024, 2, false, 600},
    Gpu{"A100 80GB", 108, 1.41, 2039, 1024, 1024, 2, false, 600},
    Gpu{"H100 SXM", 132, 1.755, 3350, 1280, 2048, 3, true, 700},  // mma.sync: about 62 % of wgmma
    Gpu{"H200", 132, 1.755, 4800, 1280, 2048, 3, true, 700},
    Gpu{"B200", 148, 1.85, 8000, 1024, 4096, 3, true, 800},  // mma.sync: a guess
    Gpu{"RTX 3090", 82, 1.70, 936, 256, 256, 1, false, 600},
    Gpu{"RTX 4090", 128, 2.52, 1008, 256, 256, 1, false, 600},
    Gpu{"L40S", 142, 2.52, 864, 512, 512, 1, false, 600},
    Gpu{"RTX 5090", 170, 2.41, 1792, 256, 256, 1, true, 600},
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
  double bits;                // bits a weight, scales apart; 16: dense
  std::int64_t group = 1024;  // inputs that share a 16-bit scale
  bool window = false;        // a window code of 2 to 4 bits, not a grid
  int planes =
      0;  // planes of int8 activations, for grids of 2 bits and few rows of x (MatmulPlan::int8_planes)

  bool int8() const { return planes > 0 && bits == 2 && !window && batch * planes <= 32; }
  bool dense() const { return bits >= 16; }
  double weights() const { return static_cast<double>(rows * cols); }
  /// Bytes of codes and scales for a weight.
  double bytes_per_weight() const {
    const double tail = window ? 64.0 / 4096 : 0;  // bytes of context in a warp tile
    return bits / 8 + tail + (dense() ? 0 : 2.0 / static_cast<double>(group));
  }
  double weight_bytes() const { return weights() * bytes_per_weight(); }
  double bytes() const { return weight_bytes() + 2.0 * static_cast<double>(batch * (rows + cols)); }
};

/// What the streaming kernel does for 1000 weights with so many rows of activations at a time, as the
/// emulator counts. Up to 4 rows it rotates them, too.
struct KernelCounts {
  std::int64_t batch;
  double instructions, shared_passes;
};
inline constexpr std::int64_t rotated_inside = 4;
inline constexpr std::array kernel_counts{KernelCounts{1, 64.8, 21.1},  KernelCounts{2, 71.8, 22.5},
                                          KernelCounts{4, 84.0, 25.4},  KernelCounts{8, 59.7, 20.2},
                                          KernelCounts{16, 71.4, 22.7}, KernelCounts{32, 94.5, 27.6},
                                          KernelCounts{64, 133.2, 38.7}};
/// Instructions beyond those of 4 bits.
inline double grid_instructions(double bits) { return bits == 3 ? 4.4 : bits == 2 ? -15.9 : 0; }
/// The same for window codes of 4 bits; other rates take up to 7 instructions more.
inline constexpr std::array window_counts{KernelCounts{1, 108.0, 21.1},  KernelCounts{2, 115.0, 22.5},
                                          KernelCounts{4, 127.2, 25.4},  KernelCounts{8, 104.1, 20.2},
                                          KernelCounts{16, 115.6, 22.7}, KernelCounts{32, 138.3, 27.6},
                                          KernelCounts{64, 177.4, 38.7}};
inline double window_instructions(double bits) {
  return bits == 4 ? 0 : bits == 3.5 ? 4.9 : bits == 3 ? 5.9 : bits == 2.5 ? 6.8 : 3.7;
}

/// The same for the int8 product of 2 bits, with one plane of activations and with two.
inline constexpr std::array int8_counts{KernelCounts{1, 48.8, 12.4}, KernelCounts{4, 73.9, 16.7},
                                        KernelCounts{8, 42.4, 11.3}, KernelCounts{16, 50.1, 12.6},
                                        KernelCounts{32, 68.1, 15.2}};
inline constexpr std::array int8_counts_of_two{KernelCounts{1, 50.5, 12.6}, KernelCounts{4, 78.0, 17.3},
                                               KernelCounts{8, 48.6, 12.6}, KernelCounts{16, 65.5, 15.2}};

/// How a streaming kernel is built, as far as time depends on it.
struct StreamBuild {
  bool overlaps;              // see Loop
  int stages_beyond_8;        // for 9 to 32 rows of x
  int blocks;                 // blocks on a multiprocessor from sm_90 on, where each warp has 8 warp tiles
  int cache_bytes;            // bytes a warp that are on their way to the second-level cache, from sm_90 on
  int cache_bytes_beyond_32;  // the same for 33 to 64 rows of x
  int fixup_quads;            // 16-byte parts of the sums that a thread of the fixup has under way
  bool loads_together;        // whether the table, x and the first codes are asked for at once
};
/// The kernel of this tree, and the one that it had before its loads overlapped.
inline constexpr StreamBuild stream_build{true, 4, 2, 16384, 8192, 16, true};
inline constexpr StreamBuild serial_build{false, 2, 1, 0, 0, 1, false};

/// What is assumed and not counted.
struct Assumptions {
  double memory_share = 0.92;         // share of the vendor's rate that a copy reaches
  double cache_latency_clocks = 300;  // the second-level cache
  double launch_us = 2.0;             // launch of a lone kernel, us
  double next_us = 1.0;               // from one kernel to the next in a graph
  double rotation_clocks = 1100;      // 885 instructions of one warp
  double dense_share = 0.8;           // share of the tensor cores' rate that cuBLAS reaches
  double dense_begin_us = 1.5;        // filling and draining its pipeline
};
inline constexpr Assumptions assumed;

/// The times, in microseconds, that each part would take alone, and what the loop takes with all of them.
struct Prediction {
  double memory = 0, issue = 0, lookups = 0, products = 0;
  double loop = 0, prologue = 0, tail = 0, launch = 0;
  double total() const { return launch + prologue + loop + tail; }
  std::string_view bound() const {
    const double longest = std::max({memory, issue, lookups, products});
    if (launch + prologue + tail > loop) return "ends";
    if (loop > 1.15 * longest) return "latency";
    if (memory == longest) return "memory";
    return products == longest ? "products" : issue == longest ? "issue" : "lookups";
  }
};

namespace detail {

inline MemoryPart memory_of(const Gpu& gpu) {
  return {assumed.memory_share * gpu.memory_gb_per_s / gpu.sms / gpu.clock_ghz,
          gpu.latency_ns * gpu.clock_ghz, assumed.cache_latency_clocks};
}

/// Columns of mma, of 16-bit numbers: tensor cores are assumed to take two int8 ones in the time of one.
inline double mma_columns(const Problem& p) {
  const std::int64_t rows = std::min<std::int64_t>(p.batch, 64) * (p.int8() ? p.planes : 1);
  return static_cast<double>((rows + 7) / 8 * 8) / (p.int8() ? 2 : 1);
}

/// The loop of one multiprocessor for up to 64 rows of x.
inline Loop loop_of(const Gpu& gpu, const Problem& p, const StreamBuild& build) {
  constexpr double tile = 4.096;  // thousand weights
  const std::int64_t columns = std::min<std::int64_t>(p.batch, 64);
  const auto counts_in = [&](const auto& all) {
    return *std::find_if(all.begin(), all.end() - 1,
                         [&](const KernelCounts& each) { return columns <= each.batch; });
  };
  KernelCounts counts = p.int8()
                            ? counts_in(p.planes == 1 ? std::span<const KernelCounts>(int8_counts)
                                                      : std::span<const KernelCounts>(int8_counts_of_two))
                        : p.window ? counts_in(window_counts)
                                   : counts_in(kernel_counts);
  if (!p.int8()) counts.instructions += p.window ? window_instructions(p.bits) : grid_instructions(p.bits);
  const double instructions = counts.instructions * tile;
  const double mma = tile * 1e3 * mma_columns(p) / (gpu.products_per_clock / 4);
  Loop loop;
  loop.overlaps = build.overlaps;
  // Beside 33 to 64 rows of sums one warp tile's codes are on their way.
  loop.stages = p.int8()        ? (columns * p.planes <= 16 ? 8 : 4)
                : columns <= 8  ? 4
                : columns <= 32 ? build.stages_beyond_8
                                : 1;
  const double tiles_per_warp = p.weights() / 4096 / gpu.sms / 4;
  const int blocks = gpu.prefetches && tiles_per_warp >= 8 * build.blocks ? build.blocks : 1;
  loop.warps = 4 * std::min(blocks, gpu.blocks);
  loop.bytes = tile * 1e3 * p.bytes_per_weight();
  const int cache_bytes = columns <= 32 ? build.cache_bytes : build.cache_bytes_beyond_32;
  loop.ahead = gpu.prefetches ? static_cast<int>(cache_bytes / loop.bytes) : 0;
  loop.passes = counts.shared_passes * tile + loop.bytes / 128;  // what memory gives passes the same pipe
  loop.issue = std::max(instructions, mma);
  return loop;
}

/// From the last product to the last y: sums of split rows to the workspace, and their addition by one block.
inline double tail_clocks(const Problem& p, const StreamBuild& build) {
  const double columns = static_cast<double>(std::min<std::int64_t>((p.batch + 7) / 8 * 8, 64));
  const double quads = columns * 64 / 128;  // quads of 256 rows for each of 128 threads
  const double turns = std::ceil(quads / build.fixup_quads);
  const double each =
      1.5 * assumed.cache_latency_clocks + 15.0 * std::min<double>(build.fixup_quads, quads) + 100;
  return 4 * assumed.cache_latency_clocks + turns * each;
}

inline Prediction predict_dense(const Gpu& gpu, const Problem& p) {
  const double padded = static_cast<double>((p.batch + 7) / 8 * 8);
  Prediction out;
  out.memory = p.bytes() / (gpu.memory_gb_per_s * 1e3 * assumed.memory_share);
  out.products = p.weights() * padded / (gpu.clock_ghz * 1e3 * gpu.sms) / gpu.dense_products_per_clock /
                 assumed.dense_share;
  out.loop = std::max(out.memory, out.products);
  out.prologue = assumed.dense_begin_us;
  out.launch = assumed.launch_us;
  return out;
}

}  // namespace detail

/// A fused product: rotation and product, one launch for up to 4 rows of x, else two; 64 rows of x at a time. A dense one
/// is one launch.
inline Prediction predict(const Gpu& gpu, const Problem& p, const StreamBuild& build = stream_build) {
  if (p.dense()) return detail::predict_dense(gpu, p);
  const double clocks_per_us = gpu.clock_ghz * 1e3;
  const bool inside = p.batch <= rotated_inside;
  const MemoryPart memory = detail::memory_of(gpu);
  const Loop loop = detail::loop_of(gpu, p, build);
  const double all_tiles = p.weights() / 4096 * static_cast<double>((p.batch + 63) / 64);
  const int tiles = static_cast<int>(std::ceil(all_tiles / gpu.sms / loop.warps));
  const double begin = memory.latency_clocks * (build.loads_together ? 1
                                                : inside             ? 2
                                                                     : 1.5) +
                       (inside ? assumed.rotation_clocks * std::ceil(static_cast<double>(p.batch) / 4) : 0) +
                       300;
  const double end = loop_clocks(loop, memory, tiles, begin);
  Prediction out;
  const double tiles_per_sm = all_tiles / gpu.sms;
  out.memory = tiles_per_sm * loop.bytes / memory.bytes_per_clock / clocks_per_us;
  out.lookups = tiles_per_sm * loop.passes / clocks_per_us;
  const double mma = 4096 * detail::mma_columns(p) / gpu.products_per_clock;
  out.products = tiles_per_sm * mma / clocks_per_us;
  out.issue = tiles_per_sm * loop.issue / 4 / clocks_per_us;
  if (out.issue <= out.products) out.issue = 0;  // the same scheduler
  out.prologue = begin / clocks_per_us;
  out.loop = (end - begin) / clocks_per_us;
  out.tail = detail::tail_clocks(p, build) / clocks_per_us;
  out.launch = assumed.launch_us + (inside ? 0 : assumed.next_us + 1);  // rotating alone takes 1 us
  return out;
}

/// A step of a whole model: one token for each of `batch` sequences.
struct TokenPrediction {
  double us = 0;     // time of all linear layers in one graph, us
  double bytes = 0;  // bytes of weights that are read
  int launches = 0;
};

/// Experts are one launch for each of their layers: the expected number of different ones that `batch` tokens take, each
/// with an equal part of the rows.
inline TokenPrediction predict_token(const Gpu& gpu, const Model& model, std::int64_t batch, double bits,
                                     bool window = false, const StreamBuild& build = stream_build,
                                     int planes = 0) {
  TokenPrediction out;
  // Only the first kernel of a graph pays a whole launch.
  const auto add = [&](const Problem& p, int count) {
    const Prediction each = predict(gpu, p, build);
    const int kernels = p.dense() || p.batch <= rotated_inside ? 1 : 2;
    out.us += count * (each.total() - assumed.launch_us + assumed.next_us);
    out.bytes += count * p.weight_bytes();
    out.launches += count * kernels;
  };
  for (const ModelLayer& layer : model.layers)
    add({.batch = batch,
         .rows = layer.rows,
         .cols = layer.cols,
         .bits = bits,
         .window = window,
         .planes = planes},
        layer.count);
  const ModelExperts& experts = model.experts;
  if (experts.count > 0) {
    const double active = static_cast<double>(experts.active) / experts.count;
    const double different = experts.count * (1 - std::pow(1 - active, static_cast<double>(batch)));
    const double rows_each = static_cast<double>(batch * experts.active) / different;
    for (const ModelLayer& layer : experts.layers)  // as one matrix of all their rows
      add({.batch = std::max<std::int64_t>(1, std::llround(rows_each)),
           .rows = std::llround(different * static_cast<double>(layer.rows)),
           .cols = layer.cols,
           .bits = bits,
           .window = window},
          layer.count);
  }
  out.us = out.us * model.blocks + assumed.launch_us;
  out.bytes *= model.blocks;
  out.launches *= model.blocks;
  return out;
}

/// The share of the vendor's memory rate at which codes pass in the steady state of the loop.
inline double memory_share(const Gpu& gpu, const Problem& p, const StreamBuild& build) {
  const MemoryPart memory = detail::memory_of(gpu);
  const Loop loop = detail::loop_of(gpu, p, build);
  const double clocks = loop_clocks(loop, memory, 1200, 0) - loop_clocks(loop, memory, 400, 0);
  return 800 * loop.warps * loop.bytes / clocks / memory.bytes_per_clock * assumed.memory_share;
}

}  // namespace bench
