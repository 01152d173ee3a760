// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/reference.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "matrices.hpp"

using higgs::Isa;
using higgs::MatrixView;

namespace {

// RMS difference of a product to the definition, in units of what products of N(0, 1) numbers measure: sqrt(cols).
template <class T, class Book>
double relative_error(MatrixView<const T> x, const higgs::QuantizedMatrix<Book>& w, MatrixView<const float> y) {
  std::vector<double> exact(static_cast<std::size_t>(x.rows * w.rows()));
  higgs::matmul_reference(x, w, MatrixView<double>(exact.data(), x.rows, w.rows()));
  double error = 0;
  for (std::int64_t i = 0; i < y.rows; ++i)
    for (std::int64_t j = 0; j < y.cols; ++j)
      error += std::pow(static_cast<double>(y(i, j)) - exact[static_cast<std::size_t>(i * w.rows() + j)], 2);
  return std::sqrt(error / static_cast<double>(y.size() * x.cols));
}

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

}  // namespace

TEST_CASE("the product equals the reference for every codebook, edge shape and instruction set", "[matmul][matmul]") {
  for_each_book(higgs::ShippedCodebooks{}, [](const auto& book) {
    for (const std::int64_t cols : {1, 5, 33, 100, 384, 577, 1536})
      for (const std::int64_t rows : {1, 19, 129}) {  // the last with input scales
        const Normals w(rows, cols, 1);
        const auto quantized = higgs::quantize(w.view, book, {.group = 96});
        for (const std::int64_t batch : {1, 3, 9}) {
          const Normals x(batch, cols, 2);
          std::vector<float> y(static_cast<std::size_t>(batch * rows));
          const MatrixView<float> out(y.data(), batch, rows);
          for (const Isa isa : {Isa::Portable, Isa::Avx2, Isa::Avx512}) {
            if (isa > higgs::best_isa()) continue;
            higgs::matmul(x.view, quantized, out, {}, higgs::default_executor(), isa);
            INFO(book.name() << " " << batch << " x " << cols << " x " << rows);
            REQUIRE(relative_error<float>(x.view, quantized, out) < 1e-6);  // float sums of 1536 terms
          }
        }
      }
  });
}

TEST_CASE("a row's bits depend neither on its batch nor on the number of threads", "[matmul][matmul]") {
  const Normals w(130, 576, 3), x(20, 576, 4);
  const auto quantized = higgs::Quantizer<2, 256>{}.quantize(w.view);
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  std::vector<float> whole(20 * 130), one(130);
  higgs::matmul(x.view, quantized, MatrixView<float>(whole.data(), 20, 130), {}, pool);
  for (std::int64_t i = 0; i < 20; ++i) {
    higgs::matmul(x.view.row_range(i, 1), quantized, MatrixView<float>(one.data(), 1, 130), {}, serial);
    REQUIRE(std::memcmp(one.data(), whole.data() + i * 130, sizeof(float) * 130) == 0);
  }
}

TEST_CASE("bias, 16-bit types and strides", "[matmul][matmul]") {
  const Normals w(40, 128, 5);
  const auto quantized = higgs::Quantizer<1, 16>{}.quantize(w.view);
  const Normals<higgs::Half> x(6, 128, 6);
  std::vector<float> plain(6 * 40), bias(40), wide(x.data.size());
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(x.data[i]);
  higgs::matmul(MatrixView<float>(wide.data(), 6, 128), quantized, MatrixView<float>(plain.data(), 6, 40));

  std::vector<float> transposed(6 * 40);
  higgs::matmul(x.view, quantized, MatrixView<float>(transposed.data(), 40, 6).transposed(), bias);
  std::vector<higgs::BFloat16> narrow(6 * 40);
  higgs::matmul(x.view, higgs::AnyQuantizedMatrix(quantized), MatrixView<higgs::BFloat16>(narrow.data(), 6, 40));
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t j = 0; j < 40; ++j) {
      REQUIRE(transposed[j * 6 + i] == plain[i * 40 + j] + bias[j]);
      REQUIRE(narrow[i * 40 + j] == higgs::BFloat16(plain[i * 40 + j]));
    }
}

TEST_CASE("an empty batch is a product too, and shapes that do not meet are refused", "[matmul][matmul]") {
  const Normals w(8, 64, 7), x(2, 64, 8);
  const auto quantized = higgs::Quantizer<2, 16>{}.quantize(w.view);
  std::vector<float> y(16), bias(7);
  CHECK_NOTHROW(higgs::matmul(x.view.row_range(0, 0), quantized, MatrixView<float>(y.data(), 0, 8)));
  const MatrixView<float> out(y.data(), 2, 8);
  CHECK_THROWS_AS(higgs::matmul(x.view.col_range(0, 63), quantized, out), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, quantized, out.transposed()), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, quantized, out, bias), higgs::InvalidArgument);
}
