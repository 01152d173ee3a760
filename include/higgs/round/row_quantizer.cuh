// SPDX-License-Identifier: Apache-2.0
// Rotate, scale, encode and pack rows on the device: the codes and scales of row_quantizer.hpp, bit for bit.
#pragma once

#include <higgs/codes/window/viterbi.cuh>
#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/encode/nearest.cuh>
#include <higgs/encode/nearest.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/scale/group_scale.cuh>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

namespace detail {

/// out = w * half * rest * factors of the columns, half * rest = 2^-exponent; zeros in the columns of padding. The
/// grid's y counts rows.
template <class T>
__global__ void __launch_bounds__(128) load_rows_kernel(DenseView<const T> w, DenseView<float> out,
                                                        const float* factors, float half, float rest) {
  const std::int64_t col = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (col >= out.cols) return;
  const float factor = factors != nullptr && col < w.cols ? factors[col] : 1.0f;
  for (std::int64_t row = blockIdx.y; row < out.rows; row += gridDim.y)
    out.row(row)[col] = col < w.cols ? to_float(w.row(row)[col]) * half * rest * factor : 0.0f;
}

/// How groups are scaled and encoded; a parameter of encode_groups_kernel.
struct GroupEncoding {
  double step;  // step() of the codebook
  int fraction_bits;
  float limit;  // fixed_limit
  ScaleFormat format;
  int scale_search;                 // as in QuantizeOptions
  bool wide;                        // whether coordinates take more than a byte
  std::array<double, 33> ladder{};  // scale_ladder(-scale_search ... scale_search)

