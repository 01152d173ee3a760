// SPDX-License-Identifier: Apache-2.0
// The Hadamard transform as device functions, for kernels of the caller's own: hadamard_warp and hadamard_block.
#pragma once

#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Butterflies among the values of one lane: strides `First`, 2 `First`, ... below `Count`.
template <int First, int Count>
__device__ inline void butterflies(float (&v)[Count]) {
  HIGGS_UNROLL for (int stride = First; stride < Count; stride *= 2) HIGGS_UNROLL
    for (int i = 0; i < Count; ++i)
      if ((i & stride) == 0) {
        const float a = v[i], b = v[i + stride];
        v[i] = __fadd_rn(a, b);  // never fused with a product of the caller's
        v[i + stride] = __fsub_rn(a, b);
      }
}

/// The unscaled transform of order n of the values of one warp, without shared memory. All 32 lanes call it. Value
/// 8 c + i of lane l is element 256 c + 8 l + i. n is 32 * Count, or any power of two up to 256 if Count is 8: the
/// warp then transforms 256 / n blocks in a row.
template <int Count>
__device__ inline void hadamard_warp(float (&v)[Count], int n = 32 * Count) {
  static_assert(Count == 8 || Count == 16 || Count == 32, "hadamard_warp: a lane holds 8, 16 or 32 values");
  const int lane = static_cast<int>(threadIdx.x) % 32;
  HIGGS_UNROLL for (int stride = 1; stride < 8; stride *= 2)
    if (Count > 8 || stride < n) HIGGS_UNROLL
      for (int i = 0; i < Count; ++i)
        if ((i & stride) == 0) {
          const float a = v[i], b = v[i + stride];
          v[i] = __fadd_rn(a, b);
          v[i + stride] = __fsub_rn(a, b);
        }
  HIGGS_UNROLL for (int by = 1; by < 32; by *= 2)
    if (Count > 8 || 8 * by < n) {
      const float sign = (lane & by) != 0 ? -1.0f : 1.0f;
      HIGGS_UNROLL for (int i = 0; i < Count; ++i)
        v[i] = fmaf(v[i], sign, __shfl_xor_sync(0xffffffffu, v[i], by));
    }
  butterflies<8>(v);
}

