// SPDX-License-Identifier: Apache-2.0
// Rounds rows with feedback on the device: the codes, scales and losses of feedback_quantizer.hpp, bit for bit.
//
// A warp has a row. A launch rounds one group of all rows; in front of it a product of all errors so far with the factors
// gives what they leave to the group. Inside a group the warp goes from segment to segment: the search for symbols, then
// what the segment's errors leave to the rest of the group. Sums in double that the host takes in the order of inputs are
// taken in that order, by shuffles.
#pragma once

#include <higgs/codes/window/viterbi.cuh>
#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/encode/nearest.cuh>
#include <higgs/gpu/error.cuh>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/round/feedback.cuh>
#include <higgs/round/feedback_quantizer.hpp>
#include <higgs/round/outer_product.cuh>
#include <higgs/round/row_quantizer.cuh>
#include <higgs/scale/group_scale.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <utility>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// What rounding with feedback leaves of one row, in units of 4^exponent.
struct FeedbackRowError {
  double squared_error = 0;          ///< of the row as it is encoded
  double squared_norm = 0;           ///< of the row as it is encoded
  double loss = 0;                   ///< e H' e^T, H' being the damped second moment
  double expected_nearest_loss = 0;  ///< the same as rounding without feedback is expected to leave it
  double nearest_rows = 0;           ///< 1 if the row was rounded without feedback, which left less
};

namespace detail {

/// sum + x of lane 0 + ... + x of lane count - 1, one after the other, in all lanes.
__device__ inline double add_in_order(double sum, double x, int count) {
  for (int lane = 0; lane < count; ++lane) sum += __shfl_sync(0xffffffffu, x, lane);
  return sum;
}

/// What differs between the searches of codebooks and of chain codes: the latter have a state between segments, and space in
/// shared memory for the steps over `Inputs` inputs.
template <class Search>
struct ChainSearch {
  static constexpr bool value = false;
  static constexpr int blocks = 4;
  struct State {};
  template <int Inputs>
  struct Shared {};
  static __device__ Search make(const std::uint32_t*, int size) { return Search{size}; }
};
template <int K>
struct ChainSearch<WindowSearch<K>> {
  using Search = WindowSearch<K>;
  static constexpr bool value = true;
  static constexpr int blocks = Search::blocks;
  using State = typename Search::State;
  template <int Inputs>
  struct Shared {
    alignas(16) std::uint32_t costs[Search::shared_words];
    std::uint32_t names[Inputs / Search::dim * Search::name_words];
    int symbols[Inputs / Search::dim];
  };
  static __device__ Search make(const std::uint32_t* words, int) { return Search(words); }
};

/// One group of all rows, whose input 0 is input `begin` of a row and input `first` of a part.
struct FeedbackGroup {
  DenseView<const float> w;  // (rows, padded_cols): rotated weights
  DenseView<const float> u;  // factors of the part
  const float* d;            // (group)
  std::int64_t begin, first, group;
  float *carried, *moved;   // (rows, group): errors and coordinates of inputs so far, times the factors
  float* points;            // (rows, group): coordinates
  float* errors;            // (padded_cols, rows)
  Half* scales;             // of row 0
  std::int64_t scale_step;  // scales of a row
  std::int64_t first_code, row_codes;  // symbols of a row before the group, and all
  double* losses;                      // (rows)
};

/// The scale that leaves the least loss of a group whose points are chosen, and the errors under it.
__device__ inline void fit_feedback_scale(const FeedbackGroup& g, std::int64_t row, double step,
                                          ScaleFormat format) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* const carried = g.carried + row * g.group;
  const float* const moved = g.moved + row * g.group;
  double product = 0, norm = 0, loss = 0;
  for (std::int64_t first = 0; first < g.group; first += 32) {
    const std::int64_t i = first + lane;
    double with_carried = 0, with_moved = 0;
    if (i < g.group) {
      const auto m = static_cast<double>(moved[i]);
      carried[i] = static_cast<float>(static_cast<double>(carried[i]) + step * m);
      const auto weighted = static_cast<double>(__fmul_rn(g.d[i], moved[i]));
      with_carried = weighted * static_cast<double>(carried[i]);
      with_moved = weighted * m;
    }
    const auto count = static_cast<int>(min(g.group - first, std::int64_t{32}));
    product = add_in_order(product, with_carried, count);
    norm = add_in_order(norm, with_moved, count);
  }
  const Half fitted = higgs::detail::fit_of_sums(product, norm, 0, format).scale;
  const auto scale = static_cast<double>(to_float(fitted));
  const float* const w = g.w.row(row) + g.begin;
  for (std::int64_t first = 0; first < g.group; first += 32) {
    const std::int64_t i = first + lane;
    double term = 0;
    if (i < g.group) {
      const auto left =
          static_cast<float>(static_cast<double>(carried[i]) - scale * static_cast<double>(moved[i]));
      term = static_cast<double>(__fmul_rn(g.d[i], left)) * static_cast<double>(left);
      g.errors[(g.begin + i) * g.w.rows + row] = static_cast<float>(
          static_cast<double>(w[i]) - scale * static_cast<double>(g.points[row * g.group + i]));
    }
    loss = add_in_order(loss, term, static_cast<int>(min(g.group - first, std::int64_t{32})));
  }
  if (lane != 0) return;
  g.scales[row * g.scale_step] = fitted;
  g.losses[row] += loss;
}

