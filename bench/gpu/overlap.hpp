// SPDX-License-Identifier: Apache-2.0
// A toy model of one multiprocessor in the loop of a product: warps that wait for memory, the pipe of loads and the
// schedulers. A prediction, not a measurement.
#pragma once
#include <algorithm>
#include <cstddef>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

namespace bench {

/// A memory, as one multiprocessor sees it: its part of the rate, and the time from a request to the data.
struct MemoryPart {
  double bytes_per_clock, latency_clocks;
  double cache_latency_clocks;  // where the second-level cache has the data
};

/// What the warps of one multiprocessor do for each of their warp tiles (64 x 64 weights).
struct Loop {
  int warps = 4;
  int stages = 4;  // warp tiles of a warp whose codes are on their way to registers
  int ahead = 0;   // further ones on their way to the second-level cache
  bool overlaps =
      true;  // codes are asked for as soon as a stage is free; false: all stages at the end of a round
  double bytes = 0;   // codes and scales
  double passes = 0;  // clocks of the pipe that shared memory and loads use, which all warps share
  double issue = 0;   // clocks of the warp's scheduler: instructions, or mma if these take longer
};

namespace detail {

/// One warp in loop_clocks.
struct LoopWarp {
  std::vector<double> arrives;  // clock at which each tile that was asked for is in the cache
  std::vector<double> ready;    // clock at which each tile that is being loaded is in registers
  int done = 0;
};

}  // namespace detail

/// Clocks until all warps have multiplied `tiles` warp tiles each; the first codes are asked for at clock 0, the first is
/// multiplied at `begin` or later. Each pipe serves warps in the order in which they come; memory serves requests in their
/// order at its rate, and no earlier than its latency allows.
inline double loop_clocks(const Loop& loop, const MemoryPart& memory, int tiles, double begin) {
  double memory_free = 0, pipe_free = 0, end = begin;
  double scheduler_free[4] = {};
  std::vector<detail::LoopWarp> warps(static_cast<std::size_t>(loop.warps));
  const auto ask_until = [&](detail::LoopWarp& warp, int count, double when) {
    while (static_cast<int>(warp.arrives.size()) < std::min(count, tiles)) {
      memory_free = std::max(memory_free, when) + loop.bytes / memory.bytes_per_clock;
      warp.arrives.push_back(std::max(when + memory.latency_clocks, memory_free));
    }
  };
  const auto load_until = [&](detail::LoopWarp& warp, int count, double when) {
    ask_until(warp, count, when);
    while (static_cast<int>(warp.ready.size()) < std::min(count, tiles)) {
      const double arrives = warp.arrives[warp.ready.size()];
      warp.ready.push_back(loop.ahead > 0 ? std::max(arrives, when + memory.cache_latency_clocks) : arrives);
    }
  };
  using Next = std::pair<double, int>;  // when a warp can go on, and which
  std::priority_queue<Next, std::vector<Next>, std::greater<>> queue;
  for (int w = 0; w < loop.warps && tiles > 0; ++w) {
    detail::LoopWarp& warp = warps[static_cast<std::size_t>(w)];
    load_until(warp, loop.stages, 0);
    queue.push({std::max(begin, warp.ready[0]), w});
  }
  if (loop.ahead > 0)
    for (detail::LoopWarp& warp : warps) ask_until(warp, loop.stages + loop.ahead, 0);
  while (!queue.empty()) {
    const auto [now, w] = queue.top();
    queue.pop();
    detail::LoopWarp& warp = warps[static_cast<std::size_t>(w)];
    pipe_free = std::max(pipe_free, now) + loop.passes;
    double& scheduler = scheduler_free[w % 4];
    scheduler = std::max(scheduler, now) + loop.issue;
    const double finished = std::max(pipe_free, scheduler);
    end = std::max(end, finished);
    ++warp.done;
    if (loop.ahead > 0) ask_until(warp, warp.done + loop.stages + loop.ahead, finished);
    // Beside a single stage the next tile has registers of its own: it is asked for before this one is multiplied.
    const double refilled = loop.stages == 1 ? now : finished;
    if (loop.overlaps || warp.done % loop.stages == 0) load_until(warp, warp.done + loop.stages, refilled);
    if (warp.done < tiles)
      queue.push({std::max(finished, warp.ready[static_cast<std::size_t>(warp.done)]), w});
  }
  return end;
}

}  // namespace bench
