// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/decode.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/round/row_quantizer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "matmul/matrices.hpp"

using higgs::MatrixView;

TEST_CASE("the bytes do not depend on how rows are streamed", "[round]") {
  const Normals w(137, 576, 7);
  const auto expected = higgs::Quantizer<2, 64>{}.quantize(w.view);
  const higgs::RowQuantizer<higgs::GridCodebook<2, 64>> rows({}, expected.layout, expected.seed,
                                                             expected.exponent, expected.input_scales);
  std::vector<std::uint8_t> codes(expected.codes.size());
  std::vector<higgs::Half> scales(expected.scales.size());
  higgs::RowQuantizer<higgs::GridCodebook<2, 64>>::Error error;
  for (std::int64_t first = 0; first < 137; first += 5) {
    const std::int64_t count = std::min<std::int64_t>(5, 137 - first), groups = expected.layout.groups();
    error +=
        rows.quantize_rows(w.view.row_range(first, count),
                           std::span(codes).subspan(static_cast<std::size_t>(first * expected.row_bytes()),
                                                    static_cast<std::size_t>(count * expected.row_bytes())),
                           std::span(scales).subspan(static_cast<std::size_t>(first * groups),
                                                     static_cast<std::size_t>(count * groups)));
  }
  CHECK(std::ranges::equal(codes, expected.codes));
  CHECK(std::ranges::equal(scales, expected.scales));
  CHECK(error.t2() == Approx(expected.t2).epsilon(1e-12));
  CHECK(error.weight_error() == Approx(expected.weight_error).epsilon(1e-12));
}

TEST_CASE("rows take the input scales that the layout promises, and no others", "[round]") {
  const higgs::CodeLayout layout = higgs::make_layout(higgs::min_rows_for_input_scales, 64, 2);
  using Rows = higgs::RowQuantizer<higgs::GridCodebook<2, 256>>;
  const std::vector<higgs::Half> scales(64, higgs::Half(1.0f));
  CHECK_NOTHROW(Rows({}, layout, 1, 0, scales));
  CHECK_THROWS_AS(Rows({}, layout, 1, 0), higgs::InvalidArgument);
  CHECK_THROWS_AS(Rows({}, higgs::make_layout(4, 64, 2), 1, 0, scales), higgs::InvalidArgument);
}

TEST_CASE("columns that a caller's input scales of 0 take away count as lost", "[round]") {
  const Normals w(130, 64, 5);
  const higgs::CodeLayout layout = higgs::make_layout(130, 64, 2);
  std::vector<higgs::Half> scales(64, higgs::Half(1.0f));
  scales[7] = scales[40] = higgs::Half(0.0f);
  const higgs::GridCodebook<2, 256> book;
  const higgs::RowQuantizer rows(book, layout, 1, -14, scales);
  higgs::QuantizedMatrix<higgs::GridCodebook<2, 256>> out;
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(130 * layout.row_bytes(2, 8)));
  std::vector<higgs::Half> group_scales(static_cast<std::size_t>(130 * layout.groups()));
  const double error = rows.quantize_rows(w.view, codes, group_scales).weight_error();
  out.layout = layout;
  out.seed = 1;
  out.exponent = -14;
  out.codes = codes;
  out.scales = group_scales;
  out.input_scales = scales;
  std::vector<float> back(w.data.size());
  higgs::dequantize(out, MatrixView<float>(back.data(), 130, 64));
  double left = 0, norm = 0;
  for (std::size_t i = 0; i < back.size(); ++i) {
    const double d = double{back[i]} - double{w.data[i]};
    left += d * d;
    norm += double{w.data[i]} * double{w.data[i]};
  }
  CHECK(error == Approx(left / norm).epsilon(1e-4));
  CHECK(error > 1.5 / 64);
}
