// SPDX-License-Identifier: Apache-2.0
// Rounds the rows of a matrix so that the error of its product is small, not that of its weights (GPTQ, and LDLQ of QuIP
// section 3).
//
// The inputs of a row are rounded in their order, some of them (a segment) at a time. What a segment errs changes the
// targets of the inputs behind it, by the factors of the inputs' second moment (feedback.hpp): inputs that speak together
// make up for each other's errors. A code that chooses the symbols of a group together looks some inputs beyond the
// segment, keeps the symbols of the segment, and goes on from there.
//
// Outputs may speak together, too: with G the second moment of the gradients of what a model says with respect to the
// outputs, an error E of the matrix costs tr(G E H E^T) (YAQA, Tseng et al., 2025). With G = V diag(g) V^T this is the sum
// over rows i of g[i] r H r^T, r being the error of row i plus the sum over rows j < i of V(j, i) times theirs. So what the
// rows before erred moves the targets of a row, which is then rounded as above.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/encoder.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/round/feedback.hpp>
#include <higgs/round/outer_product.hpp>
#include <higgs/round/rotated_rows.hpp>
#include <higgs/round/row_quantizer.hpp>
#include <higgs/scale/group_scale.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {

/// A ChainCode whose encoder goes on from the symbols of a group that are chosen already: `State` is what decoding
/// remembers of them, `decode(state, symbols, values)` decodes the next symbols and moves the state, and the encoder's
/// `go_on(state, scaled, symbols)` chooses the next ones. A ChainCode without it is rounded a group at a time.
template <class C>
concept ResumableCode =
    ChainCode<C> && requires(const C& code, const typename C::Encoder& encoder, typename C::State& state,
                             std::span<const float> scaled, std::span<typename C::Symbol> symbols,
                             std::span<typename C::Element> values) {
      encoder.go_on(state, scaled, symbols);
      code.decode(state, std::span<const typename C::Symbol>(symbols), values);
    };

/// Quantizes rows of one matrix like RowQuantizer, into the same format, with the least error of the product in mind:
/// e H e^T, where e is the error of a row and H the second moment of its inputs. The bytes depend on the row and the
/// arguments alone: the same bits on every machine, for any split and number of threads.
template <Code C>
class FeedbackQuantizer {
 public:
  /// What rounding leaves.
  struct Error : RoundingError {
    /// Sum over rows of e H' e^T, in units of 4^exponent; H' is the damped one, see feedback.hpp.
    double loss = 0;
    /// The same as rounding without feedback is expected to leave it: independent errors of the code's mse().
    double expected_nearest_loss = 0;
    std::int64_t nearest_rows = 0;  ///< rows that were rounded without feedback, which left less

    /// Adds the next rows.
    Error& operator+=(const Error& next) noexcept {
      RoundingError::operator+=(next);
      loss += next.loss;
      expected_nearest_loss += next.expected_nearest_loss;
      nearest_rows += next.nearest_rows;
      return *this;
    }
  };

  /// Inputs of a segment of a ResumableCode, where its dim divides them; a Codebook's segment is one symbol. Half as many
  /// leave .5 % less loss in twice the time, twice as many 2 % more.
  static constexpr std::int64_t segment_inputs = 8;
  /// Inputs behind a segment that a ResumableCode looks at.
  static constexpr std::int64_t inputs_ahead = 48;
  /// Rows that one task rounds together.
  static constexpr std::int64_t rows_together = 64;
  /// Rows whose errors do not move one another where outputs speak together.
  static constexpr std::int64_t rows_of_step = 16;
  /// Rows of a step that one task rounds.
  static constexpr std::int64_t rows_of_task = 4;