/// Rounds a group, a warp a row. `words` and `size` are the search's; the words of a codebook are copied to shared memory if
/// they fit. A chain code looks `Ahead` inputs behind its segments.
template <class Search, bool InShared, class Index, int Segment, int Ahead>
__global__ void __launch_bounds__(128, ChainSearch<Search>::blocks)
    round_group_kernel(__grid_constant__ const FeedbackGroup g, __grid_constant__ const GroupEncoding how,
                       const std::uint32_t* words, int word_count, int size, Index* codes) {
  constexpr int dim = Search::dim;
  constexpr bool chain = ChainSearch<Search>::value;
  using Space = typename ChainSearch<Search>::template Shared<Segment + Ahead>;
  extern __shared__ __align__(16) std::uint32_t round_space[];
  __shared__ Space spaces[4];
  __shared__ float segment_points[4][Segment], segment_errors[4][Segment];
  if constexpr (InShared) {
    for (int i = static_cast<int>(threadIdx.x); i < word_count; i += static_cast<int>(blockDim.x))
      round_space[i] = words[i];
    __syncthreads();
    words = round_space;
  }
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const std::int64_t row = std::int64_t{blockIdx.x} * 4 + warp;
  if (row >= g.w.rows) return;
  const Search search = ChainSearch<Search>::make(words, size);
  [[maybe_unused]] typename ChainSearch<Search>::State state{};
  const float* const w = g.w.row(row) + g.begin;
  float *const carried = g.carried + row * g.group, *const moved = g.moved + row * g.group;
  float* const points = g.points + row * g.group;
  Index* const chosen = codes + row * g.row_codes + g.first_code;
  const auto target = [&](std::int64_t i) { return __fadd_rn(w[i], carried[i]); };
  const double rms = sqrt(sum_of_squares_half_warp(target, g.group) / static_cast<double>(g.group));
  const float factor = how.factor(rms, 0);
  const auto step = static_cast<double>(static_cast<float>(rms * how.step));

  for (std::int64_t at = 0; at < g.group; at += Segment) {
    const auto inputs = static_cast<int>(min(g.group - at, std::int64_t{Segment}));
    const auto seen = static_cast<int>(min(g.group - at, std::int64_t{inputs + Ahead}));
    const auto fixed = [&](int i) { return i < seen ? how.fixed(target(at + i), factor) : 0.0f; };
    const auto keep = [&](int i, int coordinate) {
      if (i >= inputs) return;
      const auto point = static_cast<float>(coordinate);
      points[at + i] = segment_points[warp][i] = point;
      segment_errors[warp][i] =
          static_cast<float>(static_cast<double>(w[at + i]) - step * static_cast<double>(point));
    };
    if constexpr (chain) {
      Space& space = spaces[warp];
      search.encode_warp((seen + dim - 1) / dim, space.costs, space.names,
                         [&](std::int64_t t) {
                           const auto i = static_cast<int>(t) * dim;
                           return Search::pair(static_cast<int>(fixed(i)), static_cast<int>(fixed(i + 1)));
                         },
                         [&](std::int64_t t, int symbol, int x, int y) {
                           const auto i = static_cast<int>(t) * dim;
                           if (i >= inputs) return;
                           chosen[at / dim + t] = static_cast<Index>(symbol);
                           space.symbols[t] = symbol;
                           keep(i, x);
                           keep(i + 1, y);
                         },
                         state);
      __syncwarp();
      for (int t = 0; t * dim < inputs; ++t) state = Search::next(state, space.symbols[t]);
    } else {
      float y[dim];
      HIGGS_UNROLL for (int d = 0; d < dim; ++d)
        y[d] = fixed(d);
      const std::uint32_t code = search.find_warp(words, y);
      if (lane == 0) chosen[at / dim] = static_cast<Index>(code);
      if (lane < dim) keep(lane, search.coordinate(words, code, lane));
      __syncwarp();
    }
    const float* const u = g.u.row(g.first + at) + g.first;
    for (std::int64_t i = at + lane; i < g.group; i += 32) {
      float m = moved[i], c = carried[i];
      HIGGS_UNROLL for (int j = 0; j < Segment; ++j)
        if (j < inputs) {
          const float by = u[j * g.u.row_stride + i];
          m = fmaf(segment_points[warp][j], by, m);
          c = fmaf(segment_errors[warp][j], by, c);
        }
      moved[i] = m;
      carried[i] = c;
    }
    __syncwarp();
  }
  fit_feedback_scale(g, row, step, how.format);
}

