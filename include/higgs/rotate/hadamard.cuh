// SPDX-License-Identifier: Apache-2.0
// The Hadamard transform on the device: same matrices, same order of float operations, same bits as
// hadamard.hpp.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/random_hadamard.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Butterflies among the values that a lane holds: strides `First`, 2 `First`, ... below `Count`.
template <int First, int Count>
__device__ inline void butterflies(float (&v)[Count]) {
  HIGGS_UNROLL
  for (int stride = First; stride < Count; stride *= 2) HIGGS_UNROLL
  for (int i = 0; i < Count; ++i)
    if ((i & stride) == 0) {
      const float a = v[i], b = v[i + stride];
      v[i] = __fadd_rn(a, b);  // never fused with a product of the caller's
      v[i + stride] = __fsub_rn(a, b);
    }
}

/// The unscaled transform of order n of values that one warp holds, without shared memory; all 32 lanes call
/// it. Value 8 c + i of lane l is element 256 c + 8 l + i. n is 32 * Count, or any power of two up to 256 if
/// Count is 8: then the warp holds 256 / n blocks in a row.
template <int Count>
__device__ inline void hadamard_warp(float (&v)[Count], int n = 32 * Count) {
  static_assert(Count == 8 || Count == 16 || Count == 32, "hadamard_warp: a lane holds 8, 16 or 32 values");
  const int lane = static_cast<int>(threadIdx.x) % 32;
  HIGGS_UNROLL
  for (int stride = 1; stride < 8; stride *= 2)
    if (Count > 8 || stride < n) HIGGS_UNROLL
  for (int i = 0; i < Count; ++i)
    if ((i & stride) == 0) {
      const float a = v[i], b = v[i + stride];
      v[i] = __fadd_rn(a, b);
      v[i + stride] = __fsub_rn(a, b);
    }
  HIGGS_UNROLL
  for (int by = 1; by < 32; by *= 2)
    if (Count > 8 || 8 * by < n) {
      const float sign = (lane & by) != 0 ? -1.0f : 1.0f;
      HIGGS_UNROLL
      for (int i = 0; i < Count; ++i) v[i] = fmaf(v[i], sign, __shfl_xor_sync(0xffffffffu, v[i], by));
    }
  butterflies<8>(v);
}

namespace detail {
/// The quads {v[i], v[8 + i], v[16 + i], v[24 + i]}, i = 0 ... 7, to or from shared memory: quad I lies at
/// place(I), which gives an address and a constant to add.
template <class Place>
__device__ inline void store_quads(const float (&v)[32], const Place& place) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (store_shared_128<Place::template offset<I>>(
         place.template at<I>(), uint4{__float_as_uint(v[I]), __float_as_uint(v[8 + I]),
                                       __float_as_uint(v[16 + I]), __float_as_uint(v[24 + I])}),
     ...);
  }(std::make_integer_sequence<int, 8>{});
}
template <class Place>
__device__ inline void load_quads(float (&v)[32], const Place& place) {
  const auto load = [&]<int I>(std::integral_constant<int, I>) {
    const uint4 quad = load_shared_128<Place::template offset<I>>(place.template at<I>());
    v[I] = __uint_as_float(quad.x), v[8 + I] = __uint_as_float(quad.y);
    v[16 + I] = __uint_as_float(quad.z), v[24 + I] = __uint_as_float(quad.w);
  };
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (load(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, 8>{});
}

// A quad holds bits 8 and 9 of an element's number. It lies in row 8 high + low at 16 (low ^ middle), where
// low are bits 0 to 2, middle 3 to 5, high 6 and 7: neither eight lanes that differ in low nor eight that
// differ in middle share a bank. Rows have 128 bytes and are `Apart` bytes apart, a multiple of 128.
template <int Apart>
struct LowQuads {  // of a lane with the given middle and high
  std::uint32_t base;
  __device__ LowQuads(std::uint32_t space, std::uint32_t lane)
      : base(space + lane / 8 * (8 * Apart) + lane % 8 * 16) {}
  template <int I>
  static constexpr int offset = Apart * I;
  template <int I>
  __device__ std::uint32_t at() const {
    return base ^ 16 * I;
  }
};
template <int Apart>
struct MiddleQuads {  // of a lane with the given low and high
  std::uint32_t base;
  __device__ MiddleQuads(std::uint32_t space, std::uint32_t lane)
      : base(space + lane / 8 * (8 * Apart) + lane % 8 * (Apart + 16)) {}
  template <int I>
  static constexpr int offset = 0;
  template <int I>
  __device__ std::uint32_t at() const {
    return base ^ 16 * I;
  }
};
template <int Apart>
struct HighQuads {  // bit 0 and high of a lane with the given bits 1 to 5
  std::uint32_t base;
  __device__ HighQuads(std::uint32_t space, std::uint32_t lane)
      : base(space + lane % 4 * (2 * Apart) + (lane % 4 * 2 ^ lane / 4) * 16) {}
  template <int I>
  static constexpr int offset = I % 2 * Apart + I / 2 * (8 * Apart);
  template <int I>
  __device__ std::uint32_t at() const {
    return base ^ 16 * (I % 2);
  }
};

/// hadamard_warp through 32 rows of 128 bytes, `Apart` bytes apart, from shared address `space`.
template <int Apart>
__device__ inline void hadamard_rows(float (&v)[32], std::uint32_t space, int n) {
  const std::uint32_t lane = threadIdx.x % 32;
  const auto passes = [&](int stride, int end, int of_elements) {
    HIGGS_UNROLL
    for (; stride < end; stride *= 2, of_elements *= 2)
      if (of_elements < n) HIGGS_UNROLL
    for (int i = 0; i < 32; ++i)
      if ((i & stride) == 0) {
        const float a = v[i], b = v[i + stride];
        v[i] = __fadd_rn(a, b);
        v[i + stride] = __fsub_rn(a, b);
      }
  };
  passes(1, 8, 1);
  store_quads(v, LowQuads<Apart>(space, lane));
  __syncwarp();
  load_quads(v, MiddleQuads<Apart>(space, lane));
  passes(1, 8, 8);
  store_quads(v, MiddleQuads<Apart>(space, lane));
  __syncwarp();
  load_quads(v, HighQuads<Apart>(space, lane));
  passes(2, 32, 64);
}
}  // namespace detail