  /// What weights of a group are multiplied with in a turn: the RMS, then smaller scales, then larger ones.
  __device__ float factor(double rms, int turn) const {
    const int rung = turn == 0 ? scale_search : turn <= scale_search ? turn - 1 : turn;
    const double scale = rms * ladder[static_cast<std::size_t>(rung)];
    const double units = static_cast<double>(1 << fraction_bits) / (scale * step);
    return units < 3e38 ? static_cast<float>(units) : 0.0f;
  }
  /// What a coordinate leaves of a weight, with the bits of cpu::subtract_scaled().
  __device__ float left(float weight, Half scale, int coordinate) const {
    if (!wide) return fmaf(-to_float(scale), static_cast<float>(coordinate), weight);
    return static_cast<float>(static_cast<double>(weight) -
                              static_cast<double>(to_float(scale)) * coordinate);
  }
  /// A weight in fixed point.
  __device__ float fixed(float weight, float factor) const {
    return rintf(fminf(fmaxf(weight * factor, -limit), limit));
  }
};

/// Which rows are encoded, and what their codes leave; for searches of one scale.
struct TriedRows {
  const std::uint8_t* wanted = nullptr;  // (rows): whether a row is encoded; null: all are
  float* left = nullptr;  // (cols, rows): weights minus what their codes stand for; null: not asked for
};

/// Half a warp per group: scale, encode, refit, and again for each other scale of the scale search. `words` are the
/// search's, copied to shared memory if they fit. `trial` has the size of `codes`, or is null without a scale search. `tried`
/// counts where Tried.
template <class Search, bool InShared, class Index, bool Tried = false>
__global__ void __launch_bounds__(128, 4)  // without the 4 ptxas spills on sm_120
    encode_groups_kernel(DenseView<const float> x, std::int64_t group, const std::uint32_t* words,
                         int word_count, Search search, __grid_constant__ const GroupEncoding how,
                         Index* codes, Index* trial, Half* scales, double2* errors, TriedRows tried) {
  constexpr int dim = Search::dim, batch = Search::batch;
  extern __shared__ __align__(16) std::uint32_t search_space[];
  if constexpr (InShared) {
    for (int i = static_cast<int>(threadIdx.x); i < word_count; i += static_cast<int>(blockDim.x))
      search_space[i] = words[i];
    __syncthreads();
    words = search_space;
  }
  const std::int64_t groups = x.cols / group, count = x.rows * groups;
  const std::int64_t mine = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 16;
  bool active = mine < count;  // inactive threads take part in shuffles alone
  if constexpr (Tried)
    if (active && tried.wanted != nullptr) active = tried.wanted[mine / groups] != 0;
  const std::int64_t item = active ? mine : 0, inputs = active ? group : 0;
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const float* in = x.row(item / groups) + item % groups * group;
  const std::int64_t each = ceil_div(inputs, dim), first_code = item * ceil_div(group, dim);
  const double norm = sum_of_squares_half_warp(in, inputs), rms = sqrt(norm / static_cast<double>(group));

  GroupFit best;
  for (int turn = 0; turn <= 2 * how.scale_search; ++turn) {
    const float factor = how.factor(rms, turn);
    Index* const out = (turn == 0 ? codes : trial) + first_code;
    for (std::int64_t first = lane; first < each; first += 16 * batch) {
      float y[batch][dim];
      std::uint32_t code[batch] = {};
      HIGGS_UNROLL for (int b = 0; b < batch; ++b) HIGGS_UNROLL
        for (int d = 0; d < dim; ++d) {
          const std::int64_t i = (first + 16 * b) * dim + d;
          y[b][d] = i < group ? how.fixed(in[i], factor) : 0.0f;
        }
      search.find(words, y, code);
      HIGGS_UNROLL for (int b = 0; b < batch; ++b)
        if (first + 16 * b < each) out[first + 16 * b] = static_cast<Index>(code[b]);
    }
    __syncwarp();
    const GroupFit fit = fit_group_scale_half_warp(in, inputs, norm, how.format, [&](std::int64_t i) {
      return search.coordinate(words, out[i / dim], static_cast<int>(i % dim));
    });
    if (turn == 0 || fit.squared_error < best.squared_error) {
      best = fit;
      for (std::int64_t i = lane; turn != 0 && i < each; i += 16) codes[first_code + i] = out[i];
    }
    __syncwarp();
  }
  if constexpr (Tried) {
    float* const left = tried.left + item % groups * group * x.rows + item / groups;
    for (std::int64_t i = lane; tried.left != nullptr && i < inputs; i += 16)
      left[i * x.rows] =
          how.left(in[i], best.scale,
                   search.coordinate(words, codes[first_code + i / dim], static_cast<int>(i % dim)));
  }
  if (lane != 0 || !active) return;
  scales[item] = best.scale;
  if (errors != nullptr) errors[item] = double2{best.squared_error, norm};
}

/// Space in global memory for a warp that encodes groups of a chain code, in words of 32 bits: the search's names, then
/// coordinates, a byte each, then the symbols of a trial.
template <class Search>
struct ChainSpace {
  std::int64_t group = 1, symbols = 1;

