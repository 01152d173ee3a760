// SPDX-License-Identifier: Apache-2.0
// The Hadamard transform of blocks in plain C++, and the matrices that it multiplies by.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace higgs {
inline namespace v0 {

inline constexpr int max_hadamard_order = 32768;

namespace cpu {

/// Paley's Hadamard matrix over GF(q), q = p^k, k = 1 or 2: of order q + 1 if q = 3 mod 4, of 2 q + 2
/// otherwise. Element a + b t is number a + p b, where t^2 is the smallest non-residue of p. Entries depend
/// on the sum of the elements of row and column, not as usual on their difference, and so are symmetric.
template <int P, int K>
struct Paley {
  static constexpr int q = K == 1 ? P : P * P;
  static constexpr int width = q % 4 == 3 ? 1 : 2;  // rows for each element
  static constexpr int order = width * (q + 1);

  /// Four entries of a row in a byte, their code: bit 3 if the first is negative, bits 0, 1 and 2 if the
  /// second, third and fourth differ from the first.  (order, order / 4)
  std::uint8_t codes[higgs::detail::extent<order * order / 4>] = {};

  constexpr Paley() {
    int residue[higgs::detail::extent<P>] = {};  // 0 at zero, 1 at squares, -1 elsewhere
    for (int i = 1; i < P; ++i) residue[i] = -1;
    for (int i = 1; i < P; ++i) residue[i * i % P] = 1;
    int t2 = 2;
    while (residue[t2] == 1) ++t2;
    int chi[higgs::detail::extent<q>] =
        {};  // the same in GF(q): a + b t is a square if its norm a^2 - t^2 b^2 is one in GF(p)
    for (int a = 0; a < P; ++a)
      for (int b = 0; b < q / P; ++b) chi[a + P * b] = residue[K == 1 ? a : (a * a + (P - t2) * b * b) % P];

    // An element's columns in each of its rows, for chi = -1, 0, 1: bit 0 is the first column, 1 is negative.
    constexpr unsigned bits[2][3][2] = {{{1}, {1}, {0}}, {{3, 1}, {2, 3}, {0, 2}}};
    for (int i = -1; i < q; ++i)  // -1: the border
      for (int j = -1; j < q; ++j) {
        int sign = i < 0 && j < 0 ? 2 - width : 1;
        if (i >= 0 && j >= 0) sign = chi[(i % P + j % P) % P + (K == 1 ? 0 : P * ((i / P + j / P) % P))];
        for (int u = 0; u < width; ++u) {
          unsigned group = bits[width - 1][sign + 1][u];
          if (width == 2 && i < 0 && u == 1) group ^= 3;  // row 1 and column 1 are negated:
          if (width == 2 && j < 0) group ^= 2;            // this makes the border positive
          const int entry = ((i + 1) * width + u) * order + (j + 1) * width;
          codes[entry / 4] = static_cast<std::uint8_t>(codes[entry / 4] | group << entry % 4);
        }
      }
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(code & 1 ? 15 - code / 2 : code / 2);
  }
};
template <int P, int K>
inline constexpr Paley<P, K> paley;

/// The factors of an order: n = base * run.
struct HadamardShape {
  std::ptrdiff_t base = 0;  // m; 0: not a supported order
  std::ptrdiff_t run = 0;   // 2^a
  const std::uint8_t* codes = nullptr;
};
inline constexpr std::ptrdiff_t max_hadamard_quads = 100 / 4;

template <int... P, int... K>
constexpr HadamardShape find_hadamard(std::ptrdiff_t order, std::ptrdiff_t run,
                                      const Paley<P, K>&... base) noexcept {
  HadamardShape shape;
  ((order == base.order ? void(shape = {order, run, base.codes}) : void()), ...);
  return shape;
}

constexpr HadamardShape hadamard_shape(std::int64_t n) noexcept {
  if (n < 1 || n > max_hadamard_order) return {};
  const std::ptrdiff_t order = n, run = order & -order;
  if (run == order) return {1, order, nullptr};
  if (run < 4) return {};
  return find_hadamard(order / run * 4, run / 4, paley<11, 1>, paley<19, 1>, paley<13, 1>, paley<17, 1>,
                       paley<43, 1>, paley<5, 2>, paley<59, 1>, paley<67, 1>, paley<37, 1>, paley<83, 1>,
                       paley<7, 2>);
}

// In all paths a product is with +-1, which is exact, or the last operation on a value: contraction into FMAs
// changes no bit. For the same reason none may be inlined: the caller's sums must not swallow a product.
namespace hadamard_portable {

/// Loops of constant length, which compilers turn into vectors.
template <int W>
inline void butterflies(float* x, std::ptrdiff_t stride) {
  for (int i = 0; i < W; ++i) {
    const float u = x[i], v = x[i + stride];
    x[i] = u + v;
    x[i + stride] = u - v;
  }
}

template <int N>
inline void transform(float* x) {
  if constexpr (N > 1) {
    transform<N / 2>(x);
    transform<N / 2>(x + N / 2);
    butterflies<N / 2>(x, N / 2);
  }
}

/// One block, W = min(run, 8) columns at a time.
template <int W>
[[gnu::noinline]] void transform_block(float* x, const HadamardShape& shape, float scale) {
  const std::ptrdiff_t run = shape.run, n = shape.base * run;
  for (std::ptrdiff_t i = 0; i < n; i += W) transform<W>(x + i);
  for (std::ptrdiff_t stride = W; stride < run; stride *= 2)
    for (std::ptrdiff_t i = 0; i < n; i += 2 * stride)
      for (std::ptrdiff_t j = i; j < i + stride; j += W) butterflies<W>(x + j, stride);

  const std::ptrdiff_t quads = shape.base / 4;
  float sums[max_hadamard_quads][8]
            [higgs::detail::extent<W>];  // of the inputs of a quad, by bits 0 to 2 of the code
  for (std::ptrdiff_t col = 0; quads != 0 && col < run; col += W) {
    for (std::ptrdiff_t k = 0; k < quads; ++k)
      for (int i = 0; i < W; ++i) {
        const float* in = x + 4 * k * run + col + i;
        const float a = in[0], b = in[run], c = in[2 * run], d = in[3 * run];
        sums[k][0][i] = (a + b) + (c + d);
        sums[k][1][i] = (a - b) + (c + d);
        sums[k][2][i] = (a + b) - (c - d);
        sums[k][3][i] = (a - b) - (c - d);
        sums[k][4][i] = (a + b) + (c - d);
        sums[k][5][i] = (a - b) + (c - d);
        sums[k][6][i] = (a + b) - (c + d);
        sums[k][7][i] = (a - b) - (c + d);
      }
    const std::uint8_t* code = shape.codes;
    for (std::ptrdiff_t row = 0; row < shape.base; ++row) {
      float y[higgs::detail::extent<W>];
      for (int i = 0; i < W; ++i) y[i] = sums[0][*code][i];  // the first column is positive
      ++code;
      for (std::ptrdiff_t k = 1; k < quads; ++k, ++code) {
        const float sign = *code & 8 ? -1.0f : 1.0f;
        for (int i = 0; i < W; ++i) y[i] += sign * sums[k][*code & 7][i];
      }
      for (int i = 0; i < W; ++i) x[row * run + col + i] = y[i];
    }
  }
  for (std::ptrdiff_t i = 0; i < n; ++i) x[i] *= scale;
}
}  // namespace hadamard_portable

/// The stride of the last pass: passes are as few and as equal as they can be.
constexpr std::ptrdiff_t last_stride(std::ptrdiff_t n, std::ptrdiff_t lanes, std::ptrdiff_t radix) {
  std::ptrdiff_t passes = 1, reach = lanes * radix;
  for (; reach < n; reach *= radix) ++passes;
  if (passes == 1) return lanes;
  const int bits = std::countr_zero(static_cast<std::size_t>(n / lanes));
  return n >> (bits / static_cast<int>(passes));
}

/// Multiplies `count` blocks of shape.base * shape.run floats, one after another, by H_n / sqrt(n), in place, in the
/// order of operations that rotate/hadamard.hpp documents; `scale` is 1 / sqrt(n).
inline void transform_blocks(Portable, float* x, std::ptrdiff_t count, const HadamardShape& shape,
                             float scale) noexcept {
  const std::ptrdiff_t run = shape.run, n = shape.base * run;
  const auto transform = run == 1   ? hadamard_portable::transform_block<1>
                         : run == 2 ? hadamard_portable::transform_block<2>
                         : run == 4 ? hadamard_portable::transform_block<4>
                                    : hadamard_portable::transform_block<8>;
  for (const float* end = x + count * n; x != end; x += n) transform(x, shape, scale);
}

}  // namespace cpu
}  // namespace v0
}  // namespace higgs