/// The same for 1024 values through `space`, 4 KiB of shared memory from a multiple of 128: two thirds of the
/// instructions, no shuffles, and another order of results, where value 2 k + i of lane l is element
/// 64 k + 2 l + i. n is any power of two up to 1024: then the warp holds 1024 / n blocks in a row. Call
/// __syncwarp() before `space` is written again.
__device__ inline void hadamard_warp(float (&v)[32], float* space, int n = 1024) {
  detail::hadamard_rows<128>(v, shared_address(space), n);
}

/// Where hadamard_block keeps element i: after each 32 four places stay free, so that no pass meets a bank
/// conflict.
__device__ constexpr int padded_place(int i) { return i + (i >> 5 << 2); }

namespace detail {
/// Threads that transform together: a warp or a block.
struct Team {
  int thread, size;
  bool warp;
  static __device__ Team of_warp() { return {static_cast<int>(threadIdx.x) % 32, 32, true}; }
  static __device__ Team of_block() {
    return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), false};
  }
  __device__ void sync() const {
    if (warp)
      __syncwarp();
    else
      __syncthreads();
  }
};

/// Strides 1, 2 and 4 of runs of `run` among eight neighbours.
__device__ inline void low_butterflies(float (&v)[8], int run) {
  if (run >= 8) return butterflies<1>(v);
  HIGGS_UNROLL
  for (int stride = 1; stride < 4; stride *= 2)
    if (stride < run) HIGGS_UNROLL
  for (int i = 0; i < 8; ++i)
    if ((i & stride) == 0) {
      const float a = v[i], b = v[i + stride];
      v[i] = __fadd_rn(a, b);
      v[i + stride] = __fsub_rn(a, b);
    }
}

// Values lie at an address of shared memory, or, where it is too small, behind a pointer.
__device__ inline std::uint32_t after(std::uint32_t at, int floats) {
  return at + 4 * static_cast<std::uint32_t>(floats);
}
__device__ inline float* after(float* at, int floats) { return at + floats; }
__device__ inline void load_quad(std::uint32_t at, float* v) {
  const uint4 quad = load_shared_128(at);
  v[0] = __uint_as_float(quad.x), v[1] = __uint_as_float(quad.y);
  v[2] = __uint_as_float(quad.z), v[3] = __uint_as_float(quad.w);
}
__device__ inline void load_quad(const float* at, float* v) {
  const float4 quad = *reinterpret_cast<const float4*>(at);
  v[0] = quad.x, v[1] = quad.y, v[2] = quad.z, v[3] = quad.w;
}
__device__ inline void store_quad(std::uint32_t at, const float* v) {
  store_shared_128(
      at, uint4{__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])});
}
__device__ inline void store_quad(float* at, const float* v) {
  *reinterpret_cast<float4*>(at) = float4{v[0], v[1], v[2], v[3]};
}

