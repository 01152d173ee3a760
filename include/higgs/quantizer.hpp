// SPDX-License-Identifier: Apache-2.0
// Rotate, scale, encode and pack in one call.
//
//     const higgs::Quantizer<2, 256> quantizer;              // 4 bits a weight
//     const auto w = quantizer.quantize(weights);            // (rows, cols) of float or a 16-bit float
//     const auto v = higgs::quantize(weights, "e8");         // the code by name
#pragma once

#include <higgs/codes/grid/grid.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/encoder.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/rotate/hadamard.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/round/feedback.hpp>
#include <higgs/round/feedback_quantizer.hpp>
#include <higgs/round/rotated_rows.hpp>
#include <higgs/round/row_quantizer.hpp>
#include <higgs/round/second_moment.hpp>
#include <higgs/scale/group_scale.hpp>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Choices beside the code.
struct QuantizeOptions {
  std::int64_t block = 0;     ///< order of the Hadamard transform; 0: choose_block(cols)
  std::int64_t group = 1024;  ///< inputs that share a scale, at most; make_layout() gives the number
  std::optional<std::uint64_t> seed = 0x6869676773;  ///< seed of the random signs; none: rotate without signs
  ScaleFormat scale_format = ScaleFormat::Fp16;      ///< format of group scales in files
  /// Further scales to try on either side of a group's RMS, 2^(1/16) apart, 0 to 16; the best is kept.
  int scale_search = 0;
  bool input_scales = true;  ///< whether each input may have a scale of its own (scale/input_scale.hpp)
  /// (cols): mean square of each input on some text, for better input scales; empty: unknown. A matrix of fewer than
  /// min_rows_for_input_scales rows ignores it.
  std::span<const double> input_squares{};
  /// Equal column shards of whole blocks that the matrix can be cut into (see Shard): the block divides cols / shards.
  std::int64_t shards = 1;
  /// Statistics of all matrices that read the same inputs, w among them: their rows count together, and all get the same
  /// input scales, so that one rotation of x serves them (rotates_alike). Null: those of w. It must outlive the call.
  /// quantize() throws InvalidArgument where a column of w has a larger magnitude than in them.
  const ColumnStatistics* statistics = nullptr;
  /// What rounding with a second moment adds to its diagonal, relative to the mean of that; see Feedback.
  double damping = Feedback::default_damping;
  /// For rounding with a second moment of inputs: that of the gradients of the outputs (rows, rows), where errors are to be
  /// weighed by what depends on them. Null: all outputs count alike. It must outlive the call. quantize() without a second
  /// moment of inputs throws InvalidArgument where it is given.
  const SecondMoment* output_gradients = nullptr;
  double output_damping = Feedback::default_output_damping;  ///< as `damping`, for the outputs
};

/// Matrices with fewer rows have no input scales: 16 bits for each column would cost more than 1/8 bit a weight.
inline constexpr std::int64_t min_rows_for_input_scales = 128;

/// Quantizes a matrix (rows = outputs, cols = inputs, any strides) of float or a 16-bit float (see ScalarOf) with any
/// code. The result depends on the arguments alone: the same bits on every machine, for any number of threads. Throws
/// InvalidArgument for NaN and infinite weights, for a null pointer with sizes, and as make_layout() does.
template <class T, Code C>
QuantizedMatrix<C> quantize(MatrixView<T> w, const C& code, const QuantizeOptions& options = {},
                            Executor& executor = default_executor());

/// The same with a shipped code named at run time ("2x256"). Throws InvalidArgument for an unknown name too.
template <class T>
AnyQuantizedMatrix quantize(MatrixView<T> w, std::string_view code, const QuantizeOptions& options = {},
                            Executor& executor = default_executor());

/// The same with feedback (round/feedback_quantizer.hpp): outputs err least for inputs of this second moment (cols, cols),
/// whatever that does to the error of the weights. Input scales are balanced against the diagonal of `inputs` unless
/// options.input_squares are there. Throws InvalidArgument as Feedback does too, and for a scale_search.
template <class T, Code C>
QuantizedMatrix<C> quantize(MatrixView<T> w, const C& code, const SecondMoment& inputs,
                            const QuantizeOptions& options = {}, Executor& executor = default_executor());
