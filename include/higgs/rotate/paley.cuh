// SPDX-License-Identifier: Apache-2.0
// Paley's matrices on the device, for orders that are no power of two: order = base * run, where the base has Paley's
// matrix of hadamard.hpp and the run is a power of two.
#pragma once

#include <higgs/gpu/instructions.cuh>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/hadamard_device.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {
namespace detail {

/// Paley's matrix as a kernel parameter: hadamard.hpp's codes, (base, base / 4).
struct HadamardBase {
  std::uint8_t codes[100 * 100 / 4] = {};
};

/// Up to this base the code of combine_runs() contains Paley's matrix, for values in shared memory.
inline constexpr int max_unrolled_base = 60;

/// Paley's matrix times the runs, in place: a thread takes one of `cols` columns. Transforms begin at shared address
/// `space` and `apart` bytes after each other. The sums of a column are registers, and the signs of the matrix are
/// additions and subtractions in the code.
template <const auto& Base>
__device__ __forceinline__ void combine_runs(std::uint32_t space, std::uint32_t apart, int run, int cols,
                                             int thread, int size) {
  constexpr int base = Base.order, quads = base / 4;
  // The bytes from row k to k + 1, by the number of trailing zero bits of k + 1: gaps come after each 32 values.
  std::uint32_t steps[6];
  HIGGS_UNROLL for (int zeros = 0; zeros < 6; ++zeros)
    steps[zeros] =
        4 * static_cast<std::uint32_t>(padded_offset(run << zeros) - padded_offset((run << zeros) - run));
  for (int col = thread; col < cols; col += size) {
    const std::uint32_t first = space + static_cast<std::uint32_t>(col / run) * apart +
                                4 * static_cast<std::uint32_t>(padded_offset(col % run));
    float y[base];
    std::uint32_t at = first;
    const auto walk = [&]<int Next>(std::integral_constant<int, Next>) {
      at += steps[std::min(std::countr_zero(static_cast<unsigned>(Next)), 5)];
    };
    const auto add_quad = [&]<int K, int... Row>(std::integral_constant<int, K>,
                                                 std::integer_sequence<int, Row...>) {
      float x[4];
      const auto load = [&]<int I>(std::integral_constant<int, I>) {
        x[I] = __uint_as_float(load_shared_32<0>(at));
        walk(std::integral_constant<int, 4 * K + I + 1>{});
      };
      [&]<int... I>(std::integer_sequence<int, I...>) {
        (load(std::integral_constant<int, I>{}), ...);
      }(std::make_integer_sequence<int, 4>{});
      const float u[2] = {__fadd_rn(x[0], x[1]), __fsub_rn(x[0], x[1])};
      const float plus = __fadd_rn(x[2], x[3]), minus = __fsub_rn(x[2], x[3]);
      const float sums[8] = {__fadd_rn(u[0], plus),  __fadd_rn(u[1], plus),  __fsub_rn(u[0], minus),
                             __fsub_rn(u[1], minus), __fadd_rn(u[0], minus), __fadd_rn(u[1], minus),
                             __fsub_rn(u[0], plus),  __fsub_rn(u[1], plus)};
      const auto add = [&]<unsigned Code>(float& to, std::integral_constant<unsigned, Code>) {
        if constexpr (K == 0)
          to = sums[Code];  // the first column is positive
        else
          to = Code >= 8 ? __fsub_rn(to, sums[Code & 7u]) : __fadd_rn(to, sums[Code & 7u]);
      };
      (add(y[Row], std::integral_constant<unsigned, Base.codes[Row * quads + K]>{}), ...);
    };
    [&]<int... K>(std::integer_sequence<int, K...>) {
      (add_quad(std::integral_constant<int, K>{}, std::make_integer_sequence<int, base>{}), ...);
    }(std::make_integer_sequence<int, quads>{});
    at = first;
    const auto store = [&]<int Row>(std::integral_constant<int, Row>) {
      store_shared_32<0>(at, __float_as_uint(y[Row]));
      walk(std::integral_constant<int, Row + 1>{});
    };
    [&]<int... Row>(std::integer_sequence<int, Row...>) {
      (store(std::integral_constant<int, Row>{}), ...);
    }(std::make_integer_sequence<int, base>{});
  }
}

/// The same for a base that is known at run time, up to max_unrolled_base.
__device__ inline void combine_runs(int base, std::uint32_t space, std::uint32_t apart, int run, int cols,
                                    const Team& team) {
  using namespace higgs::detail;
  switch (base) {
    case 12:
      return combine_runs<paley<12>>(space, apart, run, cols, team.thread, team.size);
    case 20:
      return combine_runs<paley<20>>(space, apart, run, cols, team.thread, team.size);
    case 28:
      return combine_runs<paley<28>>(space, apart, run, cols, team.thread, team.size);
    case 36:
      return combine_runs<paley<36>>(space, apart, run, cols, team.thread, team.size);
    case 44:
      return combine_runs<paley<44>>(space, apart, run, cols, team.thread, team.size);
    case 52:
      return combine_runs<paley<52>>(space, apart, run, cols, team.thread, team.size);
    default:
      return combine_runs<paley<60>>(space, apart, run, cols, team.thread, team.size);
  }
}

/// The signs of the sum of a quad of a row. A table of them: (base / 4, base).
using QuadSigns = float4;
inline std::size_t quad_sign_bytes(std::int64_t base) {
  return base == 1 ? 0 : static_cast<std::size_t>(base * base / 4) * sizeof(QuadSigns);
}

/// The quad's sum s0 a + s1 b + s2 c + s3 d is s0 ((a + s0 s1 b) + s0 s2 (c + s2 s3 d)): the signs s0 s1, s2 s3, s0 s2
/// and s0. Bit 0 of a code is s0 s1, bit 1 s0 s2, bit 2 s0 s3, bit 3 s0.
__device__ inline QuadSigns quad_signs(unsigned code) {
  const auto sign = [](unsigned bit) { return (bit & 1u) != 0 ? -1.0f : 1.0f; };
  return {sign(code), sign(code >> 1 ^ code >> 2), sign(code >> 1), sign(code >> 3)};
}

/// Rows [row, row + 4) of Paley's matrix times the runs, at column `col`: the values are read once for all.
__device__ inline void combine(const QuadSigns* signs, int quads, const float* values, int run, int row,
                               int col, float (&out)[4]) {
  _Pragma("unroll 1") for (int k = 0; k < quads; ++k) {
    const int first = 4 * k * run + col;
    const float a = values[padded_offset(first)], b = values[padded_offset(first + run)];
    const float c = values[padded_offset(first + 2 * run)], d = values[padded_offset(first + 3 * run)];
    HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
      const QuadSigns by = signs[4 * quads * k + row + i];
      const float quad = fmaf(by.z, fmaf(by.y, d, c), fmaf(by.x, b, a));
      out[i] = k == 0 ? quad : fmaf(by.w, quad, out[i]);
    }
  }
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