  explicit ChainSpace(std::int64_t inputs) : group(inputs), symbols(ceil_div(inputs, Search::dim)) {}
  HIGGS_HOST_DEVICE std::int64_t names() const { return symbols * Search::name_words; }
  HIGGS_HOST_DEVICE std::int64_t words() const {
    return names() + ceil_div(symbols * Search::dim, 4) +
           ceil_div(symbols * std::int64_t{sizeof(typename Search::Symbol)}, 4);
  }
};

/// encode_groups_kernel for a chain code: a warp per group, and more groups than warps. `words` are the search's. `space`
/// has room for each warp of the grid.
template <class Search>
__global__ void __launch_bounds__(128, Search::blocks)
    encode_chains_kernel(DenseView<const float> x, const std::uint32_t* words, ChainSpace<Search> each,
                         __grid_constant__ const GroupEncoding how, typename Search::Symbol* codes,
                         std::uint32_t* space, Half* scales, double2* errors, TriedRows tried) {
  __shared__ __align__(16) std::uint32_t points[Search::point_words], costs[4][Search::shared_words];
  for (int i = static_cast<int>(threadIdx.x); i < Search::point_words; i += 128) points[i] = words[i];
  __syncthreads();
  const Search search(points);
  const std::int64_t groups = x.cols / each.group, count = x.rows * groups;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t warp = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32;
  std::uint32_t* const names = space + warp * each.words();
  auto* const coordinates = reinterpret_cast<std::int8_t*>(names + each.names());
  auto* const trial =
      reinterpret_cast<typename Search::Symbol*>(coordinates + ceil_div(each.symbols * Search::dim, 4) * 4);

  for (std::int64_t item = warp; item < count; item += std::int64_t{gridDim.x} * 4) {
    if (tried.wanted != nullptr && tried.wanted[item / groups] == 0) continue;
    const float* in = x.row(item / groups) + item % groups * each.group;
    typename Search::Symbol* const chosen = codes + item * each.symbols;
    const double norm = sum_of_squares_half_warp(in, each.group),
                 rms = sqrt(norm / static_cast<double>(each.group));
    GroupFit best;
    for (int turn = 0; turn <= 2 * how.scale_search; ++turn) {
      const float factor = how.factor(rms, turn);
      typename Search::Symbol* const out = turn == 0 ? chosen : trial;
      const auto fixed = [&](std::int64_t i) {
        return i < each.group ? static_cast<int>(how.fixed(in[i], factor)) : 0;
      };
      search.encode_warp(
          each.symbols, costs[threadIdx.x / 32], names,
          [&](std::int64_t t) { return Search::pair(fixed(2 * t), fixed(2 * t + 1)); },
          [&](std::int64_t t, int symbol, int first, int second) {
            out[t] = static_cast<typename Search::Symbol>(symbol);
            coordinates[2 * t] = static_cast<std::int8_t>(first);
            coordinates[2 * t + 1] = static_cast<std::int8_t>(second);
          });
      __syncwarp();
      const GroupFit fit = fit_group_scale_half_warp(in, each.group, norm, how.format,
                                                     [&](std::int64_t i) { return coordinates[i]; });
      if (turn == 0 || fit.squared_error < best.squared_error) {
        best = fit;
        for (std::int64_t t = lane; turn != 0 && t < each.symbols; t += 32) chosen[t] = trial[t];
      }
      __syncwarp();
    }
    if (tried.left != nullptr) {
      float* const left = tried.left + item % groups * each.group * x.rows + item / groups;
      for (std::int64_t i = lane; i < each.group; i += 32)
        left[i * x.rows] = how.left(in[i], best.scale, coordinates[i]);
      __syncwarp();
    }
    if (lane != 0) continue;
    scales[item] = best.scale;
    if (errors != nullptr) errors[item] = double2{best.squared_error, norm};
  }
}

/// One thread per byte of a row in canonical layout. The grid's y counts rows.
template <class Index>
__global__ void __launch_bounds__(128)
    pack_bits_kernel(const Index* codes, std::int64_t rows, std::int64_t codes_per_row, int bits,
                     std::int64_t row_bytes, std::uint8_t* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, begin = i * 8;
  if (i >= row_bytes) return;
  const std::int64_t first = begin / bits;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    std::uint32_t byte = 0;
    for (std::int64_t code = first; code < codes_per_row && code * bits < begin + 8; ++code) {
      const std::uint32_t value = codes[row * codes_per_row + code];
      const auto shift = static_cast<int>(code * bits - begin);
      byte |= shift >= 0 ? value << shift : value >> -shift;
    }
    out[row * row_bytes + i] = static_cast<std::uint8_t>(byte);
  }
}

}  // namespace detail

template <Code C>
class DeviceFeedbackQuantizer;

/// Quantizes rows on the device as RowQuantizer does on the host, bit for bit. Made once per matrix; owns the search's
/// constants, the signs and the factors of the columns on the device.
template <Code C>
class DeviceRowQuantizer {
  using Search = typename DeviceSearchOf<C>::Type;
  using Index = SymbolOf<C>;

