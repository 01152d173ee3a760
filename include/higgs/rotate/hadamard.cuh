// SPDX-License-Identifier: Apache-2.0
// Rotation of rows on the device, with the bits of hadamard.hpp: the same matrices, the same order of float
// operations.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/hadamard_device.cuh>
#include <higgs/rotate/paley.cuh>
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

/// A rotation of rows: all but the rows. All pointers are to device memory.
struct Rotation {
  std::int64_t cols = 0;                 // inputs per row; zeros fill the last block
  std::int64_t block = 1;                // order of the transform
  const std::uint32_t* signs = nullptr;  // as sign_words() makes them; none: no signs
  const float* factors = nullptr;        // (cols): the factors of inputs; none: all are 1
  std::int64_t group = 1;                // results that follow each other in y without a gap
  std::int64_t padded_group = 1;         // distance of groups in y
  bool inverse = false;  // transform rows of whole blocks, then signs, then factors; writes cols values

  HIGGS_HOST_DEVICE constexpr std::int64_t padded_cols() const noexcept {
    return ceil_div(cols, block) * block;
  }
};

/// The signs of `cols` columns from `first` on for Rotation, in host memory. A word has 32 columns: bit 15 - i is
/// column 2 i, bit 31 - i is column 2 i + 1. So one shift brings both to the sign bits of a pair of 16-bit numbers.
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

/// The sign bits of columns [col, col + 8) in the order of sign_words(): pair i needs a left shift by i.
__device__ inline std::uint32_t signs_of(const Rotation& r, std::int64_t col) {
  return r.signs != nullptr && col < r.cols ? r.signs[col / 32] << (col % 32 / 2) : 0;
}
/// `value` with the sign of column i of the eight.
__device__ inline float with_sign(float value, std::uint32_t signs, int i) {
  const std::uint32_t sign = (i % 2 == 0 ? signs << (16 + i / 2) : signs << i / 2) & 0x80000000u;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^ sign);
}