/// Which rows lose so much that they are tried without feedback; a warp a row.
template <class Archs>
__global__ void __launch_bounds__(128)
    judge_rows_kernel(DenseView<const float> w, const double* losses, double mse, double mean_cost,
                      FeedbackRowError* errors, std::uint8_t* wanted) {
  const std::int64_t row = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32;
  if (row >= w.rows) return;
  const double norm = sum_of_squares_half_warp(w.row(row), w.cols);
  if (threadIdx.x % 32 != 0) return;
  const double expected = mse * mean_cost * norm;
  errors[row] = {0, norm, losses[row], expected, 0};
  wanted[row] = losses[row] > 0.9 * expected;
}

/// Adds to the losses of wanted rows that of one group: `carried` (rows, group) has the errors times the factors.
template <class Archs>
__global__ void __launch_bounds__(128) add_losses_kernel(DenseView<const float> carried, const float* d,
                                                         const std::uint8_t* wanted, double* losses) {
  const std::int64_t row = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32;
  if (row >= carried.rows || wanted[row] == 0) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double loss = losses[row];
  for (std::int64_t first = 0; first < carried.cols; first += 32) {
    double term = 0;
    if (first + lane < carried.cols) {
      const float value = carried.row(row)[first + lane];
      term = static_cast<double>(__fmul_rn(d[first + lane], value)) * static_cast<double>(value);
    }
    loss = add_in_order(loss, term, static_cast<int>(min(carried.cols - first, std::int64_t{32})));
  }
  __syncwarp();
  if (lane == 0) losses[row] = loss;
}

/// Codes and scales of a matrix, (rows, row_codes) and (rows, groups), and what they leave.
template <class Index>
struct RoundedRows {
  Index* codes;
  Half* scales;
  float* left;     // (padded_cols, rows)
  double* losses;  // (rows)
};

/// Keeps what rows leave without feedback where that is less, and completes the errors; a warp a row.
template <class Index>
__global__ void __launch_bounds__(128)
    choose_rounding_kernel(std::int64_t rows, std::int64_t cols, std::int64_t row_codes, std::int64_t groups,
                           RoundedRows<Index> with, RoundedRows<Index> without, const std::uint8_t* wanted,
                           FeedbackRowError* errors) {
  const std::int64_t row = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool better = wanted[row] != 0 && without.losses[row] < errors[row].loss;
  __syncwarp();
  if (better) {
    for (std::int64_t i = lane; i < row_codes; i += 32)
      with.codes[row * row_codes + i] = without.codes[row * row_codes + i];
    for (std::int64_t i = lane; i < groups; i += 32)
      with.scales[row * groups + i] = without.scales[row * groups + i];
    if (lane == 0) errors[row].loss = without.losses[row], errors[row].nearest_rows = 1;
  }
  const float* const left = (better ? without.left : with.left) + row;
  const double error = sum_of_squares_half_warp([&](std::int64_t i) { return left[i * rows]; }, cols);
  if (lane == 0) errors[row].squared_error = error;
}

/// The errors of rows without feedback, from those of their groups.
template <class Archs>
__global__ void __launch_bounds__(128)
    sum_group_errors_kernel(const double2* of_groups, std::int64_t rows, std::int64_t groups,
                            FeedbackRowError* errors) {
  const std::int64_t row = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  FeedbackRowError error;
  error.nearest_rows = 1;
  for (std::int64_t i = 0; i < groups; ++i) {
    error.squared_error += of_groups[row * groups + i].x;
    error.squared_norm += of_groups[row * groups + i].y;
  }
  errors[row] = error;
}

}  // namespace detail

