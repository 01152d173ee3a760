// SPDX-License-Identifier: Apache-2.0
// Viterbi's algorithm for window codes on the device, one warp a group: the symbols of search_window_plainly().
//
// A lane has 1/32 of the points in registers, for the whole group. It measures them for the four signs, adds the costs of
// the states that its points lead from, and so finds the costs of 8 states (16 for K >= 8). Where a code has fewer than 256
// states several lanes share theirs. Costs go from step to step through shared memory.
#pragma once

#include <higgs/codes/window/viterbi.hpp>
#include <higgs/codes/window/window.hpp>
#include <higgs/encode/nearest.cuh>
#include <higgs/encode/nearest.hpp>
#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// The search for the symbols of a group of WindowCode<K> by one warp. Terms as in codes/window/viterbi.hpp. Where the
/// cost of a state is in arrays is its *slot*:
///
///     slot | older bits, as WindowTrellis::place() has them | newest kept sign | other kept signs |
template <int K>
class WindowSearch {
  using Code = WindowCode<K>;
  using Trellis = cpu::WindowTrellis<K>;
  static constexpr int older = Code::older_bits, seen = Trellis::seen_signs, kept = Trellis::kept_signs;
  static constexpr int states = Trellis::states, carried = Trellis::carried_bits, rest = Trellis::rest;
  static constexpr int gone = Trellis::gone, edges = Trellis::edges;
  static constexpr int free_bits = K - carried;
  // States of a lane, lanes with different states, and lanes that share theirs, `owners` lanes apart.
  static constexpr int per_lane = older == 0 ? 16 : 8, owners = states / per_lane, sharers = 32 / owners;
  // The states of a lane are (bits, newest kept sign, targets).
  static constexpr int targets = 1 << (kept - 1);
  static constexpr int sign_cells = per_lane >= 2 * targets ? 2 : 1,
                       bit_cells = per_lane / sign_cells / targets;
  // The points of a lane are (cell, choices, points of a choice). More lanes have the other points of a choice.
  static constexpr int lane_points = Code::size / 32, cells = sign_cells * bit_cells;
  static constexpr int points_each = std::min(1 << free_bits, lane_points);
  static constexpr int choices_each = lane_points / cells / points_each;
  static constexpr int lanes_of_choice = (1 << free_bits) / points_each;
  // The name of an edge: the oldest sign, then the other bits that tell it from the edges to the same state.
  static constexpr int name_bits = std::bit_width(static_cast<unsigned>(edges)) - 1;
  static constexpr int name_mask = edges - 1;
  // Words of costs in shared memory: chunks of 4, even ones first, and 4 unused words after 32, so that neither the
  // reads nor the writes of a warp conflict.
  static constexpr int half = states / 2 + states / 64 * 4;

 public:
  static constexpr int dim = 2;                   ///< weights a symbol
  static constexpr int point_words = Code::size;  ///< size of words()
  using Symbol = typename Code::Symbol;
  using State = typename Code::State;  ///< what the symbols before leave to the next ones
  /// Blocks of four warps for which a multiprocessor has registers: 128 a thread, or 255 with more than 8 points.
  static constexpr int blocks = lane_points <= 8 ? 4 : 2;
  /// Words of shared memory that a warp needs.
  static constexpr int shared_words = 4 * half;
  /// Words that the names of a group take for each step.
  static constexpr int name_words = states / 8;

  /// (size of the table): the points, x in the low 16 bits and y in the high ones.
  static std::vector<std::uint32_t> words(const Code& code) {
    std::vector<std::uint32_t> out;
    for (const auto& point : code.points()) out.push_back(pair(point[0], point[1]));
    return out;
  }
  /// Two numbers of 16 bits in a word.
  static HIGGS_HOST_DEVICE constexpr std::uint32_t pair(int x, int y) {
    return (static_cast<std::uint32_t>(x) & 0xffffu) | static_cast<std::uint32_t>(y) << 16;
  }
  /// The low half of pair().
  static HIGGS_HOST_DEVICE constexpr int low_of(std::uint32_t pair) {
    return static_cast<std::int16_t>(pair & 0xffffu);
  }
  /// Its high half.
  static HIGGS_HOST_DEVICE constexpr int high_of(std::uint32_t pair) {
    return static_cast<std::int16_t>(pair >> 16);
  }

