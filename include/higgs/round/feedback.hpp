// SPDX-License-Identifier: Apache-2.0
// How the error of one rotated input moves the targets of later ones: the factor of the second moment in the rotated basis.
//
// A row w of W is divided by the input scales, padded and rotated, so x is multiplied by them, padded and rotated too, and
// the second moment becomes H' = R D H D R^T. With a damping added to its diagonal it is U diag(d) U^T, U being upper
// triangular with ones on the diagonal. An error e of the rotated row then costs
//
//     e H' e^T = sum over k of d[k] * (e[k] + sum over j < k of e[j] U(j, k))^2
//
// So where inputs are rounded in the order of k, input k has the least cost near w'[k] + sum over j < k of e[j] U(j, k):
// this is the order of LDLQ (Chee et al., QuIP, 2023), which gives the same codes as GPTQ (Frantar et al., 2022).
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/round/outer_product.hpp>
#include <higgs/round/second_moment.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// h = U diag(d) U^T by the definition, in double and in place: of h (n, n) the upper triangle is read, and becomes U, whose
/// diagonal of ones is not written. What is below the diagonal is not touched. False where a value of d would not be above
/// `least`; then h and d are not complete.
HIGGS_INLINE bool factor_plainly(MatrixView<double> h, std::span<double> d, double least = 0);

/// The same by blocks, in float but for blocks on the diagonal: U with its ones, and zeros below. The rows of h are
/// contiguous. U and d are the same bits on every machine and for any number of threads.
HIGGS_INLINE bool factor(MatrixView<float> h, std::span<float> d, double least, Executor& executor,
                         Isa isa = best_isa());

/// U and d of a second moment, for layers of one layout, seed and input scales. All values are the same bits on every
/// machine and for any number of threads. It takes 4 bytes a value of H', so as much memory as the second moment besides
/// that. Its time is that of padded_cols^3 / 6 multiply-adds, or padded_cols * part^2 / 6.
class Feedback {
 public:
  /// The damping where a caller asks for none.
  static constexpr double default_damping = 0.01;
  /// The same of outputs, whose gradients are fewer and rougher. docs/notes/round.md has what less of it costs.
  static constexpr double default_output_damping = 1;

  /// `damping`: what is added to the diagonal of H', relative to the mean of that. Where H' so damped cannot be factored
  /// safely, it is raised tenfold. `input_scales`: (cols) where the layout has them, else empty. Throws InvalidArgument
  /// where `moment` or the scales do not fit the layout, for parts that are no whole blocks of it, for a damping that is
  /// negative or not finite, and where no damping serves, as H' is beyond float.
  Feedback(const SecondMoment& moment, const CodeLayout& layout, std::optional<std::uint64_t> seed,
           std::span<const Half> input_scales = {}, double damping = default_damping,
           Executor& executor = default_executor(), Isa isa = best_isa());

  /// The same of what is neither scaled nor rotated, such as the outputs of a layer: H' is the second moment and the damping.
  explicit Feedback(const SecondMoment& moment, double damping = default_damping,
                    Executor& executor = default_executor(), Isa isa = best_isa());

  /// Whether all inputs are zero, so that no error costs anything: U is not there, and d() is all zeros.
  bool empty() const noexcept { return u_.empty(); }

  /// The damping that was used.
  double damping() const noexcept { return damping_; }

  /// The mean of the diagonal of H', damping included: what the square of an input's error costs where no error is fed back.
  double mean_cost() const noexcept { return mean_ * (1 + damping_); }

  /// (cols()): what the square of an error costs where it moves the targets of later steps alone, a step being so many
  /// inputs from the begin of a part on. 0: it moves none, so that costs are the diagonal of H'.
  std::vector<double> costs(std::int64_t step = 0) const;

  std::int64_t cols() const noexcept { return std::ssize(d_); }  ///< rotated inputs, padding among them
  std::int64_t part() const noexcept { return part_; }  ///< rotated inputs of a part; the last may have fewer
  std::int64_t parts() const noexcept { return (cols() + part_ - 1) / part_; }  ///< parts of U

  /// U of rotated inputs i * part() and on, with ones on its diagonal and zeros below. Errors move no target of another
  /// part. Throws InvalidArgument unless 0 <= i < parts(), and where empty().
  MatrixView<const float> rows(std::int64_t i) const;

  /// (cols()): what the square of an input's error costs, once the errors before it are fed back.
  std::span<const float> d() const noexcept { return d_; }

 private:
  MatrixView<float> part_of(std::int64_t i) noexcept;
  // Takes the scales, or none, and factors all parts: load(i, h) writes the undamped H' of part i.
  template <class Load>
  void factor_parts(const SecondMoment& moment, std::span<const float> scales, Load&& load,
                    Executor& executor, Isa isa);