/// A code that is rounded with feedback on the device: a Codebook, or a ResumableCode with a search there.
template <class C>
concept DeviceFeedbackCode = Code<C> && (Codebook<C> || ResumableCode<C>);

/// Quantizes rows on the device as FeedbackQuantizer does on the host, bit for bit. Made once per matrix; owns what
/// DeviceRowQuantizer owns.
template <Code C>
class DeviceFeedbackQuantizer {
  static_assert(DeviceFeedbackCode<C>, "DeviceFeedbackQuantizer<C>: C is a Codebook or a ResumableCode");
  using Search = typename DeviceSearchOf<C>::Type;
  using Index = SymbolOf<C>;
  using Rounded = detail::RoundedRows<Index>;

 public:
  /// What the host's quantizer says of its rows.
  using Error = typename FeedbackQuantizer<C>::Error;

  /// The arguments of FeedbackQuantizer. `feedback` must outlive this. Throws InvalidArgument where it does not fit the
  /// layout.
  DeviceFeedbackQuantizer(const C& book, const CodeLayout& layout, std::optional<std::uint64_t> seed,
                          int exponent, std::span<const Half> input_scales, const DeviceFeedback& feedback)
      : rows_(book, layout, seed, exponent, input_scales),
        layout_(layout),
        mse_(book.mse()),
        keeps_errors_(input_scales.empty() && layout.padded_cols() == layout.cols),
        feedback_(feedback) {
    expects(feedback.cols() == layout.padded_cols(), [&] {
      return higgs::detail::sentence("higgs::gpu::DeviceFeedbackQuantizer: the feedback is of ",
                                     feedback.cols(), " rotated inputs, but the layout has ",
                                     layout.padded_cols());
    });
  }

  /// Bytes of workspace for `rows` rows at a time: 12 a weight, 12 a weight of one group, and symbols twice; for a chain code
  /// also what DeviceRowQuantizer takes for the paths of its search.
  std::size_t workspace_size(std::int64_t rows, const Device& device) const {
    return Space(*this, rows, device, nullptr).bytes;
  }

  /// Writes codes (n, row_bytes) and scales (n, groups) of the rows of `w` (n, cols), which must be finite, and, if
  /// given, what rounding leaves of each row, `errors` (n). `workspace` begins at a multiple of 16 bytes.
  template <class T, class Archs = BuiltFor>
  void quantize_rows_async(DenseView<const T> w, std::uint8_t* codes, Half* scales,
                           std::span<std::byte> workspace, const Device& device, cudaStream_t stream,
                           FeedbackRowError* errors = nullptr) const {
    expect_arguments(w, scales, workspace, device, errors);
    if (w.rows == 0) return;
    const Space space(*this, w.rows, device, workspace.data());
    if (errors == nullptr) errors = space.errors;
    const DenseView<float> rows(space.w, w.rows, layout_.padded_cols());
    rows_.template rotate_rows_async<T, Archs>(w, rows, space.scratch, device, stream);
    if (feedback_.empty()) {
      rows_.template encode_groups_async<true>(rows, space.with.codes, space.chains, scales, space.of_groups,
                                               stream);
      launch(detail::sum_group_errors_kernel<Archs>, dim3(static_cast<unsigned>(ceil_div(w.rows, 128))), 128,
             0, stream, space.of_groups, w.rows, layout_.groups(), errors);
    } else {
      Rounded with = space.with;
      with.scales = scales;
      round_async<Archs>(rows, with, space, device, stream);
      try_nearest_async<Archs>(rows, with, space, errors, device, stream);
    }
    rows_.pack_async(space.with.codes, w.rows, codes, stream);
  }

  /// The sum over the rows of one call, with the bits of FeedbackQuantizer, but for the error of the weights: that is NaN with
  /// input scales or padding.
  Error total(std::span<const FeedbackRowError> errors) const {
    Error total, task;
    const auto add = [&] { total += std::exchange(task, Error()); };
    for (std::size_t row = 0; row < errors.size(); ++row) {
      const FeedbackRowError& from = errors[row];
      Error error;
      error.squared_error = from.squared_error;
      error.squared_norm = from.squared_norm;
      error.weight_squared_error =
          keeps_errors_ ? from.squared_error : std::numeric_limits<double>::quiet_NaN();
      error.weight_squared_norm = from.squared_norm;
      error.loss = from.loss;
      error.expected_nearest_loss = from.expected_nearest_loss;
      error.nearest_rows = static_cast<std::int64_t>(from.nearest_rows);
      task += error;
      // The host adds the rows of a task first; without feedback it has no tasks.
      if (feedback_.empty() || (row + 1) % static_cast<std::size_t>(FeedbackQuantizer<C>::rows_together) == 0)
        add();
    }
    add();
    return total;
  }

