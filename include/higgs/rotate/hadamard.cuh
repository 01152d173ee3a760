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

// A quad holds bits 8 and 9 of an element's number. It lies in row 8 high + low at 16 (low ^ middle), where low
// are bits 0 to 2, middle 3 to 5, high 6 and 7: neither eight lanes that differ in low nor eight that differ in
// middle share a bank. Rows have 128 bytes and are `Apart` bytes apart, a multiple of 128.
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

/// Where hadamard_block keeps element i: no two lanes of a pass meet in a bank. Below the next multiple of
/// 32.
__device__ constexpr int swizzled(int i) { return i ^ (i >> 5 & 31); }

namespace detail {
/// One pass: strides `low` to `low << Bits`, 2^Bits values in registers.
template <int Bits>
__device__ inline void hadamard_pass(float* x, int n, int low) {
  constexpr int count = 1 << Bits;
  for (int i = static_cast<int>(threadIdx.x); i < n / count; i += static_cast<int>(blockDim.x)) {
    const int first = i / low * low * count + i % low;
    float v[count];
    HIGGS_UNROLL
    for (int j = 0; j < count; ++j) v[j] = x[swizzled(first + j * low)];
    butterflies<1>(v);
    HIGGS_UNROLL
    for (int j = 0; j < count; ++j) x[swizzled(first + j * low)] = v[j];
  }
  __syncthreads();
}
}  // namespace detail

/// The unscaled transforms of order `run` = 2^a of each run of n floats, by all threads of the block. Element
/// i lies at x[swizzled(i)]. Ends with a barrier; the caller needs one between its writes and the call.
__device__ inline void hadamard_block(float* x, int n, int run) {
  int low = 1;
  for (; low * 32 <= run; low *= 32) detail::hadamard_pass<5>(x, n, low);
  switch (run / low) {
    case 2:
      return detail::hadamard_pass<1>(x, n, low);
    case 4:
      return detail::hadamard_pass<2>(x, n, low);
    case 8:
      return detail::hadamard_pass<3>(x, n, low);
    case 16:
      return detail::hadamard_pass<4>(x, n, low);
    default:
      return;
  }
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

/// Columns [col, col + 8) of a row as floats, with factors and signs unless inverse, zeros beyond the row.
/// col is a multiple of 8.
template <class In>
__device__ inline void load_rotation(const Rotation& r, const In* row, std::int64_t col, bool aligned,
                                     float* v) {
  const std::uint32_t signs = r.inverse ? 0 : signs_of(r, col);
  const std::int64_t end = r.inverse ? r.padded_cols() : r.cols;
  if (aligned && col + 8 <= end) {
    load_eight(row + col, signs, v);
  } else {
    HIGGS_UNROLL
    for (int i = 0; i < 8; ++i) v[i] = with_sign(col + i < end ? to_float(row[col + i]) : 0.0f, signs, i);
  }
  if (r.factors != nullptr && !r.inverse) HIGGS_UNROLL
  for (int i = 0; i < 8; ++i)
    if (col + i < r.cols) v[i] = __fmul_rn(v[i], r.factors[col + i]);
}

template <class Out>
__device__ inline void store_rotation(const Rotation& r, Out* row, std::int64_t col, bool aligned, float* v) {
  const std::int64_t end = r.inverse ? r.cols : r.padded_cols();
  if (r.inverse) {
    const std::uint32_t signs = signs_of(r, col);
    HIGGS_UNROLL
    for (int i = 0; i < 8; ++i) {
      v[i] = with_sign(v[i], signs, i);
      if (r.factors != nullptr && col + i < end) v[i] = __fmul_rn(v[i], r.factors[col + i]);
    }
  }
  if (aligned && col + 8 <= end) {
    store_eight(row + (r.group == r.padded_group ? col : col / r.group * r.padded_group + col % r.group), v);
    return;
  }
  for (int i = 0; i < 8; ++i) {
    const std::int64_t c = col + i;
    if (c < end) row[c / r.group * r.padded_group + c % r.group] = from_float<Out>(v[i]);
  }
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

/// What the host knows of a launch: whether rows allow loads and stores of 16 bytes, and whether there is
/// nothing but whole runs, signs, factors and the transform.
struct RotationCase {
  bool aligned_in, aligned_out, plain;
};

/// Rows of 1024 or more inputs, orders up to 1024: a warp takes 1024 neighbouring inputs of a row.
template <class In, class Out, bool Plain>
__global__ void __launch_bounds__(128)
    rotate_wide_kernel(Rotation r, DeviceMatrixView<const In> x, DeviceMatrixView<Out> y, float scale,
                       std::uint32_t runs, RotationCase known) {
  __shared__ __align__(128) float space[4][1024];
  const std::uint32_t warp = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, row = warp / runs;
  if (row >= x.rows) return;
  const std::uint32_t start = (warp - row * runs) * 1024, first = start + 8 * lane;
  float v[32];
  if constexpr (Plain) {
    const In* from = x.row(row) + first;
    std::uint32_t signs[4] = {};
    if (r.signs != nullptr) HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) signs[c] = r.signs[first / 32 + 8 * c] << lane % 4 * 4;
    HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) load_eight(from + 256 * c, signs[c], v + 8 * c);
    if (r.factors != nullptr) HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) multiply_eight(r.factors + first + 256 * c, v + 8 * c);
  } else {
    HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) load_rotation(r, x.row(row), first + 256 * c, known.aligned_in, v + 8 * c);
  }
  if (r.block == 1024)
    hadamard_warp(v, space[threadIdx.x / 32]);
  else
    hadamard_warp(v, space[threadIdx.x / 32], static_cast<int>(r.block));
  HIGGS_UNROLL
  for (int i = 0; i < 32; ++i) v[i] = __fmul_rn(v[i], scale);
  Out* const to = y.row(row) + (Plain ? start + 2 * lane : 0);
  HIGGS_UNROLL
  for (int k = 0; k < 16; ++k) {
    if constexpr (Plain)
      store_two(to + 64 * k, v[2 * k], v[2 * k + 1]);
    else
      for (int i = 0; i < 2; ++i) store_rotated(r, to, start + 64 * k + 2 * lane + i, v[2 * k + i]);
  }
}

