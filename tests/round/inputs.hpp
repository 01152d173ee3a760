// SPDX-License-Identifier: Apache-2.0
// What the tests of rounding share: inputs, and the messages of refusals.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

/// Numbers of N(0, 1).
inline std::vector<float> normals(std::int64_t count, std::uint64_t seed) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(higgs::random_normal(seed, i));
  return x;
}

/// Rows of inputs (rows, cols) that are correlated, and of different magnitudes.
inline std::vector<float> inputs(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  std::vector<float> x = normals(rows * cols, seed);
  for (std::size_t i = 1; i < x.size(); ++i) x[i] = std::fma(0.8f, x[i - 1], x[i]);
  for (std::size_t i = 3; i < x.size(); i += 7) x[i] *= 6;
  return x;
}

/// The message with which call() refuses its arguments; empty if it takes them.
template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const higgs::InvalidArgument& error) {
    return error.what();
  }
  return {};
}

/// Whether `part` is in `text`.
inline bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}