  std::int64_t part_;
  double damping_;
  double mean_ = 0;       // mean of the diagonal of H' without damping
  std::vector<float> u_;  // (parts, part, part), the last part smaller in both
  std::vector<float> d_;  // (padded_cols)
};

namespace detail {

/// Throws InvalidArgument for a damping that is negative or not finite.
inline void expect_damping(double damping) {
  expects(std::isfinite(damping) && damping >= 0, [&] {
    return sentence("higgs::Feedback: damping is ", damping, ", but must be finite and not negative");
  });
}

/// Throws InvalidArgument unless a second moment, input scales and a damping fit a layout.
template <class Moment>
void expect_feedback(const Moment& moment, const CodeLayout& layout, std::span<const Half> input_scales,
                     double damping) {
  expects(moment.cols() == layout.cols, [&] {
    return sentence("higgs::Feedback: the second moment has ", moment.cols(), " inputs, but the layout has ",
                    layout.cols);
  });
  expects(moment.parts() == 1 || moment.part() % layout.block == 0, [&] {
    return sentence("higgs::Feedback: parts of ", moment.part(), " inputs are no whole blocks of ",
                    layout.block);
  });
  const std::int64_t scales = layout.input_scales ? layout.cols : 0;
  expects(std::ssize(input_scales) == scales, [&] {
    return sentence("higgs::Feedback: input_scales holds ", input_scales.size(),
                    " values, but the layout needs ", scales);
  });
  expect_damping(damping);
}

/// The sum of the diagonal of D H D, from that of H (cols) and D (cols), or none.
inline double scaled_trace(std::span<const float> diagonal, std::span<const float> scales) {
  double trace = 0;
  for (std::size_t k = 0; k < diagonal.size(); ++k) {
    const double scale = scales.empty() ? 1 : static_cast<double>(scales[k]);
    trace = std::fma(static_cast<double>(diagonal[k]), scale * scale, trace);
  }
  return trace;
}

/// The next damping for the second moment of `inputs` inputs, `cols` rotated ones, that cannot be factored under `damping`.
/// Throws InvalidArgument where no damping serves.
inline double raised_damping(double damping, double mean, std::int64_t inputs, std::int64_t cols) {
  // All eigenvalues of a second moment are above minus its trace, which is `mean` a column.
  expects(std::isfinite(mean) && damping <= static_cast<double>(cols), [&] {
    return sentence("higgs::Feedback: the second moment of ", inputs,
                    " inputs cannot be factored; its mean square times input scales is ", mean);
  });
  return std::max(10 * damping, 1e-4);
}

}  // namespace detail

#if HIGGS_DEFINITIONS

namespace detail {

/// Swaps h (n, n) with its transpose, by blocks that fit the first cache.
HIGGS_INLINE void transpose(MatrixView<float> h, Executor& executor) {
  constexpr std::int64_t tile = 64;
  const std::int64_t n = h.rows;
  parallel_for(executor, n, tile, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t first = begin; first < n; first += tile)
      for (std::int64_t i = begin; i < end; ++i)
        for (std::int64_t j = std::max(i + 1, first); j < std::min(n, first + tile); ++j)
          std::swap(h(i, j), h(j, i));
  });
}

/// D H D in full, and zeros in the padding: `upper` (m, m) has the upper triangle of H, `scales` (m or more) are D, or
/// empty, and h (n, n) is the output, n >= m.
HIGGS_INLINE void scale_second_moment(MatrixView<const float> upper, std::span<const float> scales,
                                      MatrixView<float> h, Executor& executor) {
  constexpr std::int64_t tile = 64;
  const std::int64_t m = upper.rows;
  const auto scale = [&](std::int64_t k) {
    return scales.empty() ? 1.0f : scales[static_cast<std::size_t>(k)];
  };
  parallel_for(executor, h.rows, tile, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) std::fill(h.row(i) + (i < m ? m : 0), h.row(i) + h.cols, 0.0f);
    // Both triangles of a tile at once: what is written below the diagonal is still in cache.
    for (std::int64_t first = begin; first < m; first += tile)
      for (std::int64_t i = begin; i < std::min(end, m); ++i)
        for (std::int64_t j = std::max(i, first); j < std::min(m, first + tile); ++j)
          h(i, j) = h(j, i) = upper(i, j) * (scale(i) * scale(j));
  });
}

/// Columns [begin, end) of h, which is factored behind them: their block on the diagonal, in double.
HIGGS_INLINE bool factor_diagonal_block(MatrixView<float> h, std::span<float> d, std::int64_t begin,
                                        std::int64_t end, double least) {
  const std::int64_t n = end - begin;
  std::vector<double> values(static_cast<std::size_t>(n * n)), squares(static_cast<std::size_t>(n));
  const MatrixView<double> block(values.data(), n, n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i; j < n; ++j) block(i, j) = static_cast<double>(h(begin + i, begin + j));
  if (!factor_plainly(block, squares, least)) return false;
  for (std::int64_t i = 0; i < n; ++i) {
    d[static_cast<std::size_t>(begin + i)] = static_cast<float>(squares[static_cast<std::size_t>(i)]);
    h(begin + i, begin + i) = 1.0f;
    for (std::int64_t j = i + 1; j < n; ++j) h(begin + i, begin + j) = static_cast<float>(block(i, j));
  }
  return true;
}