/// The pass of `Bits` strides from `low` on. Neighbouring threads take quads that differ in bit 0 and bits 4
/// and 5 of their number where the pass has bits 1 to 3, else in bits 0 to 2: eight of them fill a line.
template <int Bits, class Values>
__device__ inline void transform_pass(const Team& team, Values x, int n, int low) {
  constexpr int count = 1 << Bits;
  const auto transform = [&](int quad, const auto& place) {
    const Values at = after(x, padded_place(4 * quad));
    float v[4 * count];
    HIGGS_UNROLL
    for (int j = 0; j < count; ++j) load_quad(after(at, place(j)), v + 4 * j);
    butterflies<4>(v);
    HIGGS_UNROLL
    for (int j = 0; j < count; ++j) store_quad(after(at, place(j)), v + 4 * j);
  };
  if (low == 8) {
    _Pragma("unroll 1") for (int i = team.thread; i < (n + 255) / 256 << (6 - Bits); i += team.size) {
      const int rest = i >> 3 & ((8 >> Bits) - 1);
      const int quad = (i & 1) | rest << (1 + Bits) | (i >> 1 & 3) << 4 | i >> (6 - Bits) << 6;
      if (4 * quad < n) transform(quad, [](int j) { return padded_place(8 * j); });
    }
  } else {
    const int log_low = 29 - __clz(low), step = padded_place(low);  // of quads
    _Pragma("unroll 1") for (int i = team.thread; i < n >> (2 + Bits); i += team.size)
        transform(i + (i >> log_low) * ((count - 1) << log_low), [&](int j) { return j * step; });
  }
  team.sync();
}

/// Strides 1, 2 and 4. Begins after a barrier and ends with one.
template <class Values>
__device__ inline void low_pass(const Team& team, Values x, int n, int run) {
  for (int i = 8 * team.thread; i < n && run > 1; i += 8 * team.size) {
    const Values at = after(x, padded_place(i));
    float v[8];
    load_quad(at, v);
    load_quad(after(at, 4), v + 4);
    low_butterflies(v, run);
    store_quad(at, v);
    store_quad(after(at, 4), v + 4);
  }
  team.sync();
}

/// The passes from stride 8 on. Begins after a barrier and ends with one.
template <class Values>
__device__ inline void transform_runs(const Team& team, Values x, int n, int run) {
  for (int low = 8; low < run; low *= 8) {
    if (run >= 8 * low)
      transform_pass<3>(team, x, n, low);
    else if (run == 4 * low)
      transform_pass<2>(team, x, n, low);
    else
      transform_pass<1>(team, x, n, low);
  }
}
}  // namespace detail

/// The unscaled transforms of order `run` = 2^a of each run of n floats, by all threads of the block; n is a
/// multiple of 8, and `x` in shared memory, from a multiple of 16 bytes, holds n floats and an eighth more:
/// element i lies at x[padded_place(i)]. Ends with a barrier; the caller needs one between its writes and the
/// call.
__device__ inline void hadamard_block(float* x, int n, int run) {
  const detail::Team team = detail::Team::of_block();
  detail::low_pass(team, shared_address(x), n, run);
  detail::transform_runs(team, shared_address(x), n, run);
}

/// What a rotation of rows needs beside the rows; all pointers are to device memory.
struct Rotation {
  std::int64_t cols = 0;                 // inputs of a row; zeros fill the last block
  std::int64_t block = 1;                // order of the transform
  const std::uint32_t* signs = nullptr;  // as sign_words() makes them; none: no signs
  const float* factors = nullptr;        // (cols): inputs are multiplied by it first; none: by one
  std::int64_t group = 1;                // runs of `group` results are written `padded_group` apart
  std::int64_t padded_group = 1;
  bool inverse = false;  // transform rows of whole blocks, then signs, then factors; writes cols values

  HIGGS_HOST_DEVICE constexpr std::int64_t padded_cols() const noexcept {
    return ceil_div(cols, block) * block;
  }
};

