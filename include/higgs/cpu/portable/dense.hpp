// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/portable/isa.hpp>

#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace cpu {

/// y[i, j] (+)= sum over k of x[i, k] * w[j, k], for m x n outputs and k inputs, all rows contiguous along k.
/// Output (i, j) is summed in an order that depends on k alone: a row's bits do not depend on the batch around it.
template <class W>
struct DenseProduct {
  const float* x;  // (m, k), stride ldx
  std::int64_t ldx;
  const W* w;  // (n, k), stride ldw
  std::int64_t ldw;
  float* y;  // (m, n), stride ldy
  std::int64_t ldy;
  std::int64_t m, n, k;
  bool accumulate;

  void store(std::int64_t i, std::int64_t j, float sum) const noexcept {
    float& out = y[i * ldy + j];
    out = accumulate ? out + sum : sum;
  }
};

template <class W>
void dense_product(Portable, const DenseProduct<W>& t) noexcept {
  for (std::int64_t i = 0; i < t.m; ++i)
    for (std::int64_t j = 0; j < t.n; ++j) {
      const float* x = t.x + i * t.ldx;
      const W* w = t.w + j * t.ldw;
      float sums[8] = {};
      std::int64_t k = 0;
      for (; k + 8 <= t.k; k += 8)
        for (int lane = 0; lane < 8; ++lane) sums[lane] += x[k + lane] * static_cast<float>(w[k + lane]);
      for (int lane = 0; k + lane < t.k; ++lane) sums[lane] += x[k + lane] * static_cast<float>(w[k + lane]);
      t.store(i, j,
              ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7])));
    }
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
