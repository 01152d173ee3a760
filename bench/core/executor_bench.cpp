// SPDX-License-Identifier: Apache-2.0
// What a run of the thread pool costs beyond its tasks: the call itself, and until all threads work, for threads that
// are awake since the last run and for threads that went to sleep.
#include <higgs/core/executor.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

void wait(std::chrono::microseconds time) {
  for (const auto end = Clock::now() + time; Clock::now() < end;) benchmark::ClobberMemory();
}

// Times `run` after pauses in which the caller computes; the median is what counts, means contain preemptions.
template <class Run>
void measure(benchmark::State& state, std::chrono::microseconds pause, Run run) {
  higgs::ThreadPool pool;
  std::vector<double> times;
  for (auto _ : state) {
    wait(pause);
    const auto start = Clock::now();
    run(pool);
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    state.SetIterationTime(times.back());
  }
  std::nth_element(times.begin(), times.begin() + std::ssize(times) / 2, times.end());
  state.counters["median_us"] = 1e6 * times[times.size() / 2];
  state.counters["threads"] = pool.width();
}

const int registered = [] {
  const struct {
    const char* name;
    std::chrono::microseconds pause;
  } states[] = {{"awake", std::chrono::microseconds(5)}, {"asleep", std::chrono::microseconds(1000)}};
  for (const auto& [name, pause] : states) {
    const std::string where = std::string("core/executor/") + name;
    for (const std::int64_t tasks : {2, 16})
      benchmark::RegisterBenchmark((where + "/empty_tasks/" + std::to_string(tasks)).c_str(),
                                   [pause = pause, tasks](benchmark::State& state) {
                                     measure(state, pause, [tasks](higgs::Executor& pool) {
                                       pool.run(tasks, [](std::int64_t) { benchmark::ClobberMemory(); });
                                     });
                                   })
          ->UseManualTime()
          ->Iterations(500);
    // A task for each thread that ends when all have begun.
    benchmark::RegisterBenchmark((where + "/all_threads").c_str(),
                                 [pause = pause](benchmark::State& state) {
                                   measure(state, pause, [](higgs::Executor& pool) {
                                     std::atomic<int> begun{0};
                                     pool.run(pool.width(), [&](std::int64_t) {
                                       ++begun;
                                       while (begun < pool.width()) benchmark::ClobberMemory();
                                     });
                                   });
                                 })
        ->UseManualTime()
        ->Iterations(500);
  }
  return 0;
}();

}  // namespace