 private:
  // The parts of a workspace, in whole multiples of 16 bytes.
  struct Space {
    Space(const DeviceFeedbackQuantizer& q, std::int64_t rows, const Device& device, std::byte* memory) {
      const std::int64_t cols = rows * q.layout_.padded_cols(), group = rows * q.layout_.group;
      const std::int64_t symbols = rows * q.layout_.codes_per_row(C::dim), groups = rows * q.layout_.groups();
      const auto take = [&]<class T>(T*& part, std::int64_t count) {
        part = reinterpret_cast<T*>(memory + bytes);
        bytes += (static_cast<std::size_t>(count) * sizeof(T) + 15) / 16 * 16;
      };
      take(w, cols);
      take(scratch, rotate_scratch(q.rows_.rotation(), rows, device));
      take(chains, q.rows_.chain_words(rows));
      take(with.codes, symbols);
      if (q.feedback_.empty()) {
        take(of_groups, groups);
      } else {
        take(without.codes, symbols);
        take(without.scales, groups);
        take(with.left, cols);
        take(without.left, cols);
        take(with.losses, rows);
        take(without.losses, rows);
        take(carried, 2 * group);
        take(points, group);
        take(wanted, rows);
      }
      take(errors, rows);
    }

    std::size_t bytes = 0;
    float *w = nullptr, *scratch = nullptr;  // (rows, padded_cols): rotated weights
    std::uint32_t* chains = nullptr;
    Rounded with{}, without{};  // with feedback, whose scales are the caller's, and without it
    float *carried = nullptr, *points = nullptr;  // (2, rows, group) and (rows, group), see FeedbackGroup
    std::uint8_t* wanted = nullptr;               // (rows)
    double2* of_groups = nullptr;                 // (rows, groups)
    FeedbackRowError* errors = nullptr;           // (rows)
  };

  template <class T>
  void expect_arguments(const DenseView<const T>& w, const Half* scales, std::span<std::byte> workspace,
                        const Device& device, const FeedbackRowError* errors) const {
    using higgs::detail::sentence;
    constexpr const char* function = "higgs::gpu::DeviceFeedbackQuantizer";
    expects(w.cols == layout_.cols, [&] {
      return sentence(function, ": w is ", higgs::detail::shape_text(w.rows, w.cols), ", but the layout has ",
                      layout_.cols, " columns");
    });
    higgs::detail::expect_data(function, "w", w);
    expects(workspace.size() >= workspace_size(w.rows, device), [&] {
      return sentence(function, ": the workspace holds ", workspace.size(), " bytes, but must hold ",
                      workspace_size(w.rows, device), " (see workspace_size)");
    });
    detail::expect_aligned(function, "the workspace", workspace.data(), 16);
    detail::expect_aligned(function, "w", w.data, sizeof(T));
    detail::expect_aligned(function, "scales", scales, sizeof(Half));
    detail::expect_aligned(function, "errors", errors, sizeof(double));
    detail::expect_apart(function, "the workspace", detail::ByteRows(workspace.data(), std::ssize(workspace)),
                         "w", detail::ByteRows(w));
  }

  // carried (rows, group) = what `errors` (padded_cols, rows) of the inputs of a part in front of `end` leave to the group at
  // `begin`.
  template <class Archs>
  void carry_async(const float* errors, std::int64_t begin, std::int64_t end, DenseView<float> carried,
                   const std::uint8_t* wanted, const Device& device, cudaStream_t stream) const {
    const std::int64_t part = begin / feedback_.part(), start = part * feedback_.part(), rows = carried.rows;
    const DenseView<const float> u = feedback_.rows(part);
    detail::add_outer_products_async<float, Archs>(
        "higgs::gpu::DeviceFeedbackQuantizer",
        DenseView<const float>(errors + start * rows, end - start, rows),
        DenseView<const float>(u.data + (begin - start), end - start, carried.cols, u.row_stride), carried,
        false, device, stream, wanted);
  }

