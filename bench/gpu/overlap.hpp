// SPDX-License-Identifier: Apache-2.0
// A toy model of one multiprocessor in the loop of a product: warps that wait for memory, the pipe of loads and the
// schedulers. A prediction, not a measurement.
#pragma once
#include <algorithm>
#include <queue>
#include <utility>
#include <vector>

namespace bench {

/// A memory, as one multiprocessor sees it: its part of the rate, and the time from a request to the data.
struct MemoryPart {
  double bytes_per_clock, latency_clocks;
};

/// What the warps of one multiprocessor do for each of their warp tiles (64 x 64 weights).
struct Loop {
  int warps = 4;
  int stages = 4;  // warp tiles of a warp whose codes are under way
  bool overlaps =
      true;  // codes are asked for as soon as a stage is free; false: all stages at the end of a round
  double bytes = 0;   // codes and scales
  double passes = 0;  // clocks of the pipe that shared memory and loads use, which all warps share
  double issue = 0;   // clocks of the warp's scheduler: instructions, or mma if these take longer
};

/// Clocks until all warps have multiplied `tiles` warp tiles each; the first codes are asked for at clock 0, the first is
/// multiplied at `begin` or later. Each pipe serves warps in the order in which they come; memory serves requests in their
/// order at its rate, and no earlier than its latency allows.
inline double loop_clocks(const Loop& loop, const MemoryPart& memory, int tiles, double begin) {
  double memory_free = 0, pipe_free = 0, end = begin;
  double scheduler_free[4] = {};
  const auto ask = [&](double when) {
    memory_free = std::max(memory_free, when) + loop.bytes / memory.bytes_per_clock;
    return std::max(when + memory.latency_clocks, memory_free);
  };
  struct Warp {
    std::vector<double> arrives;  // of each tile that was asked for
    int done = 0;
  };
  std::vector<Warp> warps(static_cast<std::size_t>(loop.warps));
  for (int s = 0; s < std::min(loop.stages, tiles); ++s)
    for (Warp& warp : warps) warp.arrives.push_back(ask(0));
  using Next = std::pair<double, int>;  // when a warp can go on, and which
  std::priority_queue<Next, std::vector<Next>, std::greater<>> queue;
  for (int w = 0; w < loop.warps && tiles > 0; ++w)
    queue.push({std::max(begin, warps[static_cast<std::size_t>(w)].arrives[0]), w});
  while (!queue.empty()) {
    const auto [now, w] = queue.top();
    queue.pop();
    Warp& warp = warps[static_cast<std::size_t>(w)];
    pipe_free = std::max(pipe_free, now) + loop.passes;
    double& scheduler = scheduler_free[w % 4];
    scheduler = std::max(scheduler, now) + loop.issue;
    const double finished = std::max(pipe_free, scheduler);
    end = std::max(end, finished);
    ++warp.done;
    const bool round_ends = warp.done % loop.stages == 0;
    const int wanted = loop.overlaps ? warp.done + loop.stages : round_ends ? warp.done + loop.stages : 0;
    while (static_cast<int>(warp.arrives.size()) < std::min(wanted, tiles))
      warp.arrives.push_back(ask(finished));
    if (warp.done < tiles)
      queue.push({std::max(finished, warp.arrives[static_cast<std::size_t>(warp.done)]), w});
  }
  return end;
}

}  // namespace bench
