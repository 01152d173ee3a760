// SPDX-License-Identifier: Apache-2.0
// Rounds the rows of a matrix so that their weights err least, whatever the inputs are.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/encoder.hpp>
#include <higgs/pack/bits.hpp>
#include <higgs/round/rotated_rows.hpp>
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

/// Quantizes rows of one matrix, a few or all at a time, so that a matrix may stream through bounded memory. The bytes
/// depend on the row and the arguments alone: the same bits on every machine, for any split and number of threads.
/// Input scales and exponent come from make_normalization(), or from the caller: layers that share their input, such as
/// q, k and v, may share input scales.
template <Code C>
class RowQuantizer {
 public:
  using Error = RoundingError;

  /// `input_scales`: (cols) finite values where the layout has input scales, else empty.
  RowQuantizer(const C& code, const CodeLayout& layout, std::optional<std::uint64_t> seed, int exponent,
               std::span<const Half> input_scales = {}, int scale_search = 0)
      : book_(code),
        encoder_(code),
        layout_(layout),
        rows_(layout, seed, exponent, input_scales),
        scale_search_(scale_search) {}

  /// Quantizes `w` (n, cols) into `codes` (n, row_bytes) and `scales` (n, groups). Weights must be finite.
  template <class T>
  Error quantize_rows(MatrixView<T> w, std::span<std::uint8_t> codes, std::span<Half> scales,
                      Executor& executor = default_executor()) const;

 private:
  template <class T>
  Error quantize_scalars(MatrixView<T> w, std::span<std::uint8_t> codes, std::span<Half> scales,
                         Executor& executor) const {
    const auto groups = static_cast<std::size_t>(layout_.groups());
    const auto row_bytes = static_cast<std::size_t>(layout_.row_bytes(C::dim, code_bits<C>));
    const auto rows = static_cast<std::size_t>(w.rows);
    detail::expect_rows("higgs::RowQuantizer", w, layout_, static_cast<std::int64_t>(row_bytes), codes.size(),
                        scales.size());
    std::vector<Error> errors(rows);
    const std::int64_t grain = std::max<std::int64_t>(1, 32768 / layout_.padded_cols());
    parallel_for(executor, w.rows, grain, [&](std::int64_t begin, std::int64_t end) {
      Workspace space(layout_);
      for (std::int64_t r = begin; r < end; ++r) {
        const auto row = static_cast<std::size_t>(r);
        errors[row] = quantize_row(w.row_range(r, 1), codes.subspan(row * row_bytes, row_bytes),
                                   scales.subspan(row * groups, groups), space);
      }
    });
    Error total;
    for (const Error& each : errors) total += each;
    return total;
  }

  using Symbol = SymbolOf<C>;

  struct Workspace {
    explicit Workspace(const CodeLayout& layout)
        : row(static_cast<std::size_t>(layout.padded_cols())),
          scaled(static_cast<std::size_t>(layout.codes_per_row(C::dim) * C::dim)),
          points(static_cast<std::size_t>(layout.group)),
          codes(static_cast<std::size_t>(layout.codes_per_row(C::dim))),
          trial(static_cast<std::size_t>(layout.codes_per_group(C::dim))),
          norms(static_cast<std::size_t>(layout.groups())),
          errors(row.size()) {}
    std::vector<float> row;                   // (padded_cols)
    std::vector<float> scaled;                // (codes_per_row * dim): fixed point, whole symbols
    std::vector<typename C::Element> points;  // (group): coordinates
    std::vector<Symbol> codes;                // (codes_per_row)
    std::vector<Symbol> trial;                // (codes_per_group)
    std::vector<double> norms;                // (groups): sums of squares
    std::vector<float> errors;                // (padded_cols): what the codes leave of `row`
  };

  template <class T>
  Error quantize_row(MatrixView<T> w, std::span<std::uint8_t> codes, std::span<Half> scales,
                     Workspace& space) const {
    Error error;
    rows_.rotate(w, space.row, error);
    const auto group = static_cast<std::size_t>(layout_.group);
    const auto codes_each = static_cast<std::size_t>(layout_.codes_per_group(C::dim));
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const std::span<const float> x(space.row.data() + g * group, group);
      space.norms[g] = sum_of_squares(x);
      detail::to_fixed_point(book_, x, std::sqrt(space.norms[g] / static_cast<double>(group)),
                             std::span(space.scaled).subspan(g * codes_each * C::dim, codes_each * C::dim));
    }
    encoder_.encode(space.scaled, codes_each, space.codes);
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const std::span<const float> x(space.row.data() + g * group, group);
      const std::span<Symbol> chosen = std::span(space.codes).subspan(g * codes_each, codes_each);
      decode_group<C>(book_, chosen, space.points);
      GroupFit fit = fit_group_scale(x, std::span<const typename C::Element>(space.points), space.norms[g],
                                     layout_.scale_format);
      if (scale_search_ > 0) search_scale(x, space.norms[g], chosen, fit, space);
      scales[g] = fit.scale;
      error.squared_error += fit.squared_error;
      error.squared_norm += space.norms[g];
      if (rows_.keeps_errors()) continue;
      if (scale_search_ > 0) decode_group<C>(book_, chosen, space.points);
      cpu::dispatch(best_isa(), [&](auto set) {
        subtract_scaled(set, x.data(), space.points.data(), x.size(), static_cast<float>(fit.scale),
                        space.errors.data() + g * group);
      });
    }
    pack_bits(std::span<const Symbol>(space.codes), code_bits<C>, codes);
    rows_.finish(space.errors, error);
    return error;
  }

  // Encodes a group anew with scales around its RMS; keeps the codes and the fit that err least.
  void search_scale(std::span<const float> x, double norm, std::span<Symbol> codes, GroupFit& best,
                    Workspace& space) const noexcept {
    const double rms = std::sqrt(norm / static_cast<double>(x.size()));
    const std::span<float> scaled =
        std::span(space.scaled).first(codes.size() * C::dim);  // free once the row is encoded
    for (int step = -scale_search_; step <= scale_search_; ++step) {
      if (step == 0) continue;
      detail::to_fixed_point(book_, x, rms * detail::scale_ladder(step), scaled);
      encoder_.encode(scaled, codes.size(), space.trial);
      decode_group<C>(book_, space.trial, space.points);
      const GroupFit fit = fit_group_scale(
          x, std::span<const typename C::Element>(space.points.data(), x.size()), norm, layout_.scale_format);
      if (!(fit.squared_error < best.squared_error)) continue;
      best = fit;
      std::copy(space.trial.begin(), space.trial.end(), codes.begin());
    }
  }

  C book_;
  Encoder<C> encoder_;
  CodeLayout layout_;
  detail::RotatedRows rows_;
  int scale_search_;
};

#if HIGGS_DEFINITIONS

template <Code C>
template <class T>
typename RowQuantizer<C>::Error RowQuantizer<C>::quantize_rows(MatrixView<T> w, std::span<std::uint8_t> codes,
                                                               std::span<Half> scales,
                                                               Executor& executor) const {
  if constexpr (!detail::is_scalar<T>)
    return quantize_rows(detail::as_scalars(w), codes, scales, executor);
  else
    return quantize_scalars(w, codes, scales, executor);
}

#endif

}  // namespace v0
}  // namespace higgs