  void clear_async(void* memory, std::size_t bytes, cudaStream_t stream) const {
    check(cudaMemsetAsync(memory, 0, bytes, stream), "higgs::gpu::DeviceFeedbackQuantizer");
  }

  template <class Archs>
  void round_async(const DenseView<const float>& w, const Rounded& out, const Space& space,
                   const Device& device, cudaStream_t stream) const {
    const std::int64_t group = layout_.group;
    const auto group_bytes = static_cast<std::size_t>(w.rows * group) * sizeof(float);
    clear_async(out.losses, static_cast<std::size_t>(w.rows) * sizeof(double), stream);
    for (std::int64_t begin = 0; begin < w.cols; begin += group) {
      const std::int64_t part = begin / feedback_.part();
      clear_async(space.carried, 2 * group_bytes, stream);
      carry_async<Archs>(out.left, begin, begin, DenseView<float>(space.carried, w.rows, group), nullptr,
                         device, stream);
      const detail::FeedbackGroup g{w,
                                    feedback_.rows(part),
                                    feedback_.d() + begin,
                                    begin,
                                    begin % feedback_.part(),
                                    group,
                                    space.carried,
                                    space.carried + w.rows * group,
                                    space.points,
                                    out.left,
                                    out.scales + begin / group,
                                    layout_.groups(),
                                    begin / group * layout_.codes_per_group(C::dim),
                                    layout_.codes_per_row(C::dim),
                                    out.losses};
      round_group_async<Archs>(g, out.codes, stream);
    }
  }

  template <class Archs>
  void round_group_async(const detail::FeedbackGroup& g, Index* codes, cudaStream_t stream) const {
    constexpr bool chain = ChainCode<C>;
    constexpr auto segment = static_cast<int>(
        chain ? std::max<std::int64_t>(FeedbackQuantizer<C>::segment_inputs / C::dim, 1) * C::dim : C::dim);
    constexpr auto ahead =
        static_cast<int>(chain ? ceil_div(FeedbackQuantizer<C>::inputs_ahead, C::dim) * C::dim : 0);
    constexpr bool in_shared = [] {
      if constexpr (chain)
        return true;
      else
        return DeviceSearchOf<C>::in_shared;
    }();
    int size = 0;
    if constexpr (!chain) size = DeviceSearchOf<C>::size;
    launch(detail::round_group_kernel<Search, in_shared, Index, segment, ahead>, row_blocks(g.w.rows), 128,
           in_shared ? rows_.words_.size_bytes() : 0, stream, g, rows_.how_, rows_.words_.data(),
           static_cast<int>(rows_.words_.size()), size, codes);
  }

  // Rounds the rows that lose much without feedback, and keeps what loses less.
  template <class Archs>
  void try_nearest_async(const DenseView<float>& w, const Rounded& with, const Space& space,
                         FeedbackRowError* errors, const Device& device, cudaStream_t stream) const {
    const Rounded& without = space.without;
    const dim3 blocks = row_blocks(w.rows);
    launch(detail::judge_rows_kernel<Archs>, blocks, 128, 0, stream, DenseView<const float>(w), with.losses,
           mse_, feedback_.mean_cost(), errors, space.wanted);
    rows_.template encode_groups_async<true>(w, without.codes, space.chains, without.scales, nullptr, stream,
                                             {space.wanted, without.left});
    clear_async(without.losses, static_cast<std::size_t>(w.rows) * sizeof(double), stream);
    const DenseView<float> carried(space.carried, w.rows, layout_.group);
    for (std::int64_t begin = 0; begin < w.cols; begin += layout_.group) {
      clear_async(space.carried, static_cast<std::size_t>(w.rows * layout_.group) * sizeof(float), stream);
      carry_async<Archs>(without.left, begin, begin + layout_.group, carried, space.wanted, device, stream);
      launch(detail::add_losses_kernel<Archs>, blocks, 128, 0, stream, DenseView<const float>(carried),
             feedback_.d() + begin, space.wanted, without.losses);
    }
    launch(detail::choose_rounding_kernel<Index>, blocks, 128, 0, stream, w.rows, w.cols,
           layout_.codes_per_row(C::dim), layout_.groups(), with, without, space.wanted, errors);
  }

  static dim3 row_blocks(std::int64_t rows) { return dim3(static_cast<unsigned>(ceil_div(rows, 4))); }

  DeviceRowQuantizer<C> rows_;
  CodeLayout layout_;
  double mse_;
  bool keeps_errors_;
  const DeviceFeedback& feedback_;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
