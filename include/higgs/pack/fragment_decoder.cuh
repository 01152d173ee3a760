// SPDX-License-Identifier: Apache-2.0
// How packed codes become operands of tensor cores: what a format must offer, the lookup table in shared memory
// and the orders of activations that formats may ask for.
#pragma once

#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/pack/packed_layout.cuh>

#include <cuda_runtime.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Shared memory of a kernel that decodes: 256 lines of 256 bytes. The first half of a line holds an entry of
/// the format's lookup table, in as many copies as fit, so that lanes do not share a bank. The second halves are
/// the kernel's. Addresses are those of shared memory. They are constants, above what CUDA keeps for itself: a
/// kernel that decodes has no static shared memory and asks for `end` bytes or more of dynamic; fill_table() traps
/// otherwise. `begin` must not be below Device::reserved_shared_bytes: to be compared on the host, before a launch.
struct LookupTable {
  static constexpr int begin = 1024, lines = 256, line_bytes = 256, entry_bytes = 128;
  static constexpr int end = begin + lines * line_bytes;
  /// The second half of the first line.
  static constexpr int rest = begin + entry_bytes;

  /// The offset of the line that byte `Byte` of `word` names, plus `lane_offset` (below 256); a load adds
  /// `begin`. One instruction.
  template <int Byte>
  static __device__ std::uint32_t line_of(std::uint32_t word, std::uint32_t lane_offset) {
    return select_bytes < 0x5504u | Byte << 4 > (word, lane_offset);
  }
};

namespace detail {
/// Traps unless the dynamic shared memory of the block holds the whole LookupTable. fill_table() calls it. A kernel with
/// static shared memory, which stands in front of the dynamic one, or with too little of the dynamic one would lose its
/// own data.
__device__ inline void check_table_space() {
  extern __shared__ std::byte table_space[];
  std::uint32_t bytes;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
  const std::uint32_t begin = shared_address(table_space);
  if (begin > LookupTable::begin || begin + bytes < LookupTable::end) __trap();
}
}  // namespace detail

// Activations of a warp tile, in the second halves of lines: 16 inputs of 8 columns (rows of x) take 32 bytes
// per column, four columns per line. For ColumnTiles times 8 columns, the next 8 columns follow, then the next
// 16 inputs. Swizzled: inputs 16 S ... 16 S + 15 of column c are where column c ^ S would be.
namespace detail {
inline constexpr int activation_step_bytes = 2 * LookupTable::line_bytes;  // 16 inputs of 8 columns

__device__ inline std::uint32_t activation_offset(int column, int within) {
  return static_cast<std::uint32_t>(LookupTable::rest + column / 4 * LookupTable::line_bytes +
                                    column % 4 * 32 + within);
}
}  // namespace detail

/// A lane multiplies inputs 4 t ... 4 t + 3 of 16 (t = lane % 4), where mma_m16n8k16 has 2 t, 2 t + 1, 2 t + 8,
/// 2 t + 9: 8 neighbouring bytes. decode() gives one A operand, for 16 inputs.
struct FourInputsPerLane {
  static constexpr int steps = 4;    // calls of decode() per row of tiles
  static constexpr int k_tiles = 1;  // A operands per call

  /// The first of the four neighbouring inputs of a warp tile that a lane has in A operand `k_tile` of a step.
  static __device__ int first_input(int lane, int step, int) { return 16 * step + lane % 4 * 4; }
  /// Where a lane reads activations of its column at step 0.
  template <int ColumnTiles, bool Swizzled>
  static __device__ std::uint32_t offset(int column, int lane) {
    return detail::activation_offset(column, lane % 4 * 8);
  }
  /// The B operands of a step; `x` is offset() plus that of the warp tile.
  template <int ColumnTiles, bool Swizzled, int Step>
  static __device__ void load(uint2 (&b)[1][ColumnTiles], std::uint32_t x) {
    const std::uint32_t at = Swizzled ? x ^ 32 * Step : x;
    [&]<int... C>(std::integer_sequence<int, C...>) {
      ((b[0][C] = load_shared_64<(Step * ColumnTiles + C) * detail::activation_step_bytes>(at)), ...);
    }(std::make_integer_sequence<int, ColumnTiles>{});
  }
};

