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