namespace detail {
/// Stores or loads the quads {v[i], v[8 + i], v[16 + i], v[24 + i]}, i = 0 ... 7. Quad I is at shared address
/// offsets.at<I>() + Offsets::offset<I>.
template <class Offsets>
__device__ inline void store_quads(const float (&v)[32], const Offsets& offsets) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (store_shared_128<Offsets::template offset<I>>(
         offsets.template at<I>(), uint4{__float_as_uint(v[I]), __float_as_uint(v[8 + I]),
                                         __float_as_uint(v[16 + I]), __float_as_uint(v[24 + I])}),
     ...);
  }(std::make_integer_sequence<int, 8>{});
}
template <class Offsets>
__device__ inline void load_quads(float (&v)[32], const Offsets& offsets) {
  const auto load = [&]<int I>(std::integral_constant<int, I>) {
    const uint4 quad = load_shared_128<Offsets::template offset<I>>(offsets.template at<I>());
    v[I] = __uint_as_float(quad.x), v[8 + I] = __uint_as_float(quad.y);
    v[16 + I] = __uint_as_float(quad.z), v[24 + I] = __uint_as_float(quad.w);
  };
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (load(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, 8>{});
}

// The elements of a quad differ in bits 8 and 9 of their numbers. Its other bits give its offset: it is in row
// 8 high + low at byte 16 (low ^ middle), where low is bits 0 to 2, middle bits 3 to 5, high bits 6 and 7. So
// neither eight lanes that differ in low nor eight that differ in middle share a bank. Rows have 128 bytes and begin
// `Apart` bytes after each other, a multiple of 128.
template <int Apart>
struct LowQuads {  // eight values of low, for a lane's middle and high
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
struct MiddleQuads {  // eight values of middle, for a lane's low and high
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
struct HighQuads {  // all values of bit 0 and high, for a lane's bits 1 to 5
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

/// hadamard_warp through 32 rows of 128 bytes that begin `Apart` bytes after each other, from shared address `space`
/// on.
template <int Apart>
__device__ inline void hadamard_rows(float (&v)[32], std::uint32_t space, int n) {
  const std::uint32_t lane = threadIdx.x % 32;
  const auto passes = [&](int stride, int end, int of_elements) {
    HIGGS_UNROLL for (; stride < end; stride *= 2, of_elements *= 2)
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
/// instructions, no shuffles. The results have another order: value 2 k + i of lane l is element 64 k + 2 l + i.
/// n is any power of two up to 1024: the warp transforms 1024 / n blocks in a row. Call __syncwarp() before `space`
/// is written again.
__device__ inline void hadamard_warp(float (&v)[32], float* space, int n = 1024) {
  detail::hadamard_rows<128>(v, shared_address(space), n);
}

/// The offset of element i in the values of hadamard_block, in floats: four floats stay free after each 32, so that
/// no pass has a bank conflict.
__device__ constexpr int padded_offset(int i) { return i + (i >> 5 << 2); }

namespace detail {
/// The threads of one transform: a warp or a block.
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

/// Strides 1, 2 and 4 among eight neighbours, below `run`.
__device__ inline void low_butterflies(float (&v)[8], int run) {
  if (run >= 8) return butterflies<1>(v);
  HIGGS_UNROLL for (int stride = 1; stride < 4; stride *= 2)
    if (stride < run) HIGGS_UNROLL
      for (int i = 0; i < 8; ++i)
        if ((i & stride) == 0) {
          const float a = v[i], b = v[i + stride];
          v[i] = __fadd_rn(a, b);
          v[i + stride] = __fsub_rn(a, b);
        }
}

// Values are at an address of shared memory or, for orders that do not fit there, behind a pointer.
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

/// The pass of `Bits` strides from `low` on. Eight neighbouring threads read a whole line: their quads differ in bits
/// 0 to 2 of the quad's number or, where the pass takes bits 1 to 3, in bits 0, 4 and 5.
template <int Bits, class Values>
__device__ inline void transform_pass(const Team& team, Values x, int n, int low) {
  constexpr int count = 1 << Bits;
  const auto transform = [&](int quad, const auto& offset) {
    const Values at = after(x, padded_offset(4 * quad));
    float v[4 * count];
    HIGGS_UNROLL for (int j = 0; j < count; ++j)
      load_quad(after(at, offset(j)), v + 4 * j);
    butterflies<4>(v);
    HIGGS_UNROLL for (int j = 0; j < count; ++j)
      store_quad(after(at, offset(j)), v + 4 * j);
  };
  if (low == 8) {
    _Pragma("unroll 1") for (int i = team.thread; i < (n + 255) / 256 << (6 - Bits); i += team.size) {
      const int rest = i >> 3 & ((8 >> Bits) - 1);
      const int quad = (i & 1) | rest << (1 + Bits) | (i >> 1 & 3) << 4 | i >> (6 - Bits) << 6;
      if (4 * quad < n) transform(quad, [](int j) { return padded_offset(8 * j); });
    }
  } else {
    const int log_low = 29 - __clz(low), step = padded_offset(low);  // quads
    _Pragma("unroll 1") for (int i = team.thread; i < n >> (2 + Bits); i += team.size)
        transform(i + (i >> log_low) * ((count - 1) << log_low), [&](int j) { return j * step; });
  }
  team.sync();
}

/// The pass of strides 1, 2 and 4. A barrier must precede it; it ends with one.
template <class Values>
__device__ inline void low_pass(const Team& team, Values x, int n, int run) {
  for (int i = 8 * team.thread; i < n && run > 1; i += 8 * team.size) {
    const Values at = after(x, padded_offset(i));
    float v[8];
    load_quad(at, v);
    load_quad(after(at, 4), v + 4);
    low_butterflies(v, run);
    store_quad(at, v);
    store_quad(after(at, 4), v + 4);
  }
  team.sync();
}

/// The passes from stride 8 on. A barrier must precede them; they end with one.
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

/// The unscaled transforms of order `run` = 2^a of n floats, run after run, by all threads of the block. n is a
/// multiple of 8; `x` is in shared memory, begins at a multiple of 16 bytes and has n floats and an eighth more:
/// element i is x[padded_offset(i)]. Ends with a barrier; the caller needs one between its writes and the call.
__device__ inline void hadamard_block(float* x, int n, int run) {
  const detail::Team team = detail::Team::of_block();
  detail::low_pass(team, shared_address(x), n, run);
  detail::transform_runs(team, shared_address(x), n, run);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
