// SPDX-License-Identifier: Apache-2.0
// From a router's choices to the rows of a mixture's products, and back to tokens: all on the device, all
// deterministic.
//
// A token chooses `slots` experts: `ids` (tokens, slots). A pair is one choice, number token * slots + slot. Products
// take pairs sorted by expert, and write y at the pair's number. So the parts of a token's output are neighbours, and
// are added in the order of the slots.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Pairs sorted by expert, in device memory of the caller. Pairs of one expert are in ascending order.
struct SortedPairs {
  std::int32_t* offsets = nullptr;  // (experts + 1): pairs [offsets[e], offsets[e + 1]) chose expert e
  std::int32_t* pairs = nullptr;    // (tokens * slots): the pair's number; undefined from offsets[experts] on
  std::int32_t* tokens = nullptr;   // (tokens * slots): its token, pairs[i] / slots; undefined there too
};

/// Sorts the pairs of `ids` by expert: a stable counting sort in one launch, without atomics. An id outside [0, experts)
/// chooses no expert: its pair is left out (padding tokens, experts on other devices). Throws InvalidArgument for
/// 2^31 pairs or more, or less than one slot or expert.
template <class Archs = BuiltFor>
void sort_pairs_async(DenseView<const std::int32_t> ids, int experts, const SortedPairs& out,
                      cudaStream_t stream);

/// y[t] = the sum over slots s of x[t * slots + s], in the order of the slots, plus residual[t]: from outputs of pairs,
/// x (tokens * slots, N), to outputs of tokens, y (tokens, N). Pairs whose id is outside [0, experts) add nothing, and
/// their rows of x are not read. Sums are float, and rounded once. `residual` has rows as far apart as those of y, and may
/// be y itself. Throws InvalidArgument for shapes that do not fit.
template <class X, class Y, class Archs = BuiltFor>
void add_pairs_async(DenseView<const X> x, DenseView<const std::int32_t> ids, int experts, DenseView<Y> y,
                     cudaStream_t stream, const Y* residual = nullptr);

namespace detail {

inline constexpr int sort_threads = 128;

/// One warp sorts for one expert: it counts the pairs of the experts before its own, then places its own pairs.
static __global__ void __launch_bounds__(sort_threads)
    sort_pairs_kernel(DenseView<const std::int32_t> ids, int experts, SortedPairs out) {
  constexpr unsigned all = 0xffffffffu;
  const int lane = static_cast<int>(threadIdx.x) % 32,
            expert = static_cast<int>(blockIdx.x) * (sort_threads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (expert >= experts) return;
  const int slots = static_cast<int>(ids.cols), count = static_cast<int>(ids.rows) * slots;
  const auto id_of = [&](int pair) { return pair < count ? ids.row(pair / slots)[pair % slots] : -1; };
  int before = 0;  // pairs of this lane that chose an earlier expert
  for (int from = 0; from < count; from += 32)
    before += static_cast<unsigned>(id_of(from + lane)) < static_cast<unsigned>(expert);
  HIGGS_UNROLL for (int by = 16; by > 0; by /= 2)
    before += __shfl_xor_sync(all, before, by);
  int next = before;
  for (int from = 0; from < count; from += 32) {
    const bool mine = id_of(from + lane) == expert;
    const unsigned those = __ballot_sync(all, mine);
    if (mine) {
      const int at = next + __popc(those & ((1u << lane) - 1));
      out.pairs[at] = from + lane;
      out.tokens[at] = (from + lane) / slots;
    }
    next += __popc(those);
  }
  if (lane == 0) {
    out.offsets[expert] = before;
    if (expert == experts - 1) out.offsets[experts] = next;
  }
}

/// One thread per output.
template <class X, class Y>
__global__ void add_pairs_kernel(DenseView<const X> x, DenseView<const std::int32_t> ids, int experts,
                                 DenseView<Y> y, const Y* residual) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, t = i / y.cols, n = i % y.cols;
  if (t >= y.rows) return;
  float sum = 0;
  for (std::int64_t s = 0; s < ids.cols; ++s)
    if (static_cast<unsigned>(ids.row(t)[s]) < static_cast<unsigned>(experts))
      sum = __fadd_rn(sum, to_float(x.row(t * ids.cols + s)[n]));
  if (residual != nullptr) sum = __fadd_rn(sum, to_float(residual[t * y.row_stride + n]));
  y.row(t)[n] = from_float<Y>(sum);
}

inline void expect_pairs(const char* function, const DenseView<const std::int32_t>& ids, int experts) {
  expects(ids.cols > 0 && experts > 0 && ids.rows <= std::numeric_limits<std::int32_t>::max() / ids.cols - 32,
          [&] {
            return higgs::detail::sentence(
                function, ": ids is (", ids.rows, ", ", ids.cols, ") for ", experts,
                " experts, but there must be at least one slot and expert, and at most 2^31 - 64 "
                "pairs");
          });
}

}  // namespace detail

template <class Archs>
void sort_pairs_async(DenseView<const std::int32_t> ids, int experts, const SortedPairs& out,
                      cudaStream_t stream) {
  detail::expect_pairs("higgs::gpu::sort_pairs_async", ids, experts);
  launch(detail::sort_pairs_kernel, dim3(static_cast<unsigned>(ceil_div(experts, detail::sort_threads / 32))),
         detail::sort_threads, 0, stream, ids, experts, out);
}

template <class X, class Y, class Archs>
void add_pairs_async(DenseView<const X> x, DenseView<const std::int32_t> ids, int experts, DenseView<Y> y,
                     cudaStream_t stream, const Y* residual) {
  detail::expect_pairs("higgs::gpu::add_pairs_async", ids, experts);
  expects(y.rows == ids.rows && x.rows == ids.rows * ids.cols && x.cols == y.cols, [&] {
    return higgs::detail::sentence("higgs::gpu::add_pairs_async: ids is (", ids.rows, ", ", ids.cols,
                                   "), x (", x.rows, ", ", x.cols, "), y (", y.rows, ", ", y.cols,
                                   "), but x must be (tokens * slots, N) and y (tokens, N)");
  });
  launch(detail::add_pairs_kernel<X, Y>, dim3(static_cast<unsigned>(ceil_div(y.rows * y.cols, 256))), 256, 0,
         stream, x, ids, experts, y, residual);
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
