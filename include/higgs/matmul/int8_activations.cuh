// SPDX-License-Identifier: Apache-2.0
// Activations as int8, for the int8 product: a rotated row of x in one or two planes of bytes, with a scale for each 1024
// inputs (a segment). Input v becomes
//
//     one plane:   q             with scale * q about v,  scale = largest |v| of the segment / 127
//     two planes:  256 hi + lo   the same,                scale = largest |v| of the segment / 32639
//
// rounded to nearest, ties to even. Planes are columns of the product: row m is column m, and in two planes also column
// m + columns / 2, with scales of their own (256 * scale for hi, scale for lo). A segment whose largest input is below
// 2^-100 counts as zeros. One with an input of 2^126 or more, infinite or NaN, has NaN for a scale, and so has its whole
// row of y.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/stream_kernel.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {
namespace detail {

/// Inputs with a common scale, as warp tiles: 1024 inputs.
inline constexpr int segment_tiles = 16;
inline constexpr int segment_inputs = segment_tiles * warp_tile;

/// Rows of x as int8, in global memory: bytes (warp tiles, columns, 64), scales (segments, columns). The 64 inputs of a
/// warp tile are in the order in which lanes take them: piece t of 16 bytes has inputs 16 j + 4 t ... + 3 for j = 0 ... 3.
/// Columns without a row of x have scales of zero and any bytes.
struct Int8Rows {
  std::uint8_t* bytes = nullptr;
  float* scales = nullptr;
  int columns = 8;  // 8, 16 or 32
  int planes = 1;
  int tiles = 0;  // warp tiles of a row

  HIGGS_HOST_DEVICE int segments() const { return (tiles + segment_tiles - 1) / segment_tiles; }
};

/// Where inputs 2 l, 2 l + 1 of a warp tile are among the 64 bytes of a column, for lane l.
__device__ inline int int8_pair(int lane) { return lane % 8 / 2 * 16 + lane / 8 * 4 + lane % 2 * 2; }

/// The largest |v| of a segment that a warp holds; NaN if one is NaN. All lanes call it.
__device__ inline float largest_magnitude(const float (&v)[32]) {
  std::uint32_t largest = 0;
  HIGGS_UNROLL for (int i = 0; i < 32; ++i)
    largest = max(largest, __float_as_uint(v[i]) & 0x7fffffffu);  // those of NaN are the largest
  return __uint_as_float(__reduce_max_sync(0xffffffffu, largest));
}

/// A segment becomes int8: v[2 k + i] of lane l is its input 64 k + 2 l + i. Calls store(plane, tile, pair) with inputs
/// 2 l, 2 l + 1 of each warp tile, two bytes, for the number `tile` as a template argument; returns the scale.
template <class Store>
__device__ inline float to_int8(const float (&v)[32], int planes, const Store& store) {
  const float largest = largest_magnitude(v), most = planes == 1 ? 127.0f : 32639.0f;
  float scale = __fmul_rn(largest, planes == 1 ? 1 / 127.0f : 1 / 32639.0f);
  float inverse = divide_normal(most, largest);
  if (largest < 0x1p-100f) scale = inverse = 0;
  if (!(largest < 0x1p126f)) scale = __uint_as_float(0x7fc00000u);
  // Beside 1.5 * 2^23 a float is an integer in its low bits. With 128 more, byte 1 is hi, and byte 0 is lo + 128.
  const float shift = planes == 1 ? 0x1.8p23f : 0x1.8p23f + 128;
  const std::uint32_t first_plane = planes == 1 ? 0x40 : 0x51;
  const auto each = [&]<int K>(std::integral_constant<int, K> tile) {
    const std::uint32_t a = __float_as_uint(fmaf(v[2 * K], inverse, shift)),
                        b = __float_as_uint(fmaf(v[2 * K + 1], inverse, shift));
    store(0, tile, __byte_perm(a, b, first_plane));
    if (planes == 2) store(1, tile, __byte_perm(a, b, 0x40) ^ 0x8080u);
  };
  [&]<int... K>(std::integer_sequence<int, K...>) {
    (each(std::integral_constant<int, K>{}), ...);
  }(std::make_integer_sequence<int, segment_tiles>{});
  return scale;
}

/// The scale of a plane.
__device__ inline float plane_scale(float scale, int planes, int plane) {
  return planes == 2 && plane == 0 ? 256 * scale : scale;
}

/// Writes a segment of row m of `batch` to `out`; with the last row the scales of columns that have none.
__device__ inline void store_segment(const Int8Rows& out, const float (&v)[32], int m, int batch,
                                     int segment) {
  const int lane = static_cast<int>(threadIdx.x) % 32, first = segment * segment_tiles,
            each = out.columns / out.planes;
  std::uint8_t* const to = out.bytes + (std::int64_t{first} * out.columns + m) * warp_tile + int8_pair(lane);
  const float scale = to_int8(v, out.planes, [&](int plane, int tile, std::uint32_t pair) {
    if (first + tile < out.tiles)
      *reinterpret_cast<std::uint16_t*>(to + (tile * out.columns + plane * each) * warp_tile) =
          static_cast<std::uint16_t>(pair);
  });
  const int of_lane = lane % each;  // the row of column `lane`
  const bool spare = m == batch - 1 && of_lane >= batch;
  if (lane < out.columns && (of_lane == m || spare))
    out.scales[segment * out.columns + lane] = spare ? 0 : plane_scale(scale, out.planes, lane / each);
}

inline constexpr int int8_threads = 128;

/// Rows of rotated x become int8: one warp for a segment.
template <class T>
__global__ void __launch_bounds__(int8_threads, 4)
    rotated_to_int8_kernel(DenseView<const T> x, Int8Rows out) {
  allow_next_kernel();
  const int warp = static_cast<int>(blockIdx.x) * (int8_threads / 32) + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, segments = out.segments(), m = warp / segments,
            segment = warp % segments;
  if (m >= x.rows) return;
  const T* const row = x.row(m);
  float v[32];
  HIGGS_UNROLL for (int k = 0; k < segment_tiles; ++k) {
    const std::int64_t i = std::int64_t{segment} * segment_inputs + k * warp_tile + 2 * lane;
    v[2 * k] = i < x.cols ? to_float(row[i]) : 0.0f;
    v[2 * k + 1] = i < x.cols ? to_float(row[i + 1]) : 0.0f;
  }
  store_segment(out, v, m, static_cast<int>(x.rows), segment);
}

/// Rows of x are rotated and become int8: one warp for a segment, as can_rotate_in_warps() allows.
template <class X>
__global__ void __launch_bounds__(int8_threads, 4)
    rotate_to_int8_kernel(Rotation r, DenseView<const X> x, float scale, Int8Rows out) {
  allow_next_kernel();
  __shared__ __align__(128) float space[int8_threads / 32][segment_inputs];
  const int warp = static_cast<int>(blockIdx.x) * (int8_threads / 32) + static_cast<int>(threadIdx.x) / 32;
  const int segments = out.segments(), m = warp / segments, segment = warp % segments;
  if (m >= x.rows) return;
  float v[32];
  rotate_inputs<128>(r, x.row(m), segment * segment_inputs, shared_address(space[threadIdx.x / 32]), v);
  HIGGS_UNROLL for (float& value : v)
    value = __fmul_rn(value, scale);
  store_segment(out, v, m, static_cast<int>(x.rows), segment);
}

}  // namespace detail
}  // namespace gpu
}  // namespace v0
}  // namespace higgs