/// The same columns above that block U: X of X diag(d) U^T = B, in place of B. `x` and `negated` (end - begin, begin) become
/// X^T and -diag(d) X^T.
HIGGS_INLINE void solve_above_block(MatrixView<float> h, std::span<const float> d, std::int64_t begin,
                                    std::int64_t end, MatrixView<float> x, MatrixView<float> negated,
                                    Executor& executor, Isa isa) {
  constexpr std::int64_t grain = 256,
                         run = 16;  // rows of h in one task, columns that are subtracted together
  const std::int64_t n = end - begin;
  std::vector<float> values(static_cast<std::size_t>(n * n));
  const MatrixView<float> minus_u(values.data(), n, n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i + 1; j < n; ++j) minus_u(i, j) = -h(begin + i, begin + j);
  parallel_for(executor, begin, grain, [&](std::int64_t first, std::int64_t last) {
    const MatrixView<float> y = negated.col_range(first, last - first);
    for (std::int64_t i = first; i < last; ++i)
      for (std::int64_t t = 0; t < n; ++t) y(t, i - first) = -h(i, begin + t);
    const auto subtract = [&](std::int64_t to, std::int64_t to_end, std::int64_t from,
                              std::int64_t from_end) {
      const MatrixView<const float> factors =
          minus_u.row_range(to, to_end - to).col_range(from, from_end - from);
      add_outer_products(factors.transposed(), y.row_range(from, from_end - from),
                         y.row_range(to, to_end - to), isa);
    };
    for (std::int64_t high = n; high > 0;) {
      const std::int64_t low = (high - 1) / run * run;
      subtract(low, high, high, n);
      for (std::int64_t t = high - 1; t-- > low;) subtract(t, t + 1, t + 1, high);
      high = low;
    }
    for (std::int64_t i = first; i < last; ++i)
      for (std::int64_t t = 0; t < n; ++t)
        h(i, begin + t) = x(t, i) = y(t, i - first) / -d[static_cast<std::size_t>(begin + t)];
  });
}

/// Zeros below the diagonal.
HIGGS_INLINE void clear_below_diagonal(MatrixView<float> h, Executor& executor) {
  parallel_for(executor, h.rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) std::fill_n(h.row(i), i, 0.0f);
  });
}

/// Each row of h times the signs and the transform; column 0 is absolute column `first`.
HIGGS_INLINE void rotate_rows(MatrixView<float> h, std::int64_t order, std::optional<std::uint64_t> seed,
                              std::int64_t first, Executor& executor, Isa isa) {
  parallel_for(executor, h.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      rotate_row({h.row(i), static_cast<std::size_t>(h.cols)}, order, seed, first, isa);
  });
}

}  // namespace detail

HIGGS_INLINE bool factor_plainly(MatrixView<double> h, std::span<double> d, double least) {
  std::vector<double> column(d.size());  // of h, before it is divided
  for (std::int64_t k = h.rows - 1; k >= 0; --k) {
    const double square = h(k, k);
    if (!(square > least)) return false;
    d[static_cast<std::size_t>(k)] = square;
    for (std::int64_t i = 0; i < k; ++i) {
      column[static_cast<std::size_t>(i)] = h(i, k);
      h(i, k) /= square;
    }
    // Fused by name: so no compiler chooses whether it is.
    for (std::int64_t i = 0; i < k; ++i)
      for (std::int64_t j = i; j < k; ++j)
        h(i, j) = std::fma(-h(i, k), column[static_cast<std::size_t>(j)], h(i, j));
  }
  return true;
}

HIGGS_INLINE bool factor(MatrixView<float> h, std::span<float> d, double least, Executor& executor, Isa isa) {
  constexpr std::int64_t panel = 128;  // columns that are factored before they move all others
  std::vector<float> x(static_cast<std::size_t>(panel * h.rows)), negated(x.size());
  for (std::int64_t end = h.rows; end > 0;) {
    const std::int64_t begin = (end - 1) / panel * panel;
    if (!detail::factor_diagonal_block(h, d, begin, end, least)) return false;
    const MatrixView<float> solved(x.data(), end - begin, begin), moved(negated.data(), end - begin, begin);
    detail::solve_above_block(h, d, begin, end, solved, moved, executor, isa);
    add_upper_outer_products(moved, solved, h.row_range(0, begin).col_range(0, begin), executor, isa);
    end = begin;
  }
  detail::clear_below_diagonal(h, executor);
  return true;
}