/// The signs of `cols` columns from `first` on for Rotation, made on the host: bit 15 - i of a word is column
/// 2 i of its 32, bit 31 - i is column 2 i + 1, so that a shift brings both to the sign bits of a pair of
/// 16-bit numbers.
inline std::vector<std::uint32_t> sign_words(std::uint64_t seed, std::int64_t cols, std::int64_t first = 0) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(ceil_div(cols, 32)));
  for (std::size_t w = 0; w < words.size(); ++w) {
    const auto bits = static_cast<std::uint32_t>(sign_bits(seed, first + static_cast<std::int64_t>(w) * 32));
    for (int i = 0; i < 16; ++i)
      words[w] |= (bits >> 2 * i & 1u) << (15 - i) | (bits >> (2 * i + 1) & 1u) << (31 - i);
  }
  return words;
}

namespace detail {

/// The sign bits of columns [col, col + 8) as sign_words() has them, shifted so that pair i needs a shift by
/// i.
__device__ inline std::uint32_t signs_of(const Rotation& r, std::int64_t col) {
  return r.signs != nullptr && col < r.cols ? r.signs[col / 32] << (col % 32 / 2) : 0;
}
/// `value` with the sign of column i of the eight.
__device__ inline float with_sign(float value, std::uint32_t signs, int i) {
  const std::uint32_t sign = (i % 2 == 0 ? signs << (16 + i / 2) : signs << i / 2) & 0x80000000u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ sign);
}

/// Eight neighbours from an aligned place, with signs.
template <class In>
__device__ inline void load_eight(const In* from, std::uint32_t signs, float* v) {
  if constexpr (sizeof(In) == 2) {
    const uint4 pairs = load_128(from);
    const std::uint32_t words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
    HIGGS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float2 two = to_floats<In>(flip_bits<0x80008000u>(words[i], signs << i));
      v[2 * i] = two.x;
      v[2 * i + 1] = two.y;
    }
  } else {
    const uint4 first = load_128(from), second = load_128(from + 4);
    const std::uint32_t words[8] = {first.x,  first.y,  first.z,  first.w,
                                    second.x, second.y, second.z, second.w};
    HIGGS_UNROLL
    for (int i = 0; i < 8; ++i) v[i] = with_sign(std::bit_cast<float>(words[i]), signs, i);
  }
}
template <class Out>
__device__ inline void store_eight(Out* to, const float* v) {
  if constexpr (sizeof(Out) == 2) {
    *reinterpret_cast<uint4*>(to) = uint4{round_pair<Out>(v[0], v[1]), round_pair<Out>(v[2], v[3]),
                                          round_pair<Out>(v[4], v[5]), round_pair<Out>(v[6], v[7])};
  } else {
    *reinterpret_cast<float4*>(to) = float4{v[0], v[1], v[2], v[3]};
    *reinterpret_cast<float4*>(to + 4) = float4{v[4], v[5], v[6], v[7]};
  }
}