/// The same with a shipped code named at run time.
template <class T>
AnyQuantizedMatrix quantize(MatrixView<T> w, std::string_view code, const SecondMoment& inputs,
                            const QuantizeOptions& options = {}, Executor& executor = default_executor());

/// HIGGS with `Dim` weights to a code of `Size` points and at most `Group` inputs to a scale. A shape without a shipped
/// table takes a table from fit_grid: Quantizer<3, 100>(fit_grid<3, 100>().codebook()).
template <int Dim, int Size, int Group = 1024, Codebook C = GridCodebook<Dim, Size>>
class Quantizer {
  static_assert(Dim >= 1 && Dim <= 16,
                "Quantizer<Dim, Size>: Dim must lie in [1, 16]; is the order Dim, Size?");
  static_assert(Size >= 2 && Size <= 65536, "Quantizer<Dim, Size>: Size must lie in [2, 65536]");
  static_assert(Group >= 1, "Quantizer<Dim, Size, Group>: Group must be positive; 1024 is the default");
  static_assert(
      C::dim == Dim && C::size == Size,
      "Quantizer<Dim, Size, Group, C>: the codebook C has another shape; pass its own dim and size");

 public:
  /// Bits of codes for a weight; a group's scale adds 16 / group.
  static constexpr double bits_per_weight = static_cast<double>(code_bits<C>) / Dim;
  /// The mean squared error on N(0, 1) of the codebook that ships: the t^2 that every layer will show (paper,
  /// eq. 3). That of a caller's own table is codebook().mse().
  static constexpr double relative_error = C{}.mse();

  constexpr Quantizer() = default;
  constexpr explicit Quantizer(const C& book) : book_(book) {}
  /// `options.group`, where it is not left at its default, must be Group; else InvalidArgument is thrown.
  constexpr explicit Quantizer(const QuantizeOptions& options, const C& book = {})
      : book_(book), options_(options) {
    expects(options.group == Group || options.group == QuantizeOptions{}.group, [&] {
      return detail::sentence("higgs::Quantizer<", Dim, ", ", Size, ", ", Group, ">: options.group is ",
                              options.group, ", but Group is ", Group, "; write Quantizer<", Dim, ", ", Size,
                              ", ", options.group, ">, or call higgs::quantize(w, codebook, options)");
    });
    options_.group = Group;
  }

  /// As higgs::quantize.
  template <class T>
  QuantizedMatrix<C> quantize(MatrixView<T> w, Executor& executor = default_executor()) const {
    return higgs::quantize(w, book_, options_, executor);
  }
  /// The same with feedback.
  template <class T>
  QuantizedMatrix<C> quantize(MatrixView<T> w, const SecondMoment& inputs,
                              Executor& executor = default_executor()) const {
    return higgs::quantize(w, book_, inputs, options_, executor);
  }
  constexpr const C& codebook() const noexcept { return book_; }

 private:
  C book_{};
  QuantizeOptions options_{.group = Group};
};

/// The layout of a rows x cols matrix under `options`: the group becomes the largest divisor of the block that is at most
/// options.group, and a multiple of `dim` where such a divisor exists. Throws InvalidArgument for a block that is no
/// Hadamard order, for shards that cannot be whole blocks, for statistics of other columns or of fewer rows, and for
/// options out of range.
inline CodeLayout make_layout(std::int64_t rows, std::int64_t cols, int dim,
                              const QuantizeOptions& options = {});

/// Name, expected t^2 and bytes of a rows x cols matrix in each shipped code: the choices of allocate().
inline std::vector<Format> shipped_formats(std::int64_t rows, std::int64_t cols,
                                           const QuantizeOptions& options = {});

/// Per-channel input scales and the exponent of a matrix: the result of a first pass over it.
struct Normalization {
  std::vector<Half> input_scales;  ///< (cols), or empty where the layout has none
  int exponent = 0;                ///< all weights are divided by 2^exponent
};

/// The normalization for a matrix of these statistics and a code of that `step`. `input_squares` as in QuantizeOptions.
inline Normalization make_normalization(const ColumnStatistics& columns, const CodeLayout& layout,
                                        double step, std::span<const double> input_squares = {});