  /// The arguments of RowQuantizer, and the feedback for the same layout, seed and input scales, which must outlive this.
  FeedbackQuantizer(const C& code, const CodeLayout& layout, std::optional<std::uint64_t> seed, int exponent,
                    std::span<const Half> input_scales, const Feedback& feedback)
      : book_(code),
        encoder_(code),
        layout_(layout),
        rows_(layout, seed, exponent, input_scales),
        feedback_(feedback) {
    expects(feedback.cols() == layout.padded_cols(), [&] {
      return detail::sentence("higgs::FeedbackQuantizer: the feedback is of ", feedback.cols(),
                              " rotated inputs, but the layout has ", layout.padded_cols());
    });
    if (feedback.empty()) nearest_.emplace(code, layout, seed, exponent, input_scales);
  }

  /// Quantizes `w` (n, cols) into `codes` (n, row_bytes) and `scales` (n, groups). Weights must be finite.
  template <class T>
  Error quantize_rows(MatrixView<T> w, std::span<std::uint8_t> codes, std::span<Half> scales,
                      Executor& executor = default_executor()) const;

  /// Quantizes all rows of a matrix w (outputs.cols(), cols) with the least tr(G' E H' E^T); `outputs` is the feedback of the
  /// gradients of the outputs. Both losses of Error are in units of the mean of the diagonal of G'. In Error::loss the errors of
  /// the rows of one step count as if they were independent.
  template <class T>
  Error quantize_matrix(MatrixView<T> w, const Feedback& outputs, std::span<std::uint8_t> codes,
                        std::span<Half> scales, Executor& executor = default_executor()) const;

 private:
  using Symbol = SymbolOf<C>;
  using Element = typename C::Element;

  static constexpr std::int64_t dim = C::dim;
  static constexpr bool together =
      ChainCode<C> && !ResumableCode<C>;  // symbols of a group are chosen at once
  static constexpr std::int64_t ahead = ResumableCode<C> ? (inputs_ahead + dim - 1) / dim * dim : 0;

  // The inputs of a segment: whole symbols.
  std::int64_t segment() const noexcept {
    if constexpr (Codebook<C>) return dim;
    return together ? layout_.group : std::max(segment_inputs / dim, std::int64_t{1}) * dim;
  }

  // The rows of one task.
  class Batch {
   public:
    Batch(const FeedbackQuantizer& quantizer, std::int64_t count)
        : q_(quantizer),
          count_(count),
          w_(values(count * quantizer.layout_.padded_cols())),
          errors_(w_.size()),
          carried_(values(count * quantizer.layout_.group)),
          moved_(carried_.size()),
          targets_(values(quantizer.layout_.group)),
          points_(values(quantizer.layout_.group * count)),
          segment_points_(static_cast<std::size_t>(quantizer.segment())),
          scaled_(values((quantizer.segment() + ahead + dim) * count)),
          symbols_(scaled_.size()),
          codes_(static_cast<std::size_t>(count * quantizer.layout_.codes_per_row(C::dim))),
          group_scales_(static_cast<std::size_t>(count)),
          scales_(static_cast<std::size_t>(count * quantizer.layout_.groups())),
          row_errors_(static_cast<std::size_t>(count)) {
      if constexpr (ResumableCode<C>) states_.resize(static_cast<std::size_t>(count));
    }

    template <class T>
    void load(MatrixView<T> w) {
      const auto cols = static_cast<std::size_t>(q_.layout_.padded_cols());
      for (std::int64_t r = 0; r < count_; ++r) {
        Error& error = row_errors_[static_cast<std::size_t>(r)];
        q_.rows_.rotate(w.row_range(r, 1), std::span(w_).subspan(static_cast<std::size_t>(r) * cols, cols),
                        error);
        error.squared_norm = sum_of_squares(weights(r));
        error.expected_nearest_loss = q_.book_.mse() * q_.feedback_.mean_cost() * error.squared_norm;
      }
    }

    // Moves the targets of all inputs by `moves` (rows, padded_cols), which must outlive the batch.
    void move(MatrixView<const float> moves) {
      moves_ = moves.data;
      for (std::size_t i = 0; i < w_.size(); ++i) w_[i] += moves_[i];
    }