/// Narrower rows, orders up to 512: a warp takes 32 * Count neighbouring inputs of a row.
template <class In, class Out, int Count>
__global__ void __launch_bounds__(128)
    rotate_warp_kernel(Rotation r, DeviceMatrixView<const In> x, DeviceMatrixView<Out> y, float scale,
                       std::uint32_t runs, RotationCase known) {
  const std::uint32_t warp = blockIdx.x * 4 + threadIdx.x / 32, row = warp / runs;
  if (row >= x.rows) return;
  const auto first = static_cast<int>((warp - row * runs) * (32 * Count) + threadIdx.x % 32 * 8);
  float v[Count];
  if (known.plain) {
    const In* from = x.row(row) + first;
    const std::uint32_t* signs = r.signs + first / 32;
    const int shift = first % 32 / 2;
    HIGGS_UNROLL
    for (int c = 0; c < Count; c += 8)
      load_eight(from + 32 * c, r.signs != nullptr ? signs[c] << shift : 0, v + c);
  } else {
    HIGGS_UNROLL
    for (int c = 0; c < Count; c += 8) load_rotation(r, x.row(row), first + 32 * c, known.aligned_in, v + c);
  }
  hadamard_warp(v, static_cast<int>(Count == 8 ? r.block : 32 * Count));
  HIGGS_UNROLL
  for (int i = 0; i < Count; ++i) v[i] = __fmul_rn(v[i], scale);
  Out* to = y.row(row);
  HIGGS_UNROLL
  for (int c = 0; c < Count; c += 8) {
    if (known.plain)
      store_eight(to + first + 32 * c, v + c);
    else
      store_rotation(r, to, first + 32 * c, known.aligned_out, v + c);
  }
}