/// The exponent for a matrix of this largest magnitude, after division by input scales. It brings scales into fp16's
/// range: no group's RMS passes 2^15 even if rotation gathers a whole block in one group, and groups 2^20 times smaller
/// keep full precision. 8-bit scales reach down to 2^-16 of the largest, so they use the range that the code's `step`
/// leaves above them.
inline int scale_exponent(double max_magnitude, const CodeLayout& layout, double step) noexcept;

// Implementation.

namespace detail {

/// The largest order of 16 to 1024 that divides `cols`, 0 if none does. Rotations of less make rows hardly
/// Gaussian.
inline std::int64_t dividing_block(std::int64_t cols) noexcept {
  std::int64_t block = 0;
  for (const int order : hadamard_orders())
    if (order >= 16 && order <= 1024 && cols % order == 0) block = order;
  return block;
}

/// The block for rows that come apart in `shards` parts, whole blocks each.
inline std::int64_t block_of(std::int64_t cols, const QuantizeOptions& options) {
  if (options.block != 0)
    expects(is_hadamard_order(options.block), [&] {
      const auto orders = hadamard_orders();
      const auto above = std::upper_bound(orders.begin(), orders.end(), options.block);
      std::string near;
      if (above != orders.begin()) near = std::to_string(above[-1]);
      if (above != orders.end()) near.append(near.empty() ? "" : " and ").append(std::to_string(*above));
      return sentence("higgs::make_layout: block ", options.block,
                      " is no Hadamard order (see hadamard_orders); the nearest are ", near);
    });
  expects(options.shards >= 1 && cols % options.shards == 0, [&] {
    return sentence("higgs::make_layout: ", cols, " columns cannot be cut into ", options.shards,
                    " equal shards");
  });
  if (options.shards == 1) return options.block != 0 ? options.block : choose_block(cols);
  const std::int64_t part = cols / options.shards;
  const std::int64_t block = options.block != 0 ? options.block : dividing_block(part);
  expects(block != 0 && part % block == 0, [&] {
    const std::string each = sentence("higgs::make_layout: each of ", options.shards, " shards of ", cols,
                                      " columns has ", part, ", ");
    if (block == 0)
      return each + "which no Hadamard order from 16 to 1024 divides; take fewer shards, or pad the columns";
    return sentence(each, "which is no multiple of the block ", block,
                    "; leave the block to the library, or take one that divides ", part);
  });
  return block;
}

}  // namespace detail

inline CodeLayout make_layout(std::int64_t rows, std::int64_t cols, int dim, const QuantizeOptions& options) {
  expects(rows >= 0 && cols >= 1, [&] {
    return "higgs::make_layout: a matrix has at least one column, and no negative size, but this is " +
           detail::shape_text(rows, cols);
  });
  expects(options.group >= 1, [&] {
    return detail::sentence("higgs::make_layout: group must be positive, but is ", options.group);
  });
  expects(options.scale_search >= 0 && options.scale_search <= 16, [&] {
    return detail::sentence("higgs::make_layout: scale_search must lie in [0, 16], but is ",
                            options.scale_search);
  });
  std::int64_t sharing_rows = rows;
  if (const ColumnStatistics* shared = options.statistics) {
    sharing_rows = shared->rows();
    expects(shared->cols() == cols && sharing_rows >= rows, [&] {
      return detail::sentence("higgs::make_layout: statistics are of ",
                              detail::shape_text(sharing_rows, shared->cols()),
                              ", which cannot hold a matrix that is ", detail::shape_text(rows, cols));
    });
  }
  CodeLayout layout{rows,
                    cols,
                    detail::block_of(cols, options),
                    1,
                    options.input_scales && sharing_rows >= min_rows_for_input_scales,
                    options.scale_format};
  bool whole = false;
  for (std::int64_t group = 1; group <= std::min(options.group, layout.block); ++group) {
    if (layout.block % group != 0 || (whole && group % dim != 0)) continue;
    layout.group = group;
    whole = group % dim == 0;
  }
  return layout;
}