    // Rounds the group of all rows: targets, segments in their order, then the scale.
    void round_group(std::int64_t g) {
      const std::int64_t group = q_.layout_.group, begin = g * group;
      aim(begin);
      if constexpr (ResumableCode<C>) std::fill(states_.begin(), states_.end(), typename C::State{});
      const std::int64_t segment = q_.segment();
      for (std::int64_t at = 0; at < group; at += segment) {
        const std::int64_t inputs = std::min(segment, group - at);
        choose(g, at, inputs);
        feed_back(begin, at, inputs);
      }
      for (std::int64_t r = 0; r < count_; ++r) fit_scale(g, r);
    }

    // Packs the symbols and completes the errors of the rows. Those of the rotated weights go to `errors`
    // (rows, padded_cols) where it is given.
    std::span<const Error> finish(std::span<std::uint8_t> codes, std::span<Half> scales,
                                  std::span<float> errors = {}) {
      const auto row_codes = static_cast<std::size_t>(q_.layout_.codes_per_row(C::dim));
      const std::size_t row_bytes = codes.size() / static_cast<std::size_t>(count_);
      std::vector<float> left(static_cast<std::size_t>(q_.layout_.padded_cols()));
      for (std::int64_t r = 0; r < count_; ++r) {
        const auto row = static_cast<std::size_t>(r);
        Error& error = row_errors_[row];
        for (std::size_t c = 0; c < left.size(); ++c)
          left[c] = errors_[c * static_cast<std::size_t>(count_) + row];
        // Inputs that hardly speak together gain little or nothing.
        if (error.loss > 0.9 * error.expected_nearest_loss) try_nearest(r, left);
        if (moves_)
          for (std::size_t c = 0; c < left.size(); ++c) left[c] -= moves_[row * left.size() + c];
        if (!errors.empty()) std::ranges::copy(left, errors.begin() + r * std::ssize(left));
        error.squared_error = sum_of_squares(left);
        q_.rows_.finish(left, error);
        pack_bits(std::span<const Symbol>(codes_).subspan(row * row_codes, row_codes), code_bits<C>,
                  codes.subspan(row * row_bytes, row_bytes));
      }
      std::copy(scales_.begin(), scales_.end(), scales.begin());
      return row_errors_;
    }

   private:
    static std::vector<float> values(std::int64_t count) {
      return std::vector<float>(static_cast<std::size_t>(count));
    }
    MatrixView<float> carried() { return {carried_.data(), count_, q_.layout_.group}; }
    MatrixView<float> moved() { return {moved_.data(), count_, q_.layout_.group}; }
    // The errors of inputs [first, first + n) of all rows: (n, rows).
    MatrixView<const float> errors(std::int64_t first, std::int64_t n) const {
      return {errors_.data() + first * count_, n, count_};
    }
    float* points(std::int64_t input) { return points_.data() + input * count_; }

    std::span<const float> weights(std::int64_t r) const {
      const std::int64_t cols = q_.layout_.padded_cols();
      return std::span(w_).subspan(static_cast<std::size_t>(r * cols), static_cast<std::size_t>(cols));
    }

