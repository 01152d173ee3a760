// SPDX-License-Identifier: Apache-2.0
// The Hadamard transform of blocks in plain C++, and the matrices that it multiplies by.
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/portable/isa.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace higgs {
inline namespace v0 {

inline constexpr int max_hadamard_order = 32768;

namespace cpu {

/// The field GF(q), q = p^k, k = 1 or 2, whose squares make a base matrix.
struct PaleyField {
  int p = 0, k = 0;     // p = 0: no such matrix
  int non_residue = 0;  // the smallest of GF(p), where k = 2
};

/// The field of the base matrix of this order.
constexpr PaleyField paley_field(std::ptrdiff_t order) noexcept {
  constexpr struct {
    int order;
    PaleyField field;
  } fields[] = {{12, {11, 1}}, {20, {19, 1}}, {28, {13, 1}}, {36, {17, 1}}, {44, {43, 1}},   {52, {5, 2, 2}},
                {60, {59, 1}}, {68, {67, 1}}, {76, {37, 1}}, {84, {83, 1}}, {100, {7, 2, 3}}};
  for (const auto& each : fields)
    if (each.order == order) return each.field;
  return {};
}

/// 0 at zero, 1 at squares, -1 elsewhere in GF(p), by Euler's criterion.
constexpr int quadratic_character(int x, int p) noexcept {
  int power = 1;
  for (int exponent = (p - 1) / 2, base = x % p; exponent != 0; exponent /= 2, base = base * base % p)
    if (exponent % 2 != 0) power = power * base % p;
  return x % p == 0 ? 0 : power == 1 ? 1 : -1;
}

/// Whether entry (row, col) of Paley's Hadamard matrix is -1: of order q + 1 if q = 3 mod 4, of 2 q + 2 otherwise.
/// Element a + b t is number a + p b, where t^2 is the smallest non-residue. Entries depend on the sum of the
/// elements of row and column, not as usual on their difference, and so are symmetric.
constexpr bool is_paley_negative(PaleyField field, int row, int col) noexcept {
  const int p = field.p, q = field.k == 1 ? p : p * p, width = q % 4 == 3 ? 1 : 2;  // rows for each element
  const int i = row / width - 1, j = col / width - 1, u = row % width, v = col % width;  // -1: the border
  int sign = i < 0 && j < 0 ? 2 - width : 1;
  if (i >= 0 && j >= 0) {
    const int a = (i % p + j % p) % p, b = (i / p + j / p) % p;
    // a + b t is a square if its norm a^2 - t^2 b^2 is one in GF(p).
    sign = quadratic_character(field.k == 1 ? a : a * a + (p - field.non_residue) * b * b, p);
  }
  // An element's columns in each of its rows, for signs -1, 0, 1: bit 0 is the first column, 1 is negative.
  constexpr unsigned bits[2][3][2] = {{{1}, {1}, {0}}, {{3, 1}, {2, 3}, {0, 2}}};
  unsigned group = bits[width - 1][sign + 1][u];
  if (width == 2 && i < 0 && u == 1) group ^= 3;  // row 1 and column 1 are negated:
  if (width == 2 && j < 0) group ^= 2;            // this makes the border positive
  return (group >> v & 1u) != 0;
}

/// Four entries of a row in a byte, their code: bit 3 if the first is negative, bits 0, 1 and 2 if the second, third and
/// fourth differ from the first.  (order, order / 4)
constexpr void fill_paley_codes(int order, std::uint8_t* codes) noexcept {
  const PaleyField field = paley_field(order);
  for (int entry = 0; entry < order * order; entry += 4) {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i)
      code |= unsigned{is_paley_negative(field, entry / order, entry % order + i)} << i;
    codes[entry / 4] = static_cast<std::uint8_t>(code & 1 ? 15 - code / 2 : code / 2);
  }
}

/// The codes of a base matrix as a constant, for kernels that are compiled for it. Other kernels read paley_codes().
template <int Order>
struct Paley {
  static constexpr int order = Order;
  std::uint8_t codes[higgs::detail::extent<order * order / 4>] = {};

  constexpr Paley() { fill_paley_codes(order, codes); }
};
template <int Order>
inline constexpr Paley<Order> paley;

inline constexpr int max_hadamard_base = 100;
inline constexpr std::ptrdiff_t max_hadamard_quads = max_hadamard_base / 4;

/// The codes of all base matrices. They are made at run time, because a compiler would take half a second for them in
/// each file that includes this one.
struct PaleyTables {
  std::uint8_t codes[9580];                                   // of all matrices, one after another
  const std::uint8_t* first[max_hadamard_base / 4 + 1] = {};  // at order / 4

  PaleyTables() noexcept {
    std::uint8_t* next = codes;
    for (int order = 12; order <= max_hadamard_base; order += 4) {
      if (paley_field(order).p == 0) continue;
      fill_paley_codes(order, next);
      first[order / 4] = next;
      next += order * order / 4;
    }
  }
  PaleyTables(const PaleyTables&) = delete;
  PaleyTables& operator=(const PaleyTables&) = delete;
};

/// The codes of the base matrix of this order.
inline const std::uint8_t* paley_codes(std::ptrdiff_t order) noexcept {
  static const PaleyTables tables;
  return tables.first[order / 4];
}

/// The factors of an order: n = base * run.
struct HadamardShape {
  std::ptrdiff_t base = 0;              // m; 0: not a supported order
  std::ptrdiff_t run = 0;               // 2^a
  const std::uint8_t* codes = nullptr;  // entries of the base matrix; null in constant expressions
};

constexpr HadamardShape hadamard_shape(std::int64_t n) noexcept {
  if (n < 1 || n > max_hadamard_order) return {};
  const std::ptrdiff_t order = n, run = order & -order;
  if (run == order) return {1, order, nullptr};
  const std::ptrdiff_t base = order / run * 4;
  if (run < 4 || paley_field(base).p == 0) return {};
  return {base, run / 4, std::is_constant_evaluated() ? nullptr : paley_codes(base)};
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
            [higgs::detail::extent<W>];  // sums of the inputs of a quad, by bits 0 to 2 of the code
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
  std::ptrdiff_t passes = 1;
  for (std::ptrdiff_t done = lanes * radix; done < n; done *= radix) ++passes;
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
