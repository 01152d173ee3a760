// SPDX-License-Identifier: Apache-2.0
#include "quantize/round_matrix.hpp"

#include <higgs/codes/registry.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/round/feedback_quantizer.hpp>

#include <cmath>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs::model {
namespace {

struct Storage {
  std::vector<std::uint8_t> codes;
  std::vector<Half> scales;
  std::vector<Half> input_scales;
};

template <class Book>
RoundedMatrix round_with(MatrixView<const float> w, const CodeLayout& layout,
                         std::optional<std::uint64_t> seed, double max_magnitude,
                         std::span<const Half> input_scales, const Feedback& feedback,
                         const Feedback* outputs, Executor& executor) {
  QuantizedMatrix<Book> out;
  out.layout = layout;
  out.seed = seed;
  out.exponent = scale_exponent(max_magnitude, layout, out.book.step());
  auto storage = std::make_shared<Storage>();
  storage->codes.resize(static_cast<std::size_t>(w.rows * out.row_bytes()));
  storage->scales.resize(static_cast<std::size_t>(w.rows * layout.groups()));
  storage->input_scales.assign(input_scales.begin(), input_scales.end());
  const FeedbackQuantizer<Book> quantizer(out.book, layout, seed, out.exponent, input_scales, feedback);
  const auto error = outputs
                         ? quantizer.quantize_matrix(w, *outputs, storage->codes, storage->scales, executor)
                         : quantizer.quantize_rows(w, storage->codes, storage->scales, executor);
  out.t2 = error.t2();
  out.weight_error = error.weight_error();
  out.codes = storage->codes;
  out.scales = storage->scales;
  out.input_scales = storage->input_scales;
  out.owner = std::move(storage);
  const int exponent = 2 * out.exponent;
  return {std::move(out), std::ldexp(error.loss, exponent), std::ldexp(error.expected_nearest_loss, exponent),
          error.nearest_rows};
}

}  // namespace

RoundedMatrix round_matrix(MatrixView<const float> w, std::string_view codebook, const CodeLayout& layout,
                           std::optional<std::uint64_t> seed, const ColumnStatistics& columns,
                           std::span<const Half> input_scales, const Feedback& feedback,
                           const Feedback* outputs, Executor& executor) {
  const double most = layout.input_scales ? columns.max_magnitude(input_scales)
                                          : static_cast<double>(columns.max_magnitude());
  RoundedMatrix out;
  with_shipped_code(codebook, [&]<class Book>(std::type_identity<Book>) {
    out = round_with<Book>(w, layout, seed, most, input_scales, feedback, outputs, executor);
  });
  return out;
}

}  // namespace higgs::model