/// Paley's matrix as a kernel parameter: hadamard.hpp's codes, (base, base / 4).
struct HadamardBase {
  int base = 1;
  std::uint8_t codes[100 * 100 / 4] = {};
};

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
  for (int k = 0; k < quads; ++k) {
    const int first = 4 * k * run + col;
    const float a = values[swizzled(first)], b = values[swizzled(first + run)];
    const float c = values[swizzled(first + 2 * run)], d = values[swizzled(first + 3 * run)];
    HIGGS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const QuadSigns by = signs[4 * quads * k + row + i];
      const float quad = fmaf(by.z, fmaf(by.y, d, c), fmaf(by.x, b, a));
      out[i] = k == 0 ? quad : fmaf(by.w, quad, out[i]);
    }
  }
}

/// Any order, one block of threads for each transform. `scratch` stands in where shared memory is too small.
template <class In, class Out>
__global__ void __launch_bounds__(512)
    rotate_block_kernel(Rotation r, DeviceMatrixView<const In> x, DeviceMatrixView<Out> y, float scale,
                        __grid_constant__ const HadamardBase base, float* scratch, RotationCase known) {
  extern __shared__ __align__(16) float rotate_space[];
  const auto n = static_cast<int>(r.block), run = n / base.base;
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  float* values =
      scratch != nullptr ? scratch + std::int64_t{blockIdx.x} * (ceil_div(n, 32) * 32) : rotate_space;
  const int log_run = 31 - __clz(run), quads = base.base / 4;
  auto* signs = reinterpret_cast<QuadSigns*>(rotate_space + (scratch != nullptr ? 0 : ceil_div(n, 32) * 32));
  for (int i = thread; i < base.base * quads; i += threads)
    signs[i % quads * base.base + i / quads] = quad_signs(base.codes[i]);
  const std::int64_t blocks = ceil_div(r.cols, r.block);
  for (std::int64_t item = blockIdx.x; item < x.rows * blocks; item += gridDim.x) {
    const In* row = x.row(item / blocks);
    const std::int64_t start = item % blocks * n;
    for (int i = thread * 8; n % 8 == 0 && i < n; i += threads * 8) {
      float v[8];
      load_rotation(r, row, start + i, known.aligned_in, v);
      HIGGS_UNROLL
      for (int j = 0; j < 8; ++j) values[swizzled(i + j)] = v[j];
    }
    for (int i = thread; n % 8 != 0 && i < n; i += threads) {
      const std::int64_t col = start + i;
      float value = 0;
      if (r.inverse) {
        value = to_float(row[col]);
      } else if (col < r.cols) {
        value = with_sign(to_float(row[col]), signs_of(r, col / 8 * 8), static_cast<int>(col % 8));
        if (r.factors != nullptr) value = __fmul_rn(value, r.factors[col]);
      }
      values[swizzled(i)] = value;
    }
    __syncthreads();
    hadamard_block(values, n, run);
    Out* out = y.row(item / blocks);
    for (int i = thread * 8; base.base == 1 && i < n; i += threads * 8) {
      float v[8];
      HIGGS_UNROLL
      for (int j = 0; j < 8; ++j) v[j] = __fmul_rn(values[swizzled(i + j)], scale);
      store_rotation(r, out, start + i, known.aligned_out, v);
    }
    for (int i = thread; i < quads << log_run; i += threads) {
      const int col = i & (run - 1), first = i >> log_run << 2;
      float sums[4];
      combine(signs, quads, values, run, first, col, sums);
      HIGGS_UNROLL
      for (int j = 0; j < 4; ++j)
        store_rotated(r, out, start + ((first + j) << log_run) + col, __fmul_rn(sums[j], scale));
    }
    __syncthreads();
  }
}

/// What a block of threads needs for a transform: its values, and the signs of its base.
inline std::size_t rotate_shared_bytes(std::int64_t order) {
  return static_cast<std::size_t>(ceil_div(order, 32)) * 128 +
         quad_sign_bytes(higgs::detail::hadamard_shape(order).base);
}

}  // namespace detail

