// SPDX-License-Identifier: Apache-2.0
// Weights on their way to the second-level cache, ahead of the loads that bring them to registers: these then wait for
// the cache and not for memory. A warp asks for neighbouring warp tiles, 8 or 16 KiB ahead, with one instruction for a
// round or a chunk. From sm_90 on; nothing before.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/pack/fragment_decoder.cuh>

#include <cuda_runtime.h>

namespace higgs {
inline namespace v0 {
namespace gpu {
namespace detail {

/// What a warp asks for whose loads run `Stages` steps ahead, where step p is warp tile p of neighbouring ones: about `Bytes`
/// bytes ahead of the loads.
template <class Format, int Stages, int Bytes = 16384>
struct StreamPrefetch {
  static constexpr int tile_bytes = 16 * tile_units<Format>;
  static constexpr int ahead = Bytes / tile_bytes / Stages * Stages;  // warp tiles ahead of the loads

  /// Warp tiles [first, first + count).
  struct Request {
    int first, count;
  };
  /// Before the first step.
  static HIGGS_HOST_DEVICE Request first_request(int step, int end_step) {
    return within(step + Stages, ahead, end_step);
  }
  /// Before the `steps` steps from `step` on: as many warp tiles behind those that were asked for before.
  static HIGGS_HOST_DEVICE Request next_request(int step, int steps, int end_step) {
    return within(step + Stages + ahead, steps, end_step);
  }

  /// One lane puts the request forward; next_load: the warp tile that is loaded next, of step `step` + Stages.
  static __device__ void begin(const uint4* next_load, int thread, int step, int end_step) {
    put(next_load, thread, step, first_request(step, end_step));
  }
  static __device__ void advance(const uint4* next_load, int thread, int step, int steps, int end_step) {
    put(next_load, thread, step, next_request(step, steps, end_step));
  }

 private:
  static HIGGS_HOST_DEVICE Request within(int first, int count, int end_step) {
    const int left = end_step - first;
    return {first, count < left ? count : left > 0 ? left : 0};
  }
  static __device__ void put([[maybe_unused]] const uint4* next_load, [[maybe_unused]] int thread,
                             [[maybe_unused]] int step, [[maybe_unused]] Request request) {
#if __CUDA_ARCH__ >= 900
    if (request.count > 0 && thread % 32 == 0)
      prefetch_to_cache(next_load + (request.first - step - Stages) * tile_units<Format>,
                        request.count * tile_bytes);
#endif
  }
};

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