/// v = eight neighbours from an aligned address, with signs.
template <class In>
__device__ inline void load_eight(const In* from, std::uint32_t signs, float* v) {
  if constexpr (sizeof(In) == 2) {
    const uint4 pairs = load_128(from);
    const std::uint32_t words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
    HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
      const float2 two = to_floats<In>(flip_bits<0x80008000u>(words[i], signs << i));
      v[2 * i] = two.x;
      v[2 * i + 1] = two.y;
    }
  } else {
    const uint4 first = load_128(from), second = load_128(from + 4);
    const std::uint32_t words[8] = {first.x,  first.y,  first.z,  first.w,
                                    second.x, second.y, second.z, second.w};
    HIGGS_UNROLL for (int i = 0; i < 8; ++i)
      v[i] = with_sign(std::bit_cast<float>(words[i]), signs, i);
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

/// v[i] *= factors[i], eight factors from an aligned address.
__device__ inline void multiply_eight(const float* factors, float* v) {
  const float4 first = *reinterpret_cast<const float4*>(factors);
  const float4 second = *reinterpret_cast<const float4*>(factors + 4);
  const float by[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
  HIGGS_UNROLL for (int i = 0; i < 8; ++i)
    v[i] = __fmul_rn(v[i], by[i]);
}
template <class Out>
__device__ inline void store_two(Out* to, float first, float second) {
  if constexpr (sizeof(Out) == 2)
    *reinterpret_cast<std::uint32_t*>(to) = round_pair<Out>(first, second);
  else
    *reinterpret_cast<float2*>(to) = float2{first, second};
}

/// Stores column c of the result at its offset in the row, rounded; with signs and factors for the inverse.
template <class Out>
__device__ inline void store_rotated(const Rotation& r, Out* row, std::int64_t c, float value) {
  if (c >= (r.inverse ? r.cols : r.padded_cols())) return;
  if (r.inverse) {
    value = with_sign(value, signs_of(r, c / 8 * 8), static_cast<int>(c % 8));
    if (r.factors != nullptr) value = __fmul_rn(value, r.factors[c]);
  }
  row[r.group == r.padded_group ? c : c / r.group * r.padded_group + c % r.group] = from_float<Out>(value);
}

/// Row i of y is row i of x, and all have one rotation. Another type with this function gives each row of y another
/// row of x, signs and factors; all lanes of a warp call it for the same row.
struct EveryRow {
  /// The row of x for row `row` of y, whose signs and factors are left in `r`.
  __device__ std::uint32_t find(std::uint32_t row, Rotation& r) const {
    static_cast<void>(r);
    return row;
  }
};

/// Rotates rows whose inputs are whole, aligned parts of 1024, for orders up to 1024 and results without gaps: one
/// warp per part.
template <class In, class Out, class Rows>
__global__ void __launch_bounds__(128) rotate_wide_kernel(Rotation r, Rows rows, DenseView<const In> x,
                                                          DenseView<Out> y, float scale, std::uint32_t runs) {
  allow_next_kernel();
  __shared__ __align__(128) float space[4][1024];
  const std::uint32_t warp = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32, row = warp / runs;
  if (row >= y.rows) return;
  const std::uint32_t start = (warp - row * runs) * 1024, first = start + 8 * lane;
  float v[32];
  const In* from = x.row(rows.find(row, r)) + first;
  std::uint32_t signs[4] = {};
  if (r.signs != nullptr) HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) signs[c] = r.signs[first / 32 + 8 * c] << lane % 4 * 4;
  HIGGS_UNROLL for (int c = 0; c < 4; ++c)
    load_eight(from + 256 * c, signs[c], v + 8 * c);
  if (r.factors != nullptr) HIGGS_UNROLL
    for (int c = 0; c < 4; ++c) multiply_eight(r.factors + first + 256 * c, v + 8 * c);
  if (r.block == 1024)
    hadamard_warp(v, space[threadIdx.x / 32]);
  else
    hadamard_warp(v, space[threadIdx.x / 32], static_cast<int>(r.block));
  HIGGS_UNROLL for (int i = 0; i < 32; ++i)
    v[i] = __fmul_rn(v[i], scale);
  Out* const to = y.row(row) + start + 2 * lane;
  HIGGS_UNROLL for (int k = 0; k < 16; ++k)
    store_two(to + 64 * k, v[2 * k], v[2 * k + 1]);
}

/// How transforms of any order are distributed over blocks.
struct BlockPlan {
  int order, base, run;
  int teams;                // transforms at a time per block: one per warp, or 1
  int space;                // floats per transform, gaps included
  bool coded;               // whether the base needs a table of signs, because combine_runs() lacks it
  bool plain;               // whether rows are whole, aligned blocks without gaps
  std::uint32_t items;      // transforms in all
  std::uint32_t row_items;  // transforms per row

  std::size_t sign_bytes() const { return coded ? quad_sign_bytes(base) : 0; }
};
inline BlockPlan block_plan(const Rotation& r, std::int64_t rows, bool in_shared, bool plain = false) {
  const higgs::detail::HadamardShape shape = higgs::detail::hadamard_shape(r.block);
  const std::int64_t row_items = ceil_div(r.cols, r.block);
  expects(rows * row_items < std::int64_t{1} << 31, "higgs::gpu::rotate_async: less than 2^31 transforms");
  auto space = static_cast<int>(ceil_div(r.block, 32) * 36);
  // Warps may combine columns of several transforms: their columns then start in different banks.
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

/// Loads the inputs of a transform that begins at column `start`, and does strides 1, 2 and 4. For plain rows.
template <class In, class Values>
__device__ inline void load_transform(const Rotation& r, int order, const Team& team, const In* row,
                                      std::uint32_t start, Values values) {
  const std::uint32_t col = start + 8 * team.thread, step = 8 * team.size;
  const In* from = row + col;
  const bool with_signs = r.signs != nullptr && !r.inverse, with_factors = r.factors != nullptr && !r.inverse;
  const std::uint32_t* signs = r.signs + col / 32;
  const float* factors = r.factors + col;
  Values to = after(values, padded_offset(8 * team.thread));
  _Pragma("unroll 1") for (std::uint32_t i = 8 * team.thread; i < order; i += step) {
    float v[8];
    load_eight(from, with_signs ? *signs << col % 32 / 2 : 0, v);
    if (with_factors) multiply_eight(factors, v);
    butterflies<1>(v);
    store_quad(to, v);
    store_quad(after(to, 4), v + 4);
    from += step, signs += step / 32, factors += step, to = after(to, padded_offset(step));
  }
}

/// Stores the results of such a transform, scaled.
template <class Out, class Values>
__device__ inline void store_transform(const Rotation& r, int order, const Team& team, Values values,
                                       float scale, Out* row, std::uint32_t start) {
  const std::uint32_t col = start + 8 * team.thread;
  const int step = 8 * team.size;
  Out* to = row + col;
  Values from = after(values, padded_offset(8 * team.thread));
  _Pragma("unroll 1") for (int i = 8 * team.thread; i < order; i += step) {
    float v[8];
    load_quad(from, v);
    load_quad(after(from, 4), v + 4);
    HIGGS_UNROLL for (int j = 0; j < 8; ++j)
      v[j] = __fmul_rn(v[j], scale);
    if (r.inverse) {
      const std::uint32_t at = col + (i - 8 * team.thread), signs = signs_of(r, at);
      HIGGS_UNROLL for (int j = 0; j < 8; ++j)
        v[j] = with_sign(v[j], signs, j);
      if (r.factors != nullptr) multiply_eight(r.factors + at, v);
    }
    store_eight(to, v);
    to += step, from = after(from, padded_offset(step));
  }
}

/// Column c of any row, with signs and factors unless r is an inverse.
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

/// Stores the results of a transform whose base needs the table of signs, scaled: Paley's matrix times its runs.
__device__ inline void store_coded(const Rotation& r, const BlockPlan& plan, const Team& team,
                                   const QuadSigns* signs, const float* values, float scale, const AnyRows& y,
                                   std::uint32_t row, std::uint32_t start) {
  const int quads = plan.base / 4, log_run = 31 - __clz(plan.run);
  _Pragma("unroll 1") for (int i = team.thread; i < quads << log_run; i += team.size) {
    const int col = i & (plan.run - 1), base_row = i >> log_run << 2;
    float sums[4];
    combine(signs, quads, values, plan.run, base_row, col, sums);
    y.with_row(row, [&](auto* to) {
      _Pragma("unroll 1") for (int j = 0; j < 4; ++j) {
        const float sum = j == 0 ? sums[0] : j == 1 ? sums[1] : j == 2 ? sums[2] : sums[3];
        store_rotated(r, to, std::int64_t{start} + ((base_row + j) << log_run) + col, __fmul_rn(sum, scale));
      }
    });
  }
}

/// Rotates rows of any order, with Paley's matrix unless it is a power of two: one warp per transform up to order
/// 1024, one block per transform above. InShared is false for orders that exceed shared memory: values are then in
/// `scratch`, and blocks take one transform after another.
template <bool InShared, bool Paley, class Rows>
__global__ void __launch_bounds__(InShared&& Paley ? 256 : 512, 1)
    rotate_block_kernel(Rotation r, Rows rows, AnyRows x, AnyRows y, float scale,
                        __grid_constant__ const HadamardBase base, BlockPlan plan, float* scratch) {
  allow_next_kernel();
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
      x.with_row(rows.find(row, r), [&](const auto* from) {
        if (plan.plain) return load_transform(r, plan.order, team, from, start, values);
        _Pragma("unroll 1") for (int i = team.thread; i < plan.order; i += team.size)
            memory[padded_offset(i)] = load_rotated(r, from, std::int64_t{start} + i);
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
            store_rotated(r, to, std::int64_t{start} + i, __fmul_rn(memory[padded_offset(i)], scale));
      });
    if (active && coded) store_coded(r, plan, team, signs, memory, scale, y, row, start);
    if constexpr (InShared) return;
    team.sync();
  }
}

/// Bytes of shared memory per block for transforms of any order.
inline std::size_t rotate_shared_bytes(const Rotation& r) {
  const BlockPlan plan = block_plan(r, 1, true);
  return static_cast<std::size_t>(plan.teams * plan.space) * sizeof(float) + plan.sign_bytes();
}

}  // namespace detail