  /// The points of this lane. `points`: words().
  __device__ explicit WindowSearch(const std::uint32_t* points) : points_(points) {
    const int lane = static_cast<int>(threadIdx.x) % 32, owner = lane % owners, sharer = lane / owners;
    const int first_choice = sharer / lanes_of_choice * choices_each;
    const int first_point = sharer % lanes_of_choice * points_each;
    HIGGS_UNROLL for (int cell = 0; cell < cells; ++cell) {
      const Fields at(owner * per_lane + cell * targets);
      if (cell == 0)
        row_ = address(spread(at.rest_bits << gone | low_bits(first_choice, at.newest)) << (kept - 2));
      if (cell % sign_cells == 0)
        names_[cell / sign_cells] = name_of_bits(at.carried_bits << rest | at.rest_bits);
      HIGGS_UNROLL for (int q = 0; q < choices_each; ++q) {
        const int bits = at.rest_bits << gone | low_bits(first_choice + q, at.newest);
        const unsigned negated = negated_by(seen_signs(bits));
        HIGGS_UNROLL for (int f = 0; f < points_each; ++f) {
          const std::uint32_t point = points[window(bits, at.carried_bits << free_bits | (first_point + f))];
          const int x = low_of(point), y = high_of(point), i = (cell * choices_each + q) * points_each + f;
          x_[i] = ((negated & 1u) != 0 ? -x : x) * edges;
          y_[i] = ((negated & 2u) != 0 ? -y : y) * edges;
          norm_[i] = ((x * x + y * y) << (Code::fraction_bits - 1)) * edges;
        }
      }
    }
  }

  /// Encodes a group of `symbols` >= 1 symbols. fixed(t) gives the weights of symbol t in fixed point, a pair();
  /// emit(t, symbol, x, y) takes a symbol and its coordinates; any lane calls them, emit() once for each t. `costs`:
  /// shared_words words of this warp, from a multiple of 16 bytes on. `names`: (symbols, name_words) in any memory.
  /// `before`: the state behind the symbols that the group has already. All lanes of the warp call it.
  template <class Fixed, class Emit>
  __device__ void encode_warp(std::int64_t symbols, std::uint32_t* costs, std::uint32_t* names, Fixed&& fixed,
                              Emit&& emit, const State& before = {}) const {
    const int start = slot_of(static_cast<int>(before.signs) >> seen, static_cast<int>(before.window) >> K);
    const int end = find_costs(start, symbols, costs, names, fixed);
    __syncwarp();
    trace_back(symbols, end, names, fixed, emit);
  }

  /// The state behind `symbol`.
  static __device__ State next(const State& state, int symbol) {
    const unsigned window = Code::next_window(state.window, static_cast<unsigned>(symbol));
    return {window, (state.signs << 1 | window >> (Code::window_bits - 1)) & ((1u << Code::memory) - 1u)};
  }

