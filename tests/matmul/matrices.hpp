// SPDX-License-Identifier: Apache-2.0
// Matrices that tests of the product share.
#pragma once

#include <higgs/core/matrix_view.hpp>
#include <higgs/core/random.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cstdint>
#include <memory>
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

/// A matrix of random codes and scales: every code, also those that quantization seldom chooses.
template <class Book>
higgs::QuantizedMatrix<Book> random_matrix(std::int64_t rows, std::int64_t cols, std::int64_t block,
                                           std::int64_t group, std::uint64_t seed,
                                           bool with_input_scales = false) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<higgs::Half> scales, input_scales;
  };
  auto storage = std::make_shared<Storage>();
  higgs::QuantizedMatrix<Book> w;
  w.layout = {rows, cols, block, group, with_input_scales};
  w.seed = seed;
  w.exponent = -3;
  storage->codes.resize(static_cast<std::size_t>(rows * w.row_bytes()));
  for (std::size_t i = 0; i < storage->codes.size(); ++i)
    storage->codes[i] = static_cast<std::uint8_t>(higgs::random_bits(seed, i) >> 20);
  for (std::int64_t i = 0; i < rows * w.layout.groups(); ++i) {
    const double uniform = higgs::random_uniform(seed + 1, static_cast<std::uint64_t>(i));
    storage->scales.push_back(higgs::Half(uniform < 0.1 ? 0.0f : static_cast<float>(uniform * 0.02)));
  }
  if (with_input_scales)
    for (std::int64_t i = 0; i < cols; ++i)
      storage->input_scales.push_back(higgs::Half(
          0.5f + static_cast<float>(higgs::random_uniform(seed + 2, static_cast<std::uint64_t>(i)))));
  w.codes = storage->codes;
  w.scales = storage->scales;
  w.input_scales = storage->input_scales;
  w.owner = storage;
  return w;
}