/// v[i] *= factors[i], from an aligned place.
__device__ inline void multiply_eight(const float* factors, float* v) {
  const float4 first = *reinterpret_cast<const float4*>(factors);
  const float4 second = *reinterpret_cast<const float4*>(factors + 4);
  const float by[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
  HIGGS_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = __fmul_rn(v[i], by[i]);
}
template <class Out>
__device__ inline void store_two(Out* to, float first, float second) {
  if constexpr (sizeof(Out) == 2)
    *reinterpret_cast<std::uint32_t*>(to) = round_pair<Out>(first, second);
  else
    *reinterpret_cast<float2*>(to) = float2{first, second};
}

/// Column c, wherever it belongs.
template <class Out>
__device__ inline void store_rotated(const Rotation& r, Out* row, std::int64_t c, float value) {
  if (c >= (r.inverse ? r.cols : r.padded_cols())) return;
  if (r.inverse) {
    value = with_sign(value, signs_of(r, c / 8 * 8), static_cast<int>(c % 8));
    if (r.factors != nullptr) value = __fmul_rn(value, r.factors[c]);
  }
  row[r.group == r.padded_group ? c : c / r.group * r.padded_group + c % r.group] = from_float<Out>(value);
}

/// Orders up to 1024, rows of whole runs of 1024 aligned inputs, which nothing but signs, factors and the
/// transform becomes of: a warp takes a run.
template <class In, class Out>
__global__ void __launch_bounds__(128)
    rotate_wide_kernel(Rotation r, DenseView<const In> x, DenseView<Out> y, float scale,
                       std::uint32_t runs) {
  __shared__ __align__(128) float space[4][1024];
  const std::uint32_t warp = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, row = warp / runs;
  if (row >= x.rows) return;
  const std::uint32_t start = (warp - row * runs) * 1024, first = start + 8 * lane;
  float v[32];
  const In* from = x.row(row) + first;
  std::uint32_t signs[4] = {};
  if (r.signs != nullptr) HIGGS_UNROLL
  for (int c = 0; c < 4; ++c) signs[c] = r.signs[first / 32 + 8 * c] << lane % 4 * 4;
  HIGGS_UNROLL
  for (int c = 0; c < 4; ++c) load_eight(from + 256 * c, signs[c], v + 8 * c);
  if (r.factors != nullptr) HIGGS_UNROLL
  for (int c = 0; c < 4; ++c) multiply_eight(r.factors + first + 256 * c, v + 8 * c);
  if (r.block == 1024)
    hadamard_warp(v, space[threadIdx.x / 32]);
  else
    hadamard_warp(v, space[threadIdx.x / 32], static_cast<int>(r.block));
  HIGGS_UNROLL
  for (int i = 0; i < 32; ++i) v[i] = __fmul_rn(v[i], scale);
  Out* const to = y.row(row) + start + 2 * lane;
  HIGGS_UNROLL
  for (int k = 0; k < 16; ++k) store_two(to + 64 * k, v[2 * k], v[2 * k + 1]);
}

/// Paley's matrix as a kernel parameter: hadamard.hpp's codes, (base, base / 4).
struct HadamardBase {
  std::uint8_t codes[100 * 100 / 4] = {};
};

/// Bases up to this one have their matrix in the code of combine_runs(), for values in shared memory.
inline constexpr int max_unrolled_base = 60;

/// Paley's matrix times the runs, in place: a thread takes a column, one of `cols`, of a transform at shared
/// address `space` or a multiple of `apart` bytes behind it. Its sums are registers, and signs choose
/// additions or subtractions when this is compiled.
template <const auto& Base>
__device__ __forceinline__ void combine_runs(std::uint32_t space, std::uint32_t apart, int run, int cols,
                                             int thread, int size) {
  constexpr int base = Base.order, quads = base / 4;
  // From row k to k + 1 by the zeros at the end of k + 1: gaps come after each 32 values.
  std::uint32_t steps[6];
  HIGGS_UNROLL
  for (int zeros = 0; zeros < 6; ++zeros)
    steps[zeros] =
        4 * static_cast<std::uint32_t>(padded_place(run << zeros) - padded_place((run << zeros) - run));
  for (int col = thread; col < cols; col += size) {
    const std::uint32_t first = space + static_cast<std::uint32_t>(col / run) * apart +
                                4 * static_cast<std::uint32_t>(padded_place(col % run));
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

/// The same for a base up to max_unrolled_base that is known at run time.
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

/// The signs by which quad k of a row is summed: (base / 4, base).
using QuadSigns = float4;
inline std::size_t quad_sign_bytes(std::int64_t base) {
  return base == 1 ? 0 : static_cast<std::size_t>(base * base / 4) * sizeof(QuadSigns);
}

/// s0 * ((a + s0 s1 b) + s0 s2 (c + s2 s3 d)): signs of b, d, right and the quad. Bit 0 of a code is s0 s1,
/// bit 1 s0 s2, bit 2 s0 s3, bit 3 s0.
__device__ inline QuadSigns quad_signs(unsigned code) {
  const auto sign = [](unsigned bit) { return (bit & 1u) != 0 ? -1.0f : 1.0f; };
  return {sign(code), sign(code >> 1 ^ code >> 2), sign(code >> 1), sign(code >> 3)};
}

/// Rows [row, row + 4) of Paley's matrix times the runs, at column `col`: the values are read once for all.
__device__ inline void combine(const QuadSigns* signs, int quads, const float* values, int run, int row,
                               int col, float (&out)[4]) {
  _Pragma("unroll 1") for (int k = 0; k < quads; ++k) {
    const int first = 4 * k * run + col;
    const float a = values[padded_place(first)], b = values[padded_place(first + run)];
    const float c = values[padded_place(first + 2 * run)], d = values[padded_place(first + 3 * run)];
    HIGGS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const QuadSigns by = signs[4 * quads * k + row + i];
      const float quad = fmaf(by.z, fmaf(by.y, d, c), fmaf(by.x, b, a));
      out[i] = k == 0 ? quad : fmaf(by.w, quad, out[i]);
    }
  }
}

/// How transforms of any order are shared out.
struct BlockPlan {
  int order, base, run;
  int teams;            // of a block: warps that take a transform each, or 1
  int space;            // floats of a transform
  bool coded;           // the base needs a table of signs: combine_runs() has it not
  bool plain;           // whole aligned runs, signs, factors and the transform
  std::uint32_t items;  // transforms, and of a row
  std::uint32_t row_items;

  std::size_t sign_bytes() const { return coded ? quad_sign_bytes(base) : 0; }
};
inline BlockPlan block_plan(const Rotation& r, std::int64_t rows, bool in_shared, bool plain = false) {
  const higgs::detail::HadamardShape shape = higgs::detail::hadamard_shape(r.block);
  const std::int64_t row_items = ceil_div(r.cols, r.block);
  expects(rows * row_items < std::int64_t{1} << 31, "higgs::gpu::rotate_async: less than 2^31 transforms");
  auto space = static_cast<int>(ceil_div(r.block, 32) * 36);
  // Where warps combine columns of several transforms these lie in other banks.
  if (shape.run < 32) space += (std::max(static_cast<int>(shape.run), 4) - space) & 31;
  return {static_cast<int>(r.block),
          static_cast<int>(shape.base),
          static_cast<int>(shape.run),
          r.block <= 1024 ? 4 : 1,
          space,
          shape.base > (in_shared ? max_unrolled_base : 1),
          plain && r.cols % r.block == 0 && r.block % 32 == 0 && shape.run >= 8,
          static_cast<std::uint32_t>(rows * row_items),
          static_cast<std::uint32_t>(row_items)};
}

/// The inputs of a transform that begins at column `start`, after strides 1, 2 and 4: nothing but whole runs.
template <class In, class Values>
__device__ inline void load_transform(const Rotation& r, int order, const Team& team, const In* row,
                                      std::uint32_t start, Values values) {
  const std::uint32_t col = start + 8 * team.thread, step = 8 * team.size;
  const In* from = row + col;
  const bool with_signs = r.signs != nullptr && !r.inverse, with_factors = r.factors != nullptr && !r.inverse;
  const std::uint32_t* signs = r.signs + col / 32;
  const float* factors = r.factors + col;
  Values to = after(values, padded_place(8 * team.thread));
  _Pragma("unroll 1") for (std::uint32_t i = 8 * team.thread; i < order; i += step) {
    float v[8];
    load_eight(from, with_signs ? *signs << col % 32 / 2 : 0, v);
    if (with_factors) multiply_eight(factors, v);
    butterflies<1>(v);
    store_quad(to, v);
    store_quad(after(to, 4), v + 4);
    from += step, signs += step / 32, factors += step, to = after(to, padded_place(step));
  }
}

/// The results of such a transform, scaled.
template <class Out, class Values>
__device__ inline void store_transform(const Rotation& r, int order, const Team& team, Values values,
                                       float scale, Out* row, std::uint32_t start) {
  const std::uint32_t col = start + 8 * team.thread;
  const int step = 8 * team.size;
  Out* to = row + col;
  Values from = after(values, padded_place(8 * team.thread));
  _Pragma("unroll 1") for (int i = 8 * team.thread; i < order; i += step) {
    float v[8];
    load_quad(from, v);
    load_quad(after(from, 4), v + 4);
    HIGGS_UNROLL
    for (int j = 0; j < 8; ++j) v[j] = __fmul_rn(v[j], scale);
    if (r.inverse) {
      const std::uint32_t at = col + (i - 8 * team.thread), signs = signs_of(r, at);
      HIGGS_UNROLL
      for (int j = 0; j < 8; ++j) v[j] = with_sign(v[j], signs, j);
      if (r.factors != nullptr) multiply_eight(r.factors + at, v);
    }
    store_eight(to, v);
    to += step, from = after(from, padded_place(step));
  }
}

/// Column c of any row, with signs and factors.
template <class In>
__device__ inline float load_rotated(const Rotation& r, const In* row, std::int64_t c) {
  if (r.inverse) return to_float(row[c]);
  if (c >= r.cols) return 0.0f;
  const float value = with_sign(to_float(row[c]), signs_of(r, c / 8 * 8), static_cast<int>(c % 8));
  return r.factors != nullptr ? __fmul_rn(value, r.factors[c]) : value;
}

/// Rows whose type is known at run time: one kernel for all types builds faster than one for each pair.
struct AnyRows {
  void* data;
  std::int64_t row_stride;
  enum Type { OfFloat, OfHalf, OfBFloat16 } type;

  template <class T>
  explicit AnyRows(DenseView<T> view)
      : data(const_cast<std::remove_const_t<T>*>(view.data)),
        row_stride(view.row_stride),
        type(std::is_same_v<std::remove_const_t<T>, float>         ? OfFloat
             : std::is_same_v<std::remove_const_t<T>, higgs::Half> ? OfHalf
                                                                   : OfBFloat16) {}
  /// Calls use(row) with the type of the rows.
  template <class Use>
  __device__ void with_row(std::int64_t row, const Use& use) const {
    if (type == OfHalf)
      use(static_cast<Half*>(data) + row * row_stride);
    else if (type == OfBFloat16)
      use(static_cast<BFloat16*>(data) + row * row_stride);
    else
      use(static_cast<float*>(data) + row * row_stride);
  }
};

/// Any order, Paley where it is no power of two: a warp for each transform up to 1024, a block for larger
/// ones. Without room in shared memory `scratch` stands in, and blocks take one transform after another.
template <bool InShared, bool Paley>
__global__ void __launch_bounds__(InShared&& Paley ? 256 : 512, 1)
    rotate_block_kernel(Rotation r, AnyRows x, AnyRows y, float scale,
                        __grid_constant__ const HadamardBase base, BlockPlan plan, float* scratch) {
  extern __shared__ __align__(16) float rotate_space[];
  const Team team = plan.teams > 1 ? Team::of_warp() : Team::of_block();
  const int mine = plan.teams > 1 ? static_cast<int>(threadIdx.x) / 32 : 0, quads = plan.base / 4;
  float* const memory =
      InShared ? rotate_space + mine * plan.space : scratch + std::int64_t{blockIdx.x} * plan.space;
  std::conditional_t<InShared, std::uint32_t, float*> values;
  if constexpr (InShared)
    values = shared_address(memory);
  else
    values = memory;
  const bool coded = Paley && plan.coded;
  auto* const signs = reinterpret_cast<QuadSigns*>(rotate_space + (InShared ? plan.teams * plan.space : 0));
  if (coded) {
    _Pragma("unroll 1") for (int i = static_cast<int>(threadIdx.x); i < plan.base * quads;
                             i += static_cast<int>(blockDim.x)) signs[i % quads * plan.base + i / quads] =
        quad_signs(base.codes[i]);
    __syncthreads();
  }
  for (std::uint32_t first = blockIdx.x * plan.teams; first < plan.items; first += gridDim.x * plan.teams) {
    const std::uint32_t item = first + mine, row = item / plan.row_items;
    const std::uint32_t start = (item - row * plan.row_items) * plan.order;
    const bool active = item < plan.items;
    if (active) {
      x.with_row(row, [&](const auto* from) {
        if (plan.plain) return load_transform(r, plan.order, team, from, start, values);
        _Pragma("unroll 1") for (int i = team.thread; i < plan.order; i += team.size)
            memory[padded_place(i)] = load_rotated(r, from, std::int64_t{start} + i);
      });
      team.sync();
      if (!plan.plain) low_pass(team, values, plan.order, plan.run);
      transform_runs(team, values, plan.order, plan.run);
    }
    if constexpr (InShared && Paley)
      if (!coded) {
        // A warp that has too few columns shares those of all with the others.
        const bool together = plan.teams > 1 && plan.run < 32;
        if (together) __syncthreads();
        if (together || active)
          combine_runs(plan.base, together ? shared_address(rotate_space) : values, 4 * plan.space, plan.run,
                       plan.run * (together ? static_cast<int>(min(plan.items - first, 4u)) : 1),
                       together ? Team::of_block() : team);
        together ? __syncthreads() : team.sync();
      }
    if (active && !coded)
      y.with_row(row, [&](auto* to) {
        if (plan.plain) return store_transform(r, plan.order, team, values, scale, to, start);
        _Pragma("unroll 1") for (int i = team.thread; i < plan.order; i += team.size)
            store_rotated(r, to, std::int64_t{start} + i, __fmul_rn(memory[padded_place(i)], scale));
      });
    if (active && coded) {
      const int log_run = 31 - __clz(plan.run);
      _Pragma("unroll 1") for (int i = team.thread; i < quads << log_run; i += team.size) {
        const int col = i & (plan.run - 1), base_row = i >> log_run << 2;
        float sums[4];
        combine(signs, quads, memory, plan.run, base_row, col, sums);
        y.with_row(row, [&](auto* to) {
          _Pragma("unroll 1") for (int j = 0; j < 4; ++j) {
            const float sum = j == 0 ? sums[0] : j == 1 ? sums[1] : j == 2 ? sums[2] : sums[3];
            store_rotated(r, to, std::int64_t{start} + ((base_row + j) << log_run) + col,
                          __fmul_rn(sum, scale));
          }
        });
      }
    }
    if constexpr (InShared) return;
    team.sync();
  }
}

/// Shared memory of a block of threads for transforms of any order.
inline std::size_t rotate_shared_bytes(const Rotation& r) {
  const BlockPlan plan = block_plan(r, 1, true);
  return static_cast<std::size_t>(plan.teams * plan.space) * sizeof(float) + plan.sign_bytes();
}

}  // namespace detail

/// Floats of scratch that rotate_async needs on a device for `rows` rows: 0 unless an order exceeds its
/// shared memory.
inline std::int64_t rotate_scratch(const Rotation& r, std::int64_t rows, const Device& device) {
  if (detail::rotate_shared_bytes(r) <= static_cast<std::size_t>(device.shared_bytes)) return 0;
  return detail::block_plan(r, rows, false).space *
         std::min<std::int64_t>(rows * ceil_div(r.cols, r.block), 2 * device.multiprocessors);
}

/// y = rows of x: times factors, signs, then each block times H / sqrt(block), rounded once. Equals
/// rotate_row bit for bit before that rounding. x (M, cols), y (M, padded); values of y between groups are
/// not written; x may be y if their rows are equally far apart. In and Out are free: rows of bf16 that leave
/// as fp16 keep three more bits for matmul_rotated_async, if none exceeds 65504. The inverse equals
/// unrotate_row, then factors.
template <class In, class Out, class Archs = BuiltFor>
void rotate_async(const Rotation& r, DenseView<const In> x, DenseView<Out> y,
                  const Device& device, cudaStream_t stream, float* scratch = nullptr) {
  expects(r.cols < std::int64_t{1} << 31, "higgs::gpu::rotate_async: rows of less than 2^31 columns");
  expects(is_hadamard_order(r.block), "higgs::gpu::rotate_async: block must be a Hadamard order");
  expects(
      x.cols == (r.inverse ? r.padded_cols() : r.cols) && y.rows == x.rows,
      "higgs::gpu::rotate_async: x must be (M, cols), for the inverse (M, padded_cols), and y have M rows");
  if (x.rows == 0) return;
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(r.block)));
  const auto aligned = [](const auto& view) {
    return reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 &&
           view.row_stride * sizeof(*view.data) % 16 == 0;
  };
  const bool plain = aligned(x) && aligned(y) && r.group == r.padded_group &&
                     (r.factors == nullptr || reinterpret_cast<std::uintptr_t>(r.factors) % 16 == 0);
  if (plain && !r.inverse && r.block <= 1024 && r.cols % 1024 == 0 &&
      std::has_single_bit(static_cast<std::uint64_t>(r.block))) {
    const std::int64_t runs = r.cols / 1024;
    expects(x.rows * runs < std::int64_t{1} << 31, "higgs::gpu::rotate_async: less than 2^41 inputs in all");
    return launch(detail::rotate_wide_kernel<In, Out>,
                  dim3(static_cast<unsigned>(ceil_div(x.rows * runs, 4))), 128, 0, stream, r, x, y, scale,
                  static_cast<std::uint32_t>(runs));
  }
  detail::HadamardBase base;
  const higgs::detail::HadamardShape shape = higgs::detail::hadamard_shape(r.block);
  if (shape.base > 1) std::copy_n(shape.codes, shape.base * shape.base / 4, base.codes);
  const bool in_shared = rotate_scratch(r, x.rows, device) == 0;
  expects(in_shared || scratch != nullptr,
          "higgs::gpu::rotate_async: this order needs scratch (see rotate_scratch)");
  const detail::BlockPlan plan = detail::block_plan(r, x.rows, in_shared, plain);
  const std::int64_t grid = ceil_div(plan.items, plan.teams);
  const auto go = [&](auto kernel, int most_threads, std::int64_t size, std::size_t shared) {
    const auto threads = plan.teams > 1 ? 32 * plan.teams : static_cast<int>(ceil_div(r.block, 1024) * 32);
    launch(kernel, dim3(static_cast<unsigned>(size)), std::min(threads, most_threads), shared, stream, r,
           detail::AnyRows(x), detail::AnyRows(y), scale, base, plan, scratch);
  };
  if (!in_shared)
    go(detail::rotate_block_kernel<false, true>, 512,
       std::min<std::int64_t>(grid, 2 * device.multiprocessors), plan.sign_bytes());
  else if (plan.base == 1)
    go(detail::rotate_block_kernel<true, false>, 512, grid, detail::rotate_shared_bytes(r));
  else
    go(detail::rotate_block_kernel<true, true>, 256, grid, detail::rotate_shared_bytes(r));
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