    // Rounds row r without feedback, and keeps that where it leaves less; `left` has the errors of the row.
    void try_nearest(std::int64_t r, std::span<float> left) {
      const auto group = static_cast<std::size_t>(q_.layout_.group);
      const auto each = static_cast<std::size_t>(q_.layout_.codes_per_group(C::dim));
      const auto groups = static_cast<std::size_t>(q_.layout_.groups());
      std::vector<float> scaled(each * static_cast<std::size_t>(dim)), errors(left.size());
      std::vector<Symbol> symbols(groups * each);
      std::vector<Element> points(group);
      std::vector<Half> scales(groups);
      for (std::size_t g = 0; g < groups; ++g) {
        const std::span<const float> x = weights(r).subspan(g * group, group);
        const std::span<Symbol> chosen = std::span(symbols).subspan(g * each, each);
        const double norm = sum_of_squares(x);
        detail::to_fixed_point(q_.book_, x, std::sqrt(norm / static_cast<double>(group)), scaled);
        q_.encoder_.encode(scaled, each, chosen);
        decode_group<C>(q_.book_, chosen, points);
        scales[g] = fit_group_scale(x, std::span<const Element>(points), norm, q_.layout_.scale_format).scale;
        cpu::dispatch(best_isa(), [&](auto set) {
          subtract_scaled(set, x.data(), points.data(), group, static_cast<float>(scales[g]),
                          errors.data() + g * group);
        });
      }
      Error& error = row_errors_[static_cast<std::size_t>(r)];
      const double loss = q_.loss_of(errors);
      if (!(loss < error.loss)) return;
      error.loss = loss;
      error.nearest_rows = 1;
      std::copy(errors.begin(), errors.end(), left.begin());
      std::copy(symbols.begin(), symbols.end(), codes_.begin() + r * std::ssize(symbols));
      std::copy(scales.begin(), scales.end(), scales_.begin() + r * std::ssize(scales));
    }

    // What the errors of all groups before leave to the inputs of a group, and the scales to begin with.
    void aim(std::int64_t begin) {
      const std::int64_t group = q_.layout_.group, part = q_.feedback_.part(), start = begin / part * part;
      std::fill(carried_.begin(), carried_.end(), 0.0f);
      std::fill(moved_.begin(), moved_.end(), 0.0f);
      if (begin > start)
        add_outer_products(
            errors(start, begin - start),
            q_.feedback_.rows(begin / part).row_range(0, begin - start).col_range(begin - start, group),
            carried());
      for (std::int64_t r = 0; r < count_; ++r) {
        take_targets(r, begin, 0, group);
        group_scales_[static_cast<std::size_t>(r)] =
            std::sqrt(sum_of_squares(targets_) / static_cast<double>(group));
      }
    }

    // The targets of inputs [at, at + n) of the group that begins at input `begin`, in row r.
    void take_targets(std::int64_t r, std::int64_t begin, std::int64_t at, std::int64_t n) {
      const float* w = w_.data() + r * q_.layout_.padded_cols() + begin + at;
      const float* carried = carried_.data() + r * q_.layout_.group + at;
      for (std::int64_t i = 0; i < n; ++i) targets_[static_cast<std::size_t>(i)] = w[i] + carried[i];
    }

    // The symbols of a segment in all rows, their coordinates and errors.
    void choose(std::int64_t g, std::int64_t at, std::int64_t inputs) {
      const std::int64_t group = q_.layout_.group, begin = g * group;
      const auto seen = static_cast<std::size_t>(std::min(inputs + ahead, group - at));
      const std::size_t looked = (seen + dim - 1) / dim;  // symbols of a row
      const std::span<float> scaled =
          std::span(scaled_).first(static_cast<std::size_t>(count_) * looked * dim);
      const std::span<Symbol> symbols = std::span(symbols_).first(static_cast<std::size_t>(count_) * looked);
      for (std::int64_t r = 0; r < count_; ++r) {
        const auto row = static_cast<std::size_t>(r);
        take_targets(r, begin, at, static_cast<std::int64_t>(seen));
        const std::span<float> out = scaled.subspan(row * looked * dim, looked * dim);
        detail::to_fixed_point(q_.book_, std::span<const float>(targets_).first(seen), group_scales_[row],
                               out);
        if constexpr (ResumableCode<C>)
          q_.encoder_.chain().go_on(states_[row], out, symbols.subspan(row * looked, looked));
      }
      if constexpr (!ResumableCode<C>) q_.encoder_.encode(scaled, looked, symbols);
      for (std::int64_t r = 0; r < count_; ++r)
        keep(g, r, at, inputs, symbols.subspan(static_cast<std::size_t>(r) * looked, looked));
    }

