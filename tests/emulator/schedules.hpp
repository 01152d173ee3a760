// SPDX-License-Identifier: Apache-2.0
// Runs the same work under other schedules and devices of the emulator; on a GPU it repeats the work while copies on
// another stream disturb it.
#pragma once

#include "emulator.hpp"

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <thread>

namespace emulator {

/// Copies between two buffers of 32 MiB, one after the other on a stream of their own, until it is destroyed: what else
/// happens on a GPU changes when the blocks and warps of a kernel run. For a GPU alone.
class CopiesMeanwhile {
 public:
  CopiesMeanwhile() : worker_([this] { copy_until_done(); }) {}
  CopiesMeanwhile(const CopiesMeanwhile&) = delete;
  CopiesMeanwhile& operator=(const CopiesMeanwhile&) = delete;
  ~CopiesMeanwhile() {
    done_ = true;
    worker_.join();
  }

 private:
  void copy_until_done() {
    constexpr std::size_t bytes = std::size_t{32} << 20;
    cudaStream_t stream = nullptr;
    void *from = nullptr, *to = nullptr;
    bool works = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
                 cudaMalloc(&from, bytes) == cudaSuccess && cudaMalloc(&to, bytes) == cudaSuccess;
    while (works && !done_)
      works = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream) == cudaSuccess &&
              cudaStreamSynchronize(stream) == cudaSuccess;
    static_cast<void>(cudaFree(from));
    static_cast<void>(cudaFree(to));
    static_cast<void>(cudaStreamDestroy(stream));
  }

  std::atomic<bool> done_ = false;
  std::thread worker_;
};

/// Calls work(seed): on the emulator with seed 0 in the order of warps, then `count` times in random ones that are checked
/// for races; on a GPU 50 * count + 1 times beside CopiesMeanwhile (HIGGS_REPETITIONS: another number than 50).
template <class Work>
void for_each_schedule(std::uint32_t count, Work&& work) {
  if constexpr (in_use) {
    const Options before = options();
    for (std::uint32_t seed = 0; seed <= count; ++seed) {
      options().seed = seed;
      options().check_races = seed != 0;
      work(seed);
    }
    options() = before;
  } else {
    const char* const other = std::getenv("HIGGS_REPETITIONS");
    const std::uint32_t each = other != nullptr ? static_cast<std::uint32_t>(std::atoi(other)) : 50;
    const CopiesMeanwhile copies;
    for (std::uint32_t seed = 0; seed <= each * count; ++seed) work(seed);
  }
}

/// Calls work(model) for each way in which tensor cores sum products; on a GPU once, in its own way.
template <class Work>
void for_each_mma_rounding(Work&& work) {
  const Options before = options();
  for (const MmaRounding rounding : {MmaRounding::Exact, MmaRounding::Ampere, MmaRounding::Hopper}) {
    options().mma = rounding;
    work(rounding);
    if (!in_use) break;
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