/// A lane multiplies inputs 8 t ... 8 t + 7 of 32: decode() gives two A operands, the first with the lower four
/// of them (for t >= 2: the upper four), the second with the others. The B operands are the halves of 16 bytes.
struct EightInputsPerLane {
  static constexpr int steps = 2;
  static constexpr int k_tiles = 2;

  static __device__ int first_input(int lane, int step, int k_tile) {
    return 32 * step + lane % 4 * 8 + (k_tile ^ lane % 4 / 2) * 4;
  }
  template <int ColumnTiles, bool Swizzled>
  static __device__ std::uint32_t offset(int column, int lane) {
    const int t = lane % 4;
    if (Swizzled) column ^= t / 2;
    return detail::activation_offset(column,
                                     t % 2 * 16 + t / 2 * (8 + detail::activation_step_bytes * ColumnTiles));
  }
  template <int ColumnTiles, bool Swizzled, int Step>
  static __device__ void load(uint2 (&b)[2][ColumnTiles], std::uint32_t x) {
    const std::uint32_t at = Swizzled ? x ^ 64 * Step : x;
    [&]<int... C>(std::integer_sequence<int, C...>) {
      ((b[0][C] = load_shared_64<(2 * Step * ColumnTiles + C) * detail::activation_step_bytes>(at)), ...);
      ((b[1][C] = load_shared_64<(2 * Step * ColumnTiles + C) * detail::activation_step_bytes>(at ^ 8)), ...);
    }(std::make_integer_sequence<int, ColumnTiles>{});
  }
};

/// A lane multiplies inputs 16 t ... 16 t + 15 of 64: a run of its own. The A operand of step S has inputs 4 (S ^ t)
/// ... + 3 of these, so that the lanes of a column read different banks.
struct SixteenInputsPerLane {
  static constexpr int steps = 4;
  static constexpr int k_tiles = 1;

  static __device__ int first_input(int lane, int step, int) { return lane % 4 * 16 + (step ^ lane % 4) * 4; }
  template <int ColumnTiles, bool Swizzled>
  static __device__ std::uint32_t offset(int column, int lane) {
    const int t = lane % 4;
    if (Swizzled) column ^= t;
    return detail::activation_offset(column, t * (8 + detail::activation_step_bytes * ColumnTiles));
  }
  template <int ColumnTiles, bool Swizzled, int Step>
  static __device__ void load(uint2 (&b)[1][ColumnTiles], std::uint32_t x) {
    const std::uint32_t at = x ^ 8 * Step;
    [&]<int... C>(std::integer_sequence<int, C...>) {
      ((b[0][C] = load_shared_64<C * detail::activation_step_bytes>(at)), ...);
    }(std::make_integer_sequence<int, ColumnTiles>{});
  }
};

/// A format that keeps more of a warp tile than loads: a tail behind them, see FragmentDecoder.
template <class F>
concept HasTail = requires { typename F::Tail; };

namespace detail {
struct NoTail {};
template <class F>
struct TailFacts {
  using Tail = NoTail;
  using Ready = uint4[F::loads];
  static constexpr int units = 0;
};
template <HasTail F>
struct TailFacts<F> {
  using Tail = typename F::Tail;
  using Ready = typename F::Ready;
  static constexpr int units = F::tail_units;
};
}  // namespace detail

/// What a lane keeps of the tail of a warp tile; nothing for most formats.
template <class F>
using TailOf = typename detail::TailFacts<F>::Tail;
/// What decode() reads.
template <class F>
using ReadyOf = typename detail::TailFacts<F>::Ready;
/// What table_offset() gives.
template <class F>
using LaneOf = decltype(F::table_offset(0));
/// Units of 128 bits in a warp tile.
template <class F>
inline constexpr int tile_units = F::loads * 32 + detail::TailFacts<F>::units;