    // Keeps the symbols of a segment of row r.
    void keep(std::int64_t g, std::int64_t r, std::int64_t at, std::int64_t inputs,
              std::span<const Symbol> symbols) {
      const std::int64_t begin = g * q_.layout_.group;
      const auto row = static_cast<std::size_t>(r);
      const std::span<const Symbol> chosen =
          symbols.first(static_cast<std::size_t>((inputs + dim - 1) / dim));
      const std::span<Element> points = std::span(segment_points_).first(static_cast<std::size_t>(inputs));
      if constexpr (ResumableCode<C>)
        q_.book_.decode(states_[row], chosen, points);
      else
        decode_group<C>(q_.book_, chosen, points);
      const std::int64_t first =
          r * q_.layout_.codes_per_row(C::dim) + g * q_.layout_.codes_per_group(C::dim);
      std::copy(chosen.begin(), chosen.end(), codes_.begin() + first + at / dim);
      const auto step = static_cast<double>(static_cast<float>(group_scales_[row] * q_.book_.step()));
      const float* w = weights(r).data() + begin + at;
      for (std::int64_t i = 0; i < inputs; ++i) {
        const auto point = static_cast<float>(points[static_cast<std::size_t>(i)]);
        this->points(at + i)[r] = point;
        errors_[static_cast<std::size_t>((begin + at + i) * count_ + r)] =
            static_cast<float>(static_cast<double>(w[i]) - step * static_cast<double>(point));
      }
    }

    // What the errors of a segment leave to its own inputs and to those behind it, and what its coordinates move there.
    void feed_back(std::int64_t begin, std::int64_t at, std::int64_t inputs) {
      const std::int64_t rest = q_.layout_.group - at, part = q_.feedback_.part();
      const MatrixView<const float> factors = q_.feedback_.rows(begin / part)
                                                  .row_range(begin % part + at, inputs)
                                                  .col_range(begin % part + at, rest);
      add_outer_products(MatrixView<const float>(points(at), inputs, count_), factors,
                         moved().col_range(at, rest));
      add_outer_products(errors(begin + at, inputs), factors, carried().col_range(at, rest));
    }

    // The scale of the group that leaves the least loss: with another scale, `carried` changes by (step - scale) * moved.
    // Products of two floats are exact in double, so no compiler's contraction changes a bit.
    void fit_scale(std::int64_t g, std::int64_t r) {
      const std::int64_t group = q_.layout_.group, begin = g * group;
      const auto row = static_cast<std::size_t>(r);
      const auto step = static_cast<double>(static_cast<float>(group_scales_[row] * q_.book_.step()));
      float* carried = carried_.data() + r * group;
      const float* moved = moved_.data() + r * group;
      const float* d = q_.feedback_.d().data() + begin;
      double product = 0, norm = 0;
      for (std::int64_t i = 0; i < group; ++i) {
        carried[i] =
            static_cast<float>(static_cast<double>(carried[i]) + step * static_cast<double>(moved[i]));
        const auto weighted = static_cast<double>(d[i] * moved[i]);
        product += weighted * static_cast<double>(carried[i]);
        norm += weighted * static_cast<double>(moved[i]);
      }
      const Half fitted = detail::fit_of_sums(product, norm, 0, q_.layout_.scale_format).scale;
      scales_[static_cast<std::size_t>(r * q_.layout_.groups() + g)] = fitted;
      const auto scale = static_cast<double>(static_cast<float>(fitted));
      double loss = 0;
      for (std::int64_t i = 0; i < group; ++i) {
        const auto left =
            static_cast<float>(static_cast<double>(carried[i]) - scale * static_cast<double>(moved[i]));
        loss += static_cast<double>(d[i] * left) * static_cast<double>(left);
        errors_[static_cast<std::size_t>((begin + i) * count_ + r)] =
            static_cast<float>(static_cast<double>(weights(r)[static_cast<std::size_t>(begin + i)]) -
                               scale * static_cast<double>(points(i)[r]));
      }
      row_errors_[row].loss += loss;
    }