inline int scale_exponent(double max_magnitude, const CodeLayout& layout, double step) noexcept {
  if (!(max_magnitude > 0)) return 0;
  const auto ratio = static_cast<std::uint64_t>(layout.block / layout.group);
  const int room = layout.scale_format == ScaleFormat::Log8 ? std::max(0, -std::ilogb(step) - 1) : 0;
  return std::ilogb(max_magnitude) - 14 + static_cast<int>(std::bit_width(ratio)) / 2 - room;
}

inline Normalization make_normalization(const ColumnStatistics& columns, const CodeLayout& layout,
                                        double step, std::span<const double> input_squares) {
  Normalization out;
  auto most = static_cast<double>(columns.max_magnitude());
  if (layout.input_scales) {
    out.input_scales = columns.input_scales(input_squares);
    most = columns.max_magnitude(out.input_scales);
  }
  out.exponent = scale_exponent(most, layout, step);
  return out;
}

namespace detail {
/// The statistics that normalize a matrix which has `own`: those of the options, or `own`; never null. Throws
/// InvalidArgument if these lack the matrix: a column that is zero in them would lose its weights.
inline const ColumnStatistics* normalizing_statistics(const QuantizeOptions& options,
                                                      const ColumnStatistics& own) {
  if (options.statistics == nullptr) return &own;
  const std::int64_t column = options.statistics->first_beyond(own);
  expects(column == own.cols(), [&] {
    return sentence("higgs::quantize: column ", column,
                    " of w has a larger magnitude than in options.statistics, so these are not of w too");
  });
  return options.statistics;
}

template <class T, Code C>
QuantizedMatrix<C> quantize_scalars(MatrixView<T> w, const C& book, const QuantizeOptions& options,
                                    Executor& executor);
template <class T, Code C>
QuantizedMatrix<C> quantize_scalars(MatrixView<T> w, const C& book, const SecondMoment& inputs,
                                    const QuantizeOptions& options, Executor& executor);
}  // namespace detail

template <class T, Code C>
QuantizedMatrix<C> quantize(MatrixView<T> w, const C& book, const QuantizeOptions& options,
                            Executor& executor) {
  if constexpr (!detail::is_scalar<T>) {
    return quantize(detail::as_scalars(w), book, options, executor);
  } else {
    return detail::quantize_scalars(MatrixView<const T>(w), book, options, executor);
  }
}

template <class T>
AnyQuantizedMatrix quantize(MatrixView<T> w, std::string_view codebook, const QuantizeOptions& options,
                            Executor& executor) {
  if constexpr (!detail::is_scalar<T>) return quantize(detail::as_scalars(w), codebook, options, executor);
  AnyQuantizedMatrix out;
  with_shipped_code(codebook,
                    [&]<class C>(std::type_identity<C>) { out = quantize(w, C{}, options, executor); });
  return out;
}

template <class T, Code C>
QuantizedMatrix<C> quantize(MatrixView<T> w, const C& book, const SecondMoment& inputs,
                            const QuantizeOptions& options, Executor& executor) {
  if constexpr (!detail::is_scalar<T>) {
    return quantize(detail::as_scalars(w), book, inputs, options, executor);
  } else {
    return detail::quantize_scalars(MatrixView<const T>(w), book, inputs, options, executor);
  }
}

template <class T>
AnyQuantizedMatrix quantize(MatrixView<T> w, std::string_view codebook, const SecondMoment& inputs,
                            const QuantizeOptions& options, Executor& executor) {
  if constexpr (!detail::is_scalar<T>)
    return quantize(detail::as_scalars(w), codebook, inputs, options, executor);
  AnyQuantizedMatrix out;
  with_shipped_code(
      codebook, [&]<class C>(std::type_identity<C>) { out = quantize(w, C{}, inputs, options, executor); });
  return out;
}

inline std::vector<Format> shipped_formats(std::int64_t rows, std::int64_t cols,
                                           const QuantizeOptions& options) {
  std::vector<Format> formats;
  const auto add = [&]<class C>(std::type_identity<C>) {
    const CodeLayout layout = make_layout(rows, cols, C::dim, options);
    const std::int64_t row_bytes =
        layout.row_bytes(C::dim, code_bits<C>) + layout.groups() * layout.scale_bytes();
    const std::int64_t input_bytes = layout.input_scales ? cols * std::int64_t{sizeof(Half)} : 0;
    formats.push_back({C::name(), C{}.mse(), rows * row_bytes + input_bytes});
  };
  for (const std::string& name : shipped_code_names()) with_shipped_code(name, add);
  return formats;
}

