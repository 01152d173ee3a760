// SPDX-License-Identifier: Apache-2.0
// What attention on the device computes, said slowly and plainly; tests compare attention.cuh with it.
#pragma once

#include "device/kv_layer.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace higgs::model {

/// softmax(scale * q k^T) v of each head in double, for a cache in host memory: row r of q (rows, count * width) is the
/// token at `positions[r]` of sequence `sequences[r]`, and sees itself and the window - 1 positions before it (all if
/// the window is 0). Returns (rows, count * width); zeros for idle rows.
template <class T>
std::vector<double> attention_reference(const Heads& heads, std::span<const T> q,
                                        const KvLayer<const T>& cache,
                                        std::span<const std::int32_t> positions,
                                        std::span<const std::int32_t> sequences, std::int32_t window,
                                        float scale) {
  const auto number = [](T value) { return static_cast<double>(static_cast<float>(value)); };
  std::vector<double> out(q.size());
  for (std::size_t task = 0; task < positions.size() * static_cast<std::size_t>(heads.count); ++task) {
    const std::size_t r = task / static_cast<std::size_t>(heads.count);
    const auto head = static_cast<std::int32_t>(task % static_cast<std::size_t>(heads.count));
    const std::int64_t line = std::int64_t{sequences[r]} * heads.kv_count + head / heads.shared();
    const T* queries = q.data() + task * static_cast<std::size_t>(heads.width);
    double* sums = out.data() + task * static_cast<std::size_t>(heads.width);
    const std::int32_t end = positions[r] + 1, first = window == 0 ? 0 : std::max(0, end - window);
    const auto at = [&](std::int32_t key) { return (line * cache.capacity + key) * heads.stored_width(); };

    std::vector<double> scores;
    for (std::int32_t key = first; key < end; ++key) {
      double score = 0;
      for (std::int32_t i = 0; i < heads.width; ++i)
        score += number(queries[i]) * number(cache.keys[at(key) + i]);
      scores.push_back(score * static_cast<double>(scale));
    }
    const double most = scores.empty() ? 0 : *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (const double score : scores) total += std::exp(score - most);
    for (std::int32_t key = first; key < end; ++key) {
      const double probability = std::exp(scores[static_cast<std::size_t>(key - first)] - most) / total;
      for (std::int32_t i = 0; i < heads.width; ++i)
        sums[i] += probability * number(cache.values[at(key) + i]);
    }
  }
  return out;
}

}  // namespace higgs::model