    const FeedbackQuantizer& q_;
    std::int64_t count_;            // rows
    std::vector<float> w_;          // (rows, padded_cols): rotated weights, moved
    const float* moves_ = nullptr;  // (rows, padded_cols), or none
    std::vector<float> errors_;     // (padded_cols, rows): w - scale * coordinate
    std::vector<float> carried_;    // (rows, group): errors of inputs up to each one, times the factors
    std::vector<float> moved_;      // (rows, group): coordinates of the group, times the factors
    std::vector<float> targets_;    // (group): of one row
    std::vector<float> points_;     // (group, rows): coordinates
    std::vector<Element> segment_points_;  // (segment)
    std::vector<float> scaled_;            // fixed point of a segment and what is ahead
    std::vector<Symbol> symbols_;
    std::vector<Symbol> codes_;  // (rows, codes_per_row)
    std::vector<double> group_scales_;
    std::vector<Half> scales_;  // (rows, groups)
    std::vector<Error> row_errors_;
    struct None {};
    template <class T>
    struct StateOf {
      using type = None;
    };
    template <ResumableCode T>
    struct StateOf<T> {
      using type = typename T::State;
    };
    std::vector<typename StateOf<C>::type> states_;  // (rows)
  };

  // e H' e^T of one row.
  double loss_of(std::span<const float> e) const {
    double loss = 0;
    std::vector<float> carried(static_cast<std::size_t>(feedback_.part()));
    for (std::int64_t i = 0; i < feedback_.parts(); ++i) {
      const MatrixView<const float> u = feedback_.rows(i);
      std::fill(carried.begin(), carried.end(), 0.0f);
      add_outer_products(MatrixView<const float>(e.data() + i * feedback_.part(), u.rows, 1), u,
                         MatrixView<float>(carried.data(), 1, u.cols));
      const float* d = feedback_.d().data() + i * feedback_.part();
      for (std::int64_t k = 0; k < u.cols; ++k) {
        const float value = carried[static_cast<std::size_t>(k)];
        loss += static_cast<double>(d[k] * value) * static_cast<double>(value);
      }
    }
    return loss;
  }

  // Rounds rows [first, first + count) of w. The codes, scales, moves and errors are those of all rows; the last two may be
  // empty.
  template <class T>
  std::vector<Error> round(MatrixView<T> w, std::int64_t first, std::int64_t count,
                           std::span<std::uint8_t> codes, std::span<Half> scales,
                           MatrixView<const float> moves, std::span<float> errors) const {
    const auto part_of = [&](auto all) {
      const auto each = all.size() / static_cast<std::size_t>(w.rows);
      return all.subspan(static_cast<std::size_t>(first) * each, static_cast<std::size_t>(count) * each);
    };
    Batch batch(*this, count);
    batch.load(w.row_range(first, count));
    if (moves.rows > 0) batch.move(moves);
    for (std::int64_t g = 0; g < layout_.groups(); ++g) batch.round_group(g);
    const std::span<const Error> found = batch.finish(part_of(codes), part_of(scales), part_of(errors));
    return {found.begin(), found.end()};
  }

  // What the errors of all rows before leave to the rows [first, first + count): moves (count, padded_cols). Errors of these
  // rows are not known, but their means are: a moved row misses its weights by what it was moved.
  static void move_rows(const Feedback& outputs, std::span<const float> errors, std::int64_t first,
                        MatrixView<float> moves, Executor& executor) {
    const std::int64_t part = outputs.part(), start = first / part * part, cols = moves.cols;
    const MatrixView<const float> v = outputs.rows(first / part).col_range(first - start, moves.rows);
    std::fill_n(moves.data, moves.size(), 0.0f);
    if (first > start)
      add_outer_products(v.row_range(0, first - start),
                         MatrixView<const float>(errors.data() + start * cols, first - start, cols), moves,
                         executor);
    for (std::int64_t i = 1; i < moves.rows; ++i)
      for (std::int64_t j = 0; j < i; ++j) {
        const float factor = -v(first - start + j, i);
        for (std::int64_t c = 0; c < cols; ++c) moves(i, c) = std::fma(factor, moves(j, c), moves(i, c));
      }
  }