 public:
  /// The arguments are those of RowQuantizer.
  DeviceRowQuantizer(const C& book, const CodeLayout& layout, std::optional<std::uint64_t> seed, int exponent,
                     std::span<const Half> input_scales = {}, int scale_search = 0)
      : layout_(layout),
        exponent_(exponent),
        how_{book.step(),         fraction_bits<C>, static_cast<float>(fixed_limit<C>),
             layout.scale_format, scale_search,     sizeof(typename C::Element) > 1},
        words_(std::span<const std::uint32_t>(Search::words(book))) {
    using higgs::detail::sentence;
    const std::int64_t due = layout.input_scales ? layout.cols : 0;
    expects(std::ssize(input_scales) == due, [&] {
      return sentence("higgs::gpu::DeviceRowQuantizer: input_scales holds ", input_scales.size(),
                      " values, but the layout needs ", due);
    });
    expects(scale_search >= 0 && scale_search <= 16, [&] {
      return sentence("higgs::gpu::DeviceRowQuantizer: scale_search must lie in [0, 16], but is ",
                      scale_search);
    });
    for (int rung = 0; rung <= 2 * scale_search; ++rung)
      how_.ladder[static_cast<std::size_t>(rung)] = higgs::detail::scale_ladder(rung - scale_search);
    if (seed)
      signs_ = DeviceBuffer<std::uint32_t>(
          std::span<const std::uint32_t>(sign_words(*seed, layout.padded_cols())));
    std::vector<float> factors;
    for (const Half scale : input_scales) factors.push_back(input_factor(scale));
    factors_ = DeviceBuffer<float>(std::span<const float>(factors));
  }

  /// Bytes of workspace for `rows` rows at a time: rotated floats, and their codes, twice with a scale search; for a chain
  /// code up to 128 MiB for the paths of its search, or one block's.
  std::size_t workspace_size(std::int64_t rows, const Device& device) const {
    return 4 * static_cast<std::size_t>(floats(rows) + rotate_scratch(rotation(), rows, device) +
                                        chain_words(rows)) +
           sizeof(Index) * static_cast<std::size_t>(plain_codes(rows) * (has_trial() ? 2 : 1)) + 16;
  }

  /// Writes codes (n, row_bytes) and scales (n, groups) of the rows of `w` (n, cols), which must be finite, and, if
  /// given, `errors` (n, groups): squared error and squared norm of each group. The ratio of their sums is t^2.
  template <class T, class Archs = BuiltFor>
  void quantize_rows_async(DenseView<const T> w, std::uint8_t* codes, Half* scales,
                           std::span<std::byte> workspace, const Device& device, cudaStream_t stream,
                           double2* errors = nullptr) const {
    using higgs::detail::sentence;
    expects(w.cols == layout_.cols, [&] {
      return sentence("higgs::gpu::DeviceRowQuantizer: w is ", higgs::detail::shape_text(w.rows, w.cols),
                      ", but the layout has ", layout_.cols, " columns");
    });
    higgs::detail::expect_data("higgs::gpu::DeviceRowQuantizer", "w", w);
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(workspace.data());
    expects(workspace.size() >= workspace_size(w.rows, device) && begin % 16 == 0, [&] {
      return sentence("higgs::gpu::DeviceRowQuantizer: the workspace holds ", workspace.size(),
                      " bytes and begins ", begin % 16, " after a multiple of 16, but must hold ",
                      workspace_size(w.rows, device), " (see workspace_size) from such a multiple on");
    });
    constexpr const char* function = "higgs::gpu::DeviceRowQuantizer";
    detail::expect_aligned(function, "w", w.data, sizeof(T));
    detail::expect_aligned(function, "scales", scales, sizeof(Half));
    detail::expect_aligned(function, "errors", errors, sizeof(double2));
    detail::expect_apart(function, "the workspace", detail::ByteRows(workspace.data(), std::ssize(workspace)),
                         "w", detail::ByteRows(w));
    const DenseView<float> rows(reinterpret_cast<float*>(workspace.data()), w.rows, layout_.padded_cols());
    float* scratch = rows.data + floats(w.rows);
    auto* space = reinterpret_cast<std::uint32_t*>(scratch + rotate_scratch(rotation(), w.rows, device));
    auto* plain = reinterpret_cast<Index*>(space + chain_words(w.rows));
    rotate_rows_async<T, Archs>(w, rows, scratch, device, stream);
    encode_groups_async(rows, plain, space, scales, errors, stream);
    pack_async(plain, w.rows, codes, stream);
  }

 private:
  friend DeviceFeedbackQuantizer<C>;