 private:
  // What a slot says of its state. The bit that a symbol carries is the newest sign bit where there are no older bits.
  struct Fields {
    __device__ explicit Fields(int slot)
        : signs(slot & (targets - 1)),
          newest(slot >> (kept - 1) & 1),
          carried_bits(older == 0 ? newest : slot >> kept & ((1 << carried) - 1)),
          rest_bits(older == 0 ? 0 : slot >> kept >> carried) {}
    int signs, newest;  // kept signs but the newest, and the newest
    int carried_bits, rest_bits;
  };
  static __device__ constexpr int spread(int bits) {
    return (bits & ((1 << rest) - 1)) << (older == 0 ? 0 : carried) | bits >> rest;
  }
  static __device__ constexpr int slot_of(int signs, int bits) {
    return spread(bits) << kept | (signs & 1) << (kept - 1) | signs >> 1;
  }
  // The word of a chunk of 4 slots: a sum over the bits of `chunk`.
  static __device__ constexpr int address(int chunk) {
    return (chunk & 1) * half + (chunk >> 1) * 4 + (chunk >> 4) * 4;
  }
  // The older bits that leave the window, from the number of a choice and the bit that becomes a kept sign.
  static __device__ constexpr int low_bits(int choice, int newest) {
    if constexpr (older == 0)
      return 0;
    else
      return choice >> Trellis::leaving << (Trellis::leaving + 1) | newest << Trellis::leaving |
             (choice & ((1 << Trellis::leaving) - 1));
  }
  // The inverse: the number of a choice, from the older bits of a state.
  static __device__ constexpr int name_of_bits(int bits) {
    const int low = bits & ((1 << gone) - 1);
    return low >> (Trellis::leaving + 1) << Trellis::leaving | (low & ((1 << Trellis::leaving) - 1));
  }
  static __device__ constexpr unsigned seen_signs(int bits) {
    unsigned signs = 0;
    HIGGS_UNROLL for (int d = 0; d < seen; ++d)
      signs |= (static_cast<unsigned>(bits) >> (older - 1 - d * K) & 1u) << d;
    return signs;
  }
  // Code::negated() for numbers that are known at run time.
  static __device__ unsigned negated_by(unsigned signs) {
    return (static_cast<unsigned>(__popc(signs & Code::x_taps)) & 1u) |
           (static_cast<unsigned>(__popc(signs & Code::y_taps)) & 1u) << 1;
  }
  static __device__ constexpr int window(int bits, int symbol) { return bits | symbol << older; }
  static __device__ int least_of_lanes(int value, int first, int end) {
    HIGGS_UNROLL for (int by = first; by < end; by *= 2)
      value = min(value, __shfl_xor_sync(0xffffffffu, value, by * owners));
    return value;
  }

  // The least distance of the points of a lane's choice, in units of `edges`, for each of the four signs.
  __device__ void measure(int first, int x, int y, int (&least)[4]) const {
    HIGGS_UNROLL for (int i = first; i < first + points_each; ++i) {
      const int plus = norm_[i] - x_[i] * x, minus = norm_[i] + x_[i] * x;
      const int distances[4] = {plus - y_[i] * y, minus - y_[i] * y, plus + y_[i] * y, minus + y_[i] * y};
      HIGGS_UNROLL for (int k = 0; k < 4; ++k)
        least[k] = i == first ? distances[k] : min(least[k], distances[k]);
    }
    HIGGS_UNROLL for (int k = 0; k < 4; ++k)
      least[k] = least_of_lanes(least[k], 1, lanes_of_choice);
  }

  // One step: the costs of the states of this lane behind weights x and y, from `before`; the name of the best edge is in
  // the low bits.
  __device__ void step(const std::uint32_t* before, int x, int y, int (&cost)[per_lane]) const {
    HIGGS_UNROLL for (int newest = 0; newest < sign_cells; ++newest) HIGGS_UNROLL
      for (int q = 0; q < choices_each; ++q) {
        alignas(16) int row[2 * targets];  // costs of the states with these older bits, in the order of slots
        HIGGS_UNROLL for (int chunk = 0; chunk < targets / 2; ++chunk) {
          const int at = address(spread(low_bits(q, newest)) << (kept - 2) | chunk);
          *reinterpret_cast<int4*>(row + 4 * chunk) = *reinterpret_cast<const int4*>(before + row_ + at);
        }
        HIGGS_UNROLL for (int b = 0; b < bit_cells; ++b) {
          const int cell = b * sign_cells + newest;
          int distance[4];
          measure((cell * choices_each + q) * points_each, x, y, distance);
          HIGGS_UNROLL for (int s = 0; s < 2 * targets; ++s) {
            const int to = cell * targets + (s & (targets - 1));
            const int sum =
                row[(s & 1) << (kept - 1) | s >> 1] + distance[negated_by(static_cast<unsigned>(s) << seen)];
            cost[to] = q == 0 && s < targets ? sum : min(cost[to], sum);
          }
        }
      }
    HIGGS_UNROLL for (int i = 0; i < per_lane; ++i)
      cost[i] = least_of_lanes(cost[i], lanes_of_choice, sharers);
  }

