// SPDX-License-Identifier: Apache-2.0
// Runs the same work under other schedules and devices of the emulator; on a GPU it just runs it again.
#pragma once

#include "emulator.hpp"

#include <cstdint>

namespace emulator {

/// Calls work(seed) in the order of warps first, then `count` times in random ones that are checked for races.
template <class Work>
void for_each_schedule(std::uint32_t count, Work&& work) {
  const Options before = options();
  for (std::uint32_t seed = 0; seed <= (in_use ? count : 0); ++seed) {
    options().seed = seed;
    options().check_races = seed != 0;
    work(seed);
  }
  options() = before;
}

/// Calls work(multiprocessors) on devices that claim so many.
template <class Work>
void for_each_device(Work&& work) {
  const Options before = options();
  for (const int count : {40, 84, 108, 132, 170}) {
    options().sm_count = count;
    work(count);
    if (!in_use) break;
  }
  options() = before;
}

}  // namespace emulator
