// SPDX-License-Identifier: Apache-2.0
// Matrices that tests of the product share.
#pragma once

#include <higgs/core/matrix_view.hpp>
#include <higgs/core/random.hpp>

#include <cstdint>
#include <vector>

/// A (rows, cols) matrix of N(0, 1) numbers that owns its storage.
template <class T = float>
struct Normals {
  Normals(std::int64_t rows, std::int64_t cols, std::uint64_t seed)
      : data(static_cast<std::size_t>(rows * cols)), view(data.data(), rows, cols) {
    for (std::size_t i = 0; i < data.size(); ++i)
      data[i] = static_cast<T>(static_cast<float>(higgs::random_normal(seed, i)));
  }
  Normals(const Normals&) = delete;
  Normals& operator=(const Normals&) = delete;
  std::vector<T> data;
  higgs::MatrixView<T> view;
};