/// Floats of scratch that rotate_async needs on a device for `rows` rows: 0 unless an order exceeds its
/// shared memory.
inline std::int64_t rotate_scratch(const Rotation& r, std::int64_t rows, const Device& device) {
  if (detail::rotate_shared_bytes(r.block) <= static_cast<std::size_t>(device.shared_bytes)) return 0;
  return ceil_div(r.block, 32) * 32 *
         std::min<std::int64_t>(rows * ceil_div(r.cols, r.block), 2 * device.multiprocessors);
}

/// y = rows of x: times factors, signs, then each block times H / sqrt(block), rounded once. Equals
/// rotate_row bit for bit before that rounding. x (M, cols), y (M, padded); values of y between groups are
/// not written; x may be y if their rows are equally far apart. In and Out are free: rows of bf16 that leave
/// as fp16 keep three more bits for matmul_rotated_async, if none exceeds 65504. The inverse equals
/// unrotate_row, then factors.
template <class In, class Out, class Archs = BuiltFor>
void rotate_async(const Rotation& r, DeviceMatrixView<const In> x, DeviceMatrixView<Out> y,
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
  const bool eights = r.group == r.padded_group || (r.group % 8 == 0 && r.padded_group % 8 == 0);
  detail::RotationCase known{aligned(x), aligned(y) && eights, false};
  if (r.block <= 1024 && std::has_single_bit(static_cast<std::uint64_t>(r.block))) {
    const std::int64_t padded = r.padded_cols();
    const std::int64_t each = padded >= 1024 ? 1024 : std::max<std::int64_t>(r.block, 256);
    const std::int64_t runs = ceil_div(padded, each);
    expects(x.rows * runs < std::int64_t{1} << 31, "higgs::gpu::rotate_async: less than 2^41 inputs in all");
    const bool factors_aligned = each == 1024 && reinterpret_cast<std::uintptr_t>(r.factors) % 16 == 0;
    known.plain = known.aligned_in && known.aligned_out && r.cols % each == 0 && r.group == r.padded_group &&
                  (r.factors == nullptr || factors_aligned) && !r.inverse;
    const auto grid = dim3(static_cast<unsigned>(ceil_div(x.rows * runs, 4)));
    const auto go = [&](auto kernel) {
      launch(kernel, grid, 128, 0, stream, r, x, y, scale, static_cast<std::uint32_t>(runs), known);
    };
    if (each == 256) go(detail::rotate_warp_kernel<In, Out, 8>);
    if (each == 512) go(detail::rotate_warp_kernel<In, Out, 16>);
    if (each == 1024)
      known.plain ? go(detail::rotate_wide_kernel<In, Out, true>)
                  : go(detail::rotate_wide_kernel<In, Out, false>);
    return;
  }
  detail::HadamardBase base;
  const higgs::detail::HadamardShape shape = higgs::detail::hadamard_shape(r.block);
  base.base = static_cast<int>(shape.base);
  if (shape.base > 1) std::copy_n(shape.codes, shape.base * shape.base / 4, base.codes);
  std::int64_t items = x.rows * ceil_div(r.cols, r.block);
  std::size_t shared = detail::rotate_shared_bytes(r.block);
  if (rotate_scratch(r, x.rows, device) != 0) {
    expects(scratch != nullptr, "higgs::gpu::rotate_async: this order needs scratch (see rotate_scratch)");
    items = std::min<std::int64_t>(items, 2 * device.multiprocessors);
    shared = detail::quad_sign_bytes(shape.base);
  } else {
    scratch = nullptr;
  }
  const int threads = r.block >= 8192 ? 512 : r.block >= 2048 ? 256 : 128;
  launch(detail::rotate_block_kernel<In, Out>, dim3(static_cast<unsigned>(items)), threads, shared, stream, r,
         x, y, scale, base, scratch, known);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