  C book_;
  Encoder<C> encoder_;
  CodeLayout layout_;
  detail::RotatedRows rows_;
  const Feedback& feedback_;
  std::optional<RowQuantizer<C>> nearest_;  // where no error costs anything
};

#if HIGGS_DEFINITIONS

template <Code C>
template <class T>
typename FeedbackQuantizer<C>::Error FeedbackQuantizer<C>::quantize_rows(MatrixView<T> w,
                                                                         std::span<std::uint8_t> codes,
                                                                         std::span<Half> scales,
                                                                         Executor& executor) const {
  if constexpr (!detail::is_scalar<T>) {
    return quantize_rows(detail::as_scalars(w), codes, scales, executor);
  } else {
    if (nearest_) return {nearest_->quantize_rows(w, codes, scales, executor), 0, 0, w.rows};
    detail::expect_rows("higgs::FeedbackQuantizer", w, layout_, layout_.row_bytes(C::dim, code_bits<C>),
                        codes.size(), scales.size());
    const std::int64_t tasks = (w.rows + rows_together - 1) / rows_together;
    std::vector<Error> errors(static_cast<std::size_t>(tasks));
    executor.run(tasks, [&](std::int64_t task) {
      const std::int64_t first = task * rows_together, count = std::min(rows_together, w.rows - first);
      for (const Error& each : round(w, first, count, codes, scales, {}, {}))
        errors[static_cast<std::size_t>(task)] += each;
    });
    Error total;
    for (const Error& each : errors) total += each;
    return total;
  }
}

template <Code C>
template <class T>
typename FeedbackQuantizer<C>::Error FeedbackQuantizer<C>::quantize_matrix(MatrixView<T> w,
                                                                           const Feedback& outputs,
                                                                           std::span<std::uint8_t> codes,
                                                                           std::span<Half> scales,
                                                                           Executor& executor) const {
  if constexpr (!detail::is_scalar<T>) {
    return quantize_matrix(detail::as_scalars(w), outputs, codes, scales, executor);
  } else {
    expects(outputs.cols() == w.rows, [&] {
      return detail::sentence("higgs::FeedbackQuantizer: the feedback is of ", outputs.cols(),
                              " outputs, but the matrix has ", w.rows, " rows");
    });
    if (nearest_ || outputs.empty()) return quantize_rows(w, codes, scales, executor);
    detail::expect_rows("higgs::FeedbackQuantizer", w, layout_, layout_.row_bytes(C::dim, code_bits<C>),
                        codes.size(), scales.size());
    const std::int64_t cols = layout_.padded_cols(), part = outputs.part();
    const std::vector<double> nearest = outputs.costs(), costs = outputs.costs(rows_of_step);
    std::vector<float> errors(static_cast<std::size_t>(w.rows * cols)),
        moves(static_cast<std::size_t>(rows_of_step * cols));
    std::vector<Error> rows(static_cast<std::size_t>(w.rows));
    for (std::int64_t first = 0, count; first < w.rows; first += count) {
      count = std::min({rows_of_step, w.rows - first, part - first % part});
      const MatrixView<float> moved(moves.data(), count, cols);
      move_rows(outputs, errors, first, moved, executor);
      executor.run((count + rows_of_task - 1) / rows_of_task, [&](std::int64_t task) {
        const std::int64_t begin = task * rows_of_task, each = std::min(rows_of_task, count - begin);
        std::ranges::copy(
            round(w, first + begin, each, codes, scales, moved.row_range(begin, each), std::span(errors)),
            rows.begin() + first + begin);
      });
    }
    Error total;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i].loss *= costs[i] / outputs.mean_cost();
      rows[i].expected_nearest_loss *= nearest[i] / outputs.mean_cost();
      total += rows[i];
    }
    return total;
  }
}

#endif

}  // namespace v0
}  // namespace higgs
