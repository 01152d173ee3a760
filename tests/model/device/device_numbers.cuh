// SPDX-License-Identifier: Apache-2.0
// Random numbers in host and device memory, for tests of the application's kernels.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/core/random.hpp>
#include <higgs/gpu/matrix.cuh>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "emulator/emulator.hpp"

/// `count` normal numbers of T with the deviation `factor`, seeded.
template <class T>
std::vector<T> random_numbers(std::uint64_t seed, std::int64_t count, float factor = 1) {
  std::vector<T> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<T>(factor * static_cast<float>(higgs::random_normal(seed, i)));
  return out;
}

/// A copy in device memory.
template <class T>
higgs::gpu::DeviceBuffer<T> on_device(const std::vector<T>& host) {
  return higgs::gpu::DeviceBuffer<T>(std::span<const T>(host));
}

/// Unit roundoff of a storage type: half the distance of neighbours around 1.
template <class T>
inline constexpr double roundoff = 0x1p-8;
template <>
inline constexpr double roundoff<higgs::Half> = 0x1p-11;

/// Calls check() once for each way in which tensor cores are said to add products; once on a GPU.
template <class Check>
void for_each_mma(Check check) {
  using emulator::MmaRounding;
  for (const MmaRounding each : {MmaRounding::Exact, MmaRounding::Ampere, MmaRounding::Hopper}) {
    emulator::options().mma = each;
    check();
    if (!emulator::in_use) break;
  }
  emulator::options() = {};
}