  // Costs relative to that of state 0, with the name of each state among those that lead to a next one.
  __device__ void put_costs(const int (&cost)[per_lane], std::uint32_t* to) const {
    const int base = __shfl_sync(0xffffffffu, cost[0], 0) & ~name_mask;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane >= owners) return;
    std::uint32_t* const mine = to + address(lane * (per_lane / 4));
    HIGGS_UNROLL for (int chunk = 0; chunk < per_lane / 4; ++chunk) {
      alignas(16) int out[4];
      HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
        const int state = 4 * chunk + i, oldest = state % targets / (targets / 2);
        const int name = names_[state / targets / sign_cells] | oldest << (name_bits - 1);
        out[i] = ((cost[state] - base) & ~name_mask) | name;
      }
      *reinterpret_cast<int4*>(mine + address(chunk)) = *reinterpret_cast<const int4*>(out);
    }
  }

  // The names of the best edges to the states of this lane, 4 bits each.
  __device__ void put_names(const int (&cost)[per_lane], std::uint32_t* to) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane >= owners) return;
    HIGGS_UNROLL for (int word = 0; word < per_lane / 8; ++word) {
      std::uint32_t out = 0;
      HIGGS_UNROLL for (int i = 0; i < 8; ++i)
        out |= (static_cast<std::uint32_t>(cost[8 * word + i]) & name_mask) << 4 * i;
      to[lane * (per_lane / 8) + word] = out;
    }
  }

  // All steps from the slot `start`; returns the slot of the best end.
  template <class Fixed>
  __device__ int find_costs(int start, std::int64_t symbols, std::uint32_t* costs, std::uint32_t* names,
                            Fixed&& fixed) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int cost[per_lane];
    // A state that no path has reached costs more than any that one has.
    HIGGS_UNROLL for (int i = 0; i < per_lane; ++i)
      cost[i] = lane * per_lane + i == start ? 0 : 1'000'000'000;
    __syncwarp();  // the group before is done with `costs` and `names`
    put_costs(cost, costs);
    std::uint32_t weights = 0;
    for (std::int64_t t = 0; t < symbols; ++t) {
      const auto number = static_cast<int>(t % 32);
      if (number == 0) weights = t + lane < symbols ? fixed(t + lane) : 0;
      const std::uint32_t now = __shfl_sync(0xffffffffu, weights, number);
      __syncwarp();
      step(costs + t % 2 * (2 * half), low_of(now), high_of(now), cost);
      put_costs(cost, costs + (t + 1) % 2 * (2 * half));
      put_names(cost, names + t * name_words);
    }
    return best_end(cost);
  }

  // The end of least cost, of several the one whose number (WindowTrellis::number) is lowest.
  __device__ int best_end(const int (&cost)[per_lane]) const {
    constexpr int number_bits = older + Code::memory;
    const int owner = static_cast<int>(threadIdx.x) % owners;
    std::int64_t best = std::numeric_limits<std::int64_t>::max();
    HIGGS_UNROLL for (int i = 0; i < per_lane; ++i) {
      const Fields at(owner * per_lane + i);
      const int bits = older == 0 ? 0 : at.carried_bits << rest | at.rest_bits;
      const int signs = (at.signs << 1 | at.newest) << seen | static_cast<int>(seen_signs(bits));
      best = min(best, static_cast<std::int64_t>(cost[i] & ~name_mask) * (1 << number_bits) +
                           (signs << older | bits));
    }
    HIGGS_UNROLL for (int by = owners / 2; by > 0; by /= 2)
      best = min(best, __shfl_xor_sync(0xffffffffu, best, by));
    const auto number = static_cast<int>(best & ((1 << number_bits) - 1));
    return slot_of(number >> older >> seen, number & ((1 << older) - 1));
  }

  // From the end to the begin of the best path. Lane l finishes symbols l, 32 + l, ...
  template <class Fixed, class Emit>
  __device__ void trace_back(std::int64_t symbols, int slot, const std::uint32_t* names, Fixed&& fixed,
                             Emit&& emit) const {
    constexpr int batch = 16;  // rows of names that are under way at a time
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (std::int64_t first = (symbols - 1) / 32 * 32; first >= 0; first -= 32) {
      int signs = 0, bits = 0,
          carried_bits = 0;  // of symbol first + lane: the state before it, and what it carries
      for (int begin = 32 - batch; begin >= 0; begin -= batch) {
        std::uint32_t rows[batch];
        HIGGS_UNROLL for (int i = 0; i < batch; ++i) {
          const std::int64_t t = first + begin + i;
          rows[i] = t < symbols && lane < name_words ? names[t * name_words + lane] : 0;
        }
        HIGGS_UNROLL for (int i = batch - 1; i >= 0; --i) {
          if (first + begin + i >= symbols) continue;
          const Fields at(slot);
          const std::uint32_t word = __shfl_sync(0xffffffffu, rows[i], slot / 8);
          const int name = static_cast<int>(word >> slot % 8 * 4) & name_mask;
          const int old_signs = name >> (name_bits - 1) << (kept - 1) | at.signs;
          const int old_bits = at.rest_bits << gone | low_bits(name & (name_mask >> 1), at.newest);
          if (lane == begin + i) signs = old_signs, bits = old_bits, carried_bits = at.carried_bits;
          slot = slot_of(old_signs, old_bits);
        }
      }
      if (first + lane >= symbols) continue;
      const unsigned negated = negated_by(static_cast<unsigned>(signs) << seen | seen_signs(bits));
      const int symbol =
          carried_bits << free_bits | find_free_bits(bits, carried_bits, negated, fixed(first + lane));
      const std::uint32_t point = points_[window(bits, symbol)];
      const int x = low_of(point), y = high_of(point);
      emit(first + lane, symbol, (negated & 1u) != 0 ? -x : x, (negated & 2u) != 0 ? -y : y);
    }
  }

  // Of the free bits of a symbol those of the nearest point, the lowest of several.
  __device__ int find_free_bits(int bits, int carried_bits, unsigned negated, std::uint32_t weights) const {
    if constexpr (free_bits == 0) return 0;
    const int sx = (negated & 1u) != 0 ? -low_of(weights) : low_of(weights);
    const int sy = (negated & 2u) != 0 ? -high_of(weights) : high_of(weights);
    int best = 0, least = std::numeric_limits<int>::max();
    for (int f = 0; f < 1 << free_bits; ++f) {
      const std::uint32_t point = points_[window(bits, carried_bits << free_bits | f)];
      const int x = low_of(point), y = high_of(point);
      const int distance = ((x * x + y * y) << (Code::fraction_bits - 1)) - x * sx - y * sy;
      if (distance < least) least = distance, best = f;
    }
    return best;
  }

  const std::uint32_t* points_;
  int x_[lane_points], y_[lane_points],
      norm_[lane_points];  // in units of `edges`, negated by the signs in the window
  int row_;                // word of the first costs that the lane reads
  int names_[bit_cells];   // names of the lane's states, without their oldest sign
};

template <int K>
struct DeviceSearchOf<WindowCode<K>> {
  using Type = WindowSearch<K>;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