/// The tail of the warp tile whose load 0 the lane finds at `from`; load(pointer) reads a uint2.
template <class F, class Load>
__device__ inline TailOf<F> load_tail(const uint4* from, const LaneOf<F>& lane, const Load& load) {
  if constexpr (HasTail<F>)
    return F::load_tail(from, lane, load);
  else
    return {};
}
/// What decode() of this warp tile reads: the loads, or what prepare() makes of them.
template <class F>
__device__ inline decltype(auto) prepared(const uint4 (&loads)[F::loads], const TailOf<F>& tail,
                                          const LaneOf<F>& lane) {
  if constexpr (HasTail<F>)
    return F::prepare(loads, tail, lane);
  else
    return (loads);
}

/// A format: all that kernels must know of how codes are packed. All functions but lookup_table() run on the
/// device; `lane` is that of the warp.
///
/// - `format`, `loads`: see PackedLayout. `table_size`: entries of the lookup table in global memory.
/// - `Activations`: the order in which the format's B operands are read.
/// - repack(layout, codes, row, k, lane, loads): what a lane holds of the warp tile that begins at row `row` and
///   padded input `k`, from codes in canonical layout (see symbol_at()).
/// - fill_table<T>(table): all threads of a block write the lines of LookupTable from the table in global
///   memory, as numbers of type T, Half or BFloat16; the caller needs a barrier before the first decode().
/// - table_offset(lane): where a lane reads in a line, a number; or a type with more facts of the lane.
/// - decode<T, Row, Step>(a, loads, table_offset): the A operands (a[k][0 ... 3]) of mma_m16n8k16 for rows 16
///   Row ... 16 Row + 15 of the warp tile: coordinates as T, exactly, in the order of Activations.
///
/// Where weights depend on what other lanes hold, a format has a tail of `tail_units` times 128 bits behind the loads of
/// each warp tile, and these functions:
///
/// - `Tail`: what a lane keeps of it. repack() has a last argument for it; store_tail(from, lane, tail) writes it and
///   load_tail(from, table_offset, load) reads it, where `from` is the lane's place in load 0 of the warp tile.
/// - `Ready`: what decode() reads instead of the loads. prepare(loads, tail, table_offset) makes it
///   once a warp tile; all lanes of a warp call it.
///
/// A host function lookup_table(code) gives `table_size` values; see codes/formats.cuh.
template <class F>
concept FragmentDecoder =
    requires(const PackedLayout& layout, const std::uint8_t* codes, std::int64_t index, int lane,
             uint4 (&loads)[F::loads], const std::int16_t* table, LaneOf<F> offset, const ReadyOf<F>& ready,
             TailOf<F>& tail, uint4* packed, std::uint32_t (&a)[F::Activations::k_tiles][4]) {
      requires std::same_as<std::remove_cv_t<decltype(F::format)>, PackedFormat>;
      requires F::loads >= 1 && F::table_size >= 0;
      requires(!HasTail<F> && requires { F::repack(layout, codes, index, index, lane, loads); }) || requires {
        F::repack(layout, codes, index, index, lane, loads, tail);
        F::store_tail(packed, lane, tail);
        F::prepare(loads, tail, offset);
        requires F::tail_units >= 1;
      };
      F::template fill_table<Half>(table);
      F::template fill_table<BFloat16>(table);
      F::template decode<Half, 0, 0>(a, ready, offset);
      F::template decode<BFloat16, 3, F::Activations::steps - 1>(a, ready, offset);
    };

/// A format whose lookup table may have entries of four bytes, so that one lookup of 32 bits brings four weights as
/// int8. In a line of LookupTable each lane has a copy of its own, 4 bytes each. Functions beside those of
/// FragmentDecoder:
///
/// - fill_int8_table(table): as fill_table(), with the four coordinates of a byte, all of int8, as bytes, the first lowest.
/// - decode_int8<Row, Half>(a, loads, 4 * lane): the A operand of mma_m16n8k32 for rows 16 Row ... 16 Row + 15 and inputs
///   32 Half ... 32 Half + 31 of the warp tile.
template <class F>
concept Int8Decoder = FragmentDecoder<F> && requires(const std::int16_t* table, std::uint32_t (&a)[4],
                                                     const ReadyOf<F>& ready, std::uint32_t offset) {
  F::fill_int8_table(table);
  F::template decode_int8<0, 0>(a, ready, offset);
  F::template decode_int8<3, 1>(a, ready, offset);
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