#if HIGGS_DEFINITIONS

namespace detail {

/// Lays out and normalizes w; round(matrix, codes, scales) fills those of the matrix and returns the error.
template <class T, Code C, class Round>
QuantizedMatrix<C> quantize_by(MatrixView<T> w, const C& book, const QuantizeOptions& options,
                               std::span<const double> input_squares, Executor& executor, Round&& round) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales;
    Normalization normalization;
  };
  expect_data("higgs::quantize", "w", w);
  QuantizedMatrix<C> out(book);
  out.layout = make_layout(w.rows, w.cols, C::dim, options);
  out.seed = options.seed;
  auto storage = std::make_shared<Storage>();
  ColumnStatistics columns(w.cols);
  columns.add(w, executor);  // refuses weights that are not finite
  storage->normalization =
      make_normalization(*normalizing_statistics(options, columns), out.layout, book.step(), input_squares);
  out.input_scales = storage->normalization.input_scales;
  out.exponent = storage->normalization.exponent;
  storage->codes.resize(static_cast<std::size_t>(w.rows * out.row_bytes()));
  storage->scales.resize(static_cast<std::size_t>(w.rows * out.layout.groups()));
  const RoundingError error =
      round(std::as_const(out), std::span(storage->codes), std::span(storage->scales));
  out.t2 = error.t2();
  out.weight_error = error.weight_error();
  out.codes = storage->codes;
  out.scales = storage->scales;
  out.owner = std::move(storage);
  return out;
}

template <class T, Code C>
QuantizedMatrix<C> quantize_scalars(MatrixView<T> w, const C& book, const QuantizeOptions& options,
                                    Executor& executor) {
  expects(options.output_gradients == nullptr,
          "higgs::quantize: output_gradients count beside the second moment of inputs, which is not given");
  return quantize_by(
      w, book, options, options.input_squares, executor,
      [&](const QuantizedMatrix<C>& out, std::span<std::uint8_t> codes, std::span<Half> scales) {
        return RowQuantizer<C>(book, out.layout, out.seed, out.exponent, out.input_scales,
                               options.scale_search)
            .quantize_rows(w, codes, scales, executor);
      });
}

template <class T, Code C>
QuantizedMatrix<C> quantize_scalars(MatrixView<T> w, const C& book, const SecondMoment& inputs,
                                    const QuantizeOptions& options, Executor& executor) {
  expects(options.scale_search == 0,
          "higgs::quantize: rounding with a second moment finds scales by itself: leave scale_search at 0");
  expects(inputs.cols() == w.cols, [&] {
    return sentence("higgs::quantize: the second moment is of ", inputs.cols(), " inputs, but w is ",
                    shape_text(w.rows, w.cols));
  });
  const SecondMoment* gradients = options.output_gradients;
  expects(!gradients || gradients->cols() == w.rows, [&] {
    return sentence("higgs::quantize: output_gradients are of ", gradients->cols(), " outputs, but w is ",
                    shape_text(w.rows, w.cols));
  });
  const std::vector<double> squares = inputs.mean_squares();
  return quantize_by(
      w, book, options, options.input_squares.empty() ? std::span(squares) : options.input_squares, executor,
      [&](const QuantizedMatrix<C>& out, std::span<std::uint8_t> codes, std::span<Half> scales) {
        const Feedback feedback(inputs, out.layout, out.seed, out.input_scales, options.damping, executor);
        const FeedbackQuantizer<C> quantizer(book, out.layout, out.seed, out.exponent, out.input_scales,
                                             feedback);
        if (!gradients) return quantizer.quantize_rows(w, codes, scales, executor);
        const Feedback outputs(*gradients, options.output_damping, executor);
        return quantizer.quantize_matrix(w, outputs, codes, scales, executor);
      });
}

}  // namespace detail

#endif

}  // namespace v0
}  // namespace higgs