/// Floats of scratch that rotate_async needs on a device for `rows` rows: 0 unless the order exceeds the device's
/// shared memory per block.
inline std::int64_t rotate_scratch(const Rotation& r, std::int64_t rows, const Device& device) {
  if (detail::rotate_shared_bytes(r) <= static_cast<std::size_t>(device.shared_bytes)) return 0;
  return detail::block_plan(r, rows, false).space *
         std::min<std::int64_t>(rows * ceil_div(r.cols, r.block), 2 * device.multiprocessors);
}

namespace detail {

/// rotate_async for the rows of y that `rows` finds in x, as EveryRow does.
template <class In, class Out, class Archs, class Rows>
void rotate_rows_async(const Rotation& r, const Rows& rows, DenseView<const In> x, DenseView<Out> y,
                       const Device& device, cudaStream_t stream, float* scratch) {
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
    expects(y.rows * runs < std::int64_t{1} << 31, "higgs::gpu::rotate_async: less than 2^41 inputs in all");
    return launch(rotate_wide_kernel<In, Out, Rows>, dim3(static_cast<unsigned>(ceil_div(y.rows * runs, 4))),
                  128, 0, stream, r, rows, x, y, scale, static_cast<std::uint32_t>(runs));
  }
  HadamardBase base;
  const higgs::detail::HadamardShape shape = higgs::detail::hadamard_shape(r.block);
  if (shape.base > 1) std::copy_n(shape.codes, shape.base * shape.base / 4, base.codes);
  const bool in_shared = rotate_scratch(r, y.rows, device) == 0;
  expects(in_shared || scratch != nullptr,
          "higgs::gpu::rotate_async: this order needs scratch (see rotate_scratch)");
  const BlockPlan plan = block_plan(r, y.rows, in_shared, plain);
  const std::int64_t grid = ceil_div(plan.items, plan.teams);
  const auto go = [&](auto kernel, int most_threads, std::int64_t size, std::size_t shared) {
    const auto threads = plan.teams > 1 ? 32 * plan.teams : static_cast<int>(ceil_div(r.block, 1024) * 32);
    launch(kernel, dim3(static_cast<unsigned>(size)), std::min(threads, most_threads), shared, stream, r,
           rows, AnyRows(x), AnyRows(y), scale, base, plan, scratch);
  };
  if (!in_shared)
    go(rotate_block_kernel<false, true, Rows>, 512, std::min<std::int64_t>(grid, 2 * device.multiprocessors),
       plan.sign_bytes());
  else if (plan.base == 1)
    go(rotate_block_kernel<true, false, Rows>, 512, grid, rotate_shared_bytes(r));
  else
    go(rotate_block_kernel<true, true, Rows>, 256, grid, rotate_shared_bytes(r));
}

}  // namespace detail