  static unsigned blocks(std::int64_t threads) { return static_cast<unsigned>(ceil_div(threads, 128)); }
  static unsigned some_rows(std::int64_t rows) {
    return static_cast<unsigned>(std::min<std::int64_t>(rows, 65535));
  }
  // rows = w divided by 2^exponent and by input scales, padded and rotated.
  template <class T, class Archs>
  void rotate_rows_async(DenseView<const T> w, DenseView<float> rows, float* scratch, const Device& device,
                         cudaStream_t stream) const {
    launch(detail::load_rows_kernel<T>, dim3(blocks(rows.cols), some_rows(w.rows)), 128, 0, stream, w, rows,
           factors_.data(), std::ldexp(1.0f, -(exponent_ / 2)), std::ldexp(1.0f, exponent_ / 2 - exponent_));
    rotate_async<float, float, Archs>(rotation(), DenseView<const float>(rows), rows, device, stream,
                                      scratch);
  }
  void pack_async(const Index* plain, std::int64_t rows, std::uint8_t* codes, cudaStream_t stream) const {
    const std::int64_t row_bytes = layout_.row_bytes(C::dim, code_bits<C>);
    launch(detail::pack_bits_kernel<Index>, dim3(blocks(row_bytes), some_rows(rows)), 128, 0, stream, plain,
           rows, layout_.codes_per_row(C::dim), code_bits<C>, row_bytes, codes);
  }
  template <bool Tried = false>
  void encode_groups_async(const DenseView<float>& rows, Index* plain, std::uint32_t* space, Half* scales,
                           double2* errors, cudaStream_t stream, const detail::TriedRows& tried = {}) const {
    const DenseView<const float> x(rows);
    const std::int64_t count = x.rows * layout_.groups();
    if constexpr (ChainCode<C>) {
      launch(detail::encode_chains_kernel<Search>, dim3(static_cast<unsigned>(chain_blocks(x.rows))), 128, 0,
             stream, x, words_.data(), detail::ChainSpace<Search>(layout_.group), how_, plain, space, scales,
             errors, tried);
    } else {
      constexpr bool in_shared = DeviceSearchOf<C>::in_shared;
      launch(detail::encode_groups_kernel<Search, in_shared, Index, Tried>,
             dim3(static_cast<unsigned>(ceil_div(count, 8))), 128, in_shared ? words_.size_bytes() : 0,
             stream, x, layout_.group, words_.data(), static_cast<int>(words_.size()),
             Search{DeviceSearchOf<C>::size}, how_, plain,
             has_trial() ? plain + plain_codes(x.rows) : nullptr, scales, errors, tried);
    }
  }
  // Blocks of four warps, each with a group at a time, for which a chain code has space; their space.
  std::int64_t chain_blocks(std::int64_t rows) const {
    if constexpr (ChainCode<C>) {
      const std::int64_t most =
          (std::int64_t{1} << 25) / (4 * detail::ChainSpace<Search>(layout_.group).words());
      return std::min(ceil_div(rows * layout_.groups(), 4), std::max<std::int64_t>(most, 1));
    } else {
      return 0;
    }
  }
  std::int64_t chain_words(std::int64_t rows) const {
    if constexpr (ChainCode<C>)
      return chain_blocks(rows) * 4 * detail::ChainSpace<Search>(layout_.group).words();
    else
      return 0;
  }
  // Whether codes of another scale have space of their own.
  bool has_trial() const { return Codebook<C> && how_.scale_search > 0; }
  Rotation rotation() const {
    const std::int64_t padded = layout_.padded_cols();
    return {padded, layout_.block, signs_.data(), nullptr, padded, padded};
  }
  std::int64_t floats(std::int64_t rows) const { return ceil_div(rows * layout_.padded_cols(), 4) * 4; }
  std::int64_t plain_codes(std::int64_t rows) const { return rows * layout_.codes_per_row(C::dim); }

  CodeLayout layout_;
  int exponent_;
  detail::GroupEncoding how_;
  DeviceBuffer<std::uint32_t> words_;
  DeviceBuffer<std::uint32_t> signs_;
  DeviceBuffer<float> factors_;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
