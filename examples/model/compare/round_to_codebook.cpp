// SPDX-License-Identifier: Apache-2.0
#include "compare/round_to_codebook.hpp"

#include <higgs/codes/grid/tables/2x1024.hpp>
#include <higgs/codes/grid/tables/2x4096.hpp>
#include <higgs/codes/grid/tables/3x4096.hpp>
#include <higgs/codes/grid/tables/4x4096.hpp>
#include <higgs/codes/grid/tables/6x4096.hpp>
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/radix/code.hpp>
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/core/error.hpp>
#include <higgs/matmul/decode.hpp>

#include <type_traits>

namespace higgs::model {

namespace {

using FurtherCodebooks =
    TypeList<GridCodebook<4, 16>, GridCodebook<8, 256>, GridCodebook<3, 64>, GridCodebook<3, 512>,
             GridCodebook<3, 4096>, GridCodebook<4, 4096>, GridCodebook<6, 4096>, GridCodebook<2, 1024>,
             GridCodebook<2, 4096>, GridCodebook<1, 2>, RadixCodebook<GridCodebook<1, 3>, 20>,
             GridCodebook<1, 32>, GridCodebook<1, 64>, GridCodebook<1, 128>, NestedE8Codebook<2>,
             NestedE8Codebook<3>, NestedE8Codebook<4>, RadixCodebook<GridCodebook<2, 23>, 7>,
             RadixCodebook<GridCodebook<2, 40>, 6>, RadixCodebook<GridCodebook<2, 84>, 5>, UniformCodebook<2>,
             UniformCodebook<3>, UniformCodebook<4>, UniformCodebook<5>, UniformCodebook<6>,
             UniformCodebook<7>>;

}  // namespace

std::vector<std::string> further_codebook_names() { return detail::names_of(FurtherCodebooks{}); }

RoundedMatrix round_to_codebook(MatrixView<const float> w, std::string_view codebook,
                                const QuantizeOptions& options, Executor& executor) {
  RoundedMatrix out{.weight = Matrix(w.rows, w.cols)};
  const auto round = [&]<class Book>(std::type_identity<Book>) {
    const QuantizedMatrix<Book> quantized = quantize(w, Book{}, options, executor);
    dequantize(quantized, out.weight.view(), executor);
    out.bits = quantized.bits_per_weight();
    out.t2 = quantized.t2;
    out.weight_error = quantized.weight_error;
  };
  expects(detail::visit_code_named(codebook, round, FurtherCodebooks{}),
          "higgs::model::round_to_codebook: there is no such codebook");
  return out;
}

}  // namespace higgs::model