/// y = rows of x times factors and signs, then each block times H / sqrt(block), rounded once to Out. Before that
/// rounding the bits are those of rotate_row. The inverse equals unrotate_row, then factors.
///
/// x (M, cols), y (M, padded_cols): groups of y may be apart, and numbers between them are not written. For the
/// inverse x is (M, padded_cols), y (M, cols). x may be y where each result takes its input's place: equal addresses,
/// strides and sizes of elements, and no gaps between groups. Otherwise they share no memory. In and Out are any two
/// types: bf16 rotated to fp16 keeps three more bits for matmul_rotated_async, if no result exceeds 65504. `scratch`
/// has rotate_scratch() floats, from a multiple of 16 bytes on. Throws InvalidArgument for shapes that do not fit, for
/// memory that is not aligned or wrongly shared, for a block that is no Hadamard order, and for 2^31 columns or
/// transforms or more.
template <class In, class Out, class Archs = BuiltFor>
void rotate_async(const Rotation& r, DenseView<const In> x, DenseView<Out> y, const Device& device,
                  cudaStream_t stream, float* scratch = nullptr) {
  expects(r.cols < std::int64_t{1} << 31, "higgs::gpu::rotate_async: rows of less than 2^31 columns");
  expects(is_hadamard_order(r.block), "higgs::gpu::rotate_async: block must be a Hadamard order");
  expects(
      x.cols == (r.inverse ? r.padded_cols() : r.cols) && y.rows == x.rows,
      "higgs::gpu::rotate_async: x must be (M, cols), for the inverse (M, padded_cols), and y have M rows");
  if (x.rows == 0) return;
  constexpr const char* function = "higgs::gpu::rotate_async";
  detail::expect_aligned(function, "x", x.data, sizeof(In));
  detail::expect_aligned(function, "y", y.data, sizeof(Out));
  detail::expect_aligned(function, "scratch", scratch, 16);
  const bool in_place = static_cast<const void*>(x.data) == static_cast<const void*>(y.data) &&
                        sizeof(In) == sizeof(Out) && x.row_stride == y.row_stride &&
                        r.group == r.padded_group;
  if (!in_place) detail::expect_apart(function, "x", detail::ByteRows(x), "y", detail::ByteRows(y));
  detail::rotate_rows_async<In, Out, Archs>(r, detail::EveryRow{}, x, y, device, stream, scratch);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
