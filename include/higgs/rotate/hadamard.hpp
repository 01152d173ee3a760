// SPDX-License-Identifier: Apache-2.0
// The orthonormal Hadamard transform of order n = m * 2^a, in place.
//
// Which matrix it is belongs to the file format and never changes:
// - n <= 32768; m is 1, 12, 20, 28, 36, 44, 52, 60, 68, 76, 84 or 100. n determines m and a.
// - H_n = H_m (x) H_(2^a): entry (r, c) is H_m(r / 2^a, c / 2^a) * (-1)^popcount(r & c & (2^a - 1)).
// - H_m is Paley's matrix (J. Math. Phys. 12, 1933), rows and columns ordered so that it is symmetric and its
//   first row is all ones. So every H_n / sqrt(n) is its own inverse.
//
// The order of the float operations is fixed as well, so that any implementation gives the same bits:
// 1. In each of the m contiguous runs of 2^a: butterflies (u + v, u - v) of stride 1, 2, 4, ..., 2^(a-1).
// 2. If m > 1, across the runs, with the signs s of an output's row: inputs 4k ... 4k + 3 make the quad
//    q_k = s0 * ((x0 + s0 s1 x1) + s0 s2 (x2 + s2 s3 x3)); the output is ((q_0 + q_1) + q_2) + ...
// 3. One product with float(1 / sqrt(n)).
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/hadamard.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Whether there is a transform of `n` values.
constexpr bool is_hadamard_order(std::int64_t n) noexcept;

/// All supported orders, ascending.
constexpr std::span<const int> hadamard_orders() noexcept;

/// The order to cut rows of `cols` values into: of the orders from min(64, cols) to `max_block` the largest
/// of those that need the least padding; where there is none, the largest order up to `max_block`. Rows are
/// padded to ceil(cols / order) * order. Throws InvalidArgument unless both arguments are positive.
constexpr std::int64_t choose_block(std::int64_t cols, std::int64_t max_block = 1024);

/// Entry (row, col) of H_n, +1 or -1: the definition of the transform. Throws InvalidArgument unless n is a
/// supported order and 0 <= row, col < n.
constexpr int hadamard_sign(std::int64_t n, std::int64_t row, std::int64_t col);

/// H_n x / sqrt(n), n = x.size(), summed in double from hadamard_sign in O(n^2): what tests compare with.
HIGGS_INLINE std::vector<double> hadamard_reference(std::span<const float> x);

/// Multiplies `x` by H_n / sqrt(n), n = x.size(), in place; its own inverse. Sums of n values must not
/// overflow; then all paths give the same bits. `isa` picks one, for tests; what the machine lacks is not
/// used. Throws InvalidArgument unless n is a supported order.
inline void hadamard(std::span<float> x, Isa isa = best_isa());

/// Transforms each run of `block` values of `x`, in place. Throws InvalidArgument unless `block` is a
/// supported order and divides x.size().
HIGGS_INLINE void hadamard_blocks(std::span<float> x, std::int64_t block, Isa isa = best_isa());

namespace detail {

using cpu::HadamardShape, cpu::hadamard_shape, cpu::paley;

inline constexpr auto hadamard_order_list = [] {
  std::array<int, 126> orders{};
  auto next = orders.begin();
  for (const int base : {1, 12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 100})
    for (int n = base; n <= max_hadamard_order; n *= 2) *next++ = n;
  std::sort(orders.begin(), next);
  return orders;
}();

}  // namespace detail

constexpr bool is_hadamard_order(std::int64_t n) noexcept { return detail::hadamard_shape(n).base != 0; }

constexpr std::span<const int> hadamard_orders() noexcept { return detail::hadamard_order_list; }

constexpr std::int64_t choose_block(std::int64_t cols, std::int64_t max_block) {
  expects(cols > 0 && max_block > 0, "higgs::choose_block: cols and max_block must be positive");
  std::int64_t best = 0, least = 0;
  for (std::size_t i = hadamard_orders().size(); i-- > 0;) {
    const std::int64_t order = hadamard_orders()[i], padding = (order - cols % order) % order;
    if (order > max_block) continue;
    if (best != 0 && order < std::min<std::int64_t>(64, cols)) break;
    if (best == 0 || padding < least) best = order, least = padding;
  }
  return best;
}

constexpr int hadamard_sign(std::int64_t n, std::int64_t row, std::int64_t col) {
  const detail::HadamardShape shape = detail::hadamard_shape(n);
  expects(shape.base != 0, "higgs::hadamard_sign: n must be one of hadamard_orders()");
  expects(row >= 0 && row < n && col >= 0 && col < n, "higgs::hadamard_sign: row and col must lie in [0, n)");
  int minuses = std::popcount(static_cast<std::uint64_t>(row & col & (shape.run - 1)));
  if (shape.base != 1) {
    minuses += cpu::is_paley_negative(cpu::paley_field(shape.base), static_cast<int>(row / shape.run),
                                      static_cast<int>(col / shape.run));
  }
  return minuses % 2 == 0 ? 1 : -1;
}

inline void hadamard(std::span<float> x, Isa isa) {
  hadamard_blocks(x, static_cast<std::int64_t>(x.size()), isa);
}

#if HIGGS_DEFINITIONS

HIGGS_INLINE std::vector<double> hadamard_reference(std::span<const float> x) {
  const auto n = static_cast<std::int64_t>(x.size());
  std::vector<double> y;
  for (std::int64_t row = 0; row < n; ++row) {
    double sum = 0;
    for (std::int64_t col = 0; col < n; ++col)
      sum += hadamard_sign(n, row, col) * static_cast<double>(x[static_cast<std::size_t>(col)]);
    y.push_back(sum / std::sqrt(static_cast<double>(n)));
  }
  return y;
}

HIGGS_INLINE void hadamard_blocks(std::span<float> x, std::int64_t block, Isa isa) {
  const detail::HadamardShape shape = detail::hadamard_shape(block);
  const auto size = static_cast<std::int64_t>(x.size());
  expects(shape.base != 0, "higgs::hadamard: the order must be one of hadamard_orders()");
  expects(size % block == 0, "higgs::hadamard_blocks: x.size() must be a multiple of block");
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  cpu::dispatch(usable_isa(isa),
                [&](auto set) { transform_blocks(set, x.data(), size / block, shape, scale); });
}

#endif

}  // namespace v0
}  // namespace higgs