HIGGS_INLINE Feedback::Feedback(const SecondMoment& moment, const CodeLayout& layout,
                                std::optional<std::uint64_t> seed, std::span<const Half> input_scales,
                                double damping, Executor& executor, Isa isa)
    : part_(moment.parts() == 1 ? layout.padded_cols() : moment.part()), damping_(damping) {
  detail::expect_feedback(moment, layout, input_scales, damping);
  d_.resize(static_cast<std::size_t>(layout.padded_cols()));
  std::vector<float> scales;
  for (const Half scale : input_scales) scales.push_back(static_cast<float>(scale));
  const auto load = [&](std::int64_t i, MatrixView<float> h) {
    const std::int64_t first = i * part_;
    const std::span<const float> own =
        std::span(scales).subspan(scales.empty() ? 0 : static_cast<std::size_t>(first));
    detail::scale_second_moment(moment.values(i), own, h, executor);
    for (int side = 0; side < 2; ++side) {
      detail::rotate_rows(h, layout.block, seed, first, executor, isa);
      if (side == 0) detail::transpose(h, executor);
    }
  };
  factor_parts(moment, scales, load, executor, isa);
}

HIGGS_INLINE Feedback::Feedback(const SecondMoment& moment, double damping, Executor& executor, Isa isa)
    : part_(moment.part()), damping_(damping) {
  detail::expect_damping(damping);
  d_.resize(static_cast<std::size_t>(moment.cols()));
  const auto load = [&](std::int64_t i, MatrixView<float> h) {
    detail::scale_second_moment(moment.values(i), {}, h, executor);
  };
  factor_parts(moment, {}, load, executor, isa);
}

template <class Load>
void Feedback::factor_parts(const SecondMoment& moment, std::span<const float> scales, Load&& load,
                            Executor& executor, Isa isa) {
  std::vector<float> diagonal;  // (moment.cols())
  for (std::int64_t p = 0; p < moment.parts(); ++p)
    for (std::int64_t k = 0; k < moment.values(p).rows; ++k) diagonal.push_back(moment.values(p)(k, k));
  mean_ = detail::scaled_trace(diagonal, scales) / static_cast<double>(cols());
  if (mean_ == 0) return;
  const std::int64_t last = cols() - (parts() - 1) * part_;
  u_.resize(static_cast<std::size_t>((parts() - 1) * part_ * part_ + last * last));
  const auto factor_part = [&](std::int64_t i) {
    const MatrixView<float> h = part_of(i);
    load(i, h);
    for (std::int64_t k = 0; k < h.rows; ++k)
      h(k, k) = static_cast<float>(std::fma(damping_, mean_, static_cast<double>(h(k, k))));
    // No square is below what is added here, but for rounding. Where rounding takes half of that, it decides too much.
    const std::span<float> d =
        std::span(d_).subspan(static_cast<std::size_t>(i * part_), static_cast<std::size_t>(h.rows));
    return factor(h, d, damping_ * mean_ / 2, executor, isa);
  };
  for (std::int64_t i = 0; i < parts();)
    if (factor_part(i)) {
      ++i;
    } else {
      damping_ = detail::raised_damping(damping_, mean_, moment.cols(), cols());
      i = 0;
    }
}

HIGGS_INLINE std::vector<double> Feedback::costs(std::int64_t step) const {
  std::vector<double> out(d_.size());
  if (step <= 0) step = part_;
  for (std::int64_t i = 0; i < (empty() ? 0 : parts()); ++i) {
    const MatrixView<const float> u = rows(i);
    const float* d = d_.data() + i * part_;
    for (std::int64_t j = 0; j < u.rows; ++j) {
      double sum = 0;
      for (std::int64_t k = j; k < std::min(u.cols, (j / step + 1) * step); ++k) {
        const auto value = static_cast<double>(u(j, k));
        sum = std::fma(value * value, static_cast<double>(d[k]), sum);
      }
      out[static_cast<std::size_t>(i * part_ + j)] = sum;
    }
  }
  return out;
}

HIGGS_INLINE MatrixView<float> Feedback::part_of(std::int64_t i) noexcept {
  const std::int64_t size = std::min(part_, cols() - i * part_);
  return {u_.data() + i * part_ * part_, size, size};
}

HIGGS_INLINE MatrixView<const float> Feedback::rows(std::int64_t i) const {
  expects(!empty() && i >= 0 && i < parts(), [&] {
    return detail::sentence("higgs::Feedback::rows: part ", i, ", but there are ", empty() ? 0 : parts());
  });
  const std::int64_t size = std::min(part_, cols() - i * part_);
  return {u_.data() + i * part_ * part_, size, size};
}

#endif

}  // namespace v0
}  // namespace higgs
