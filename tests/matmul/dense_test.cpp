// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/matmul/dense.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/sets.hpp"

using higgs::Isa;
using higgs::MatrixView;

namespace {

std::vector<float> normals(std::int64_t count, std::uint64_t seed) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(higgs::random_normal(seed, i));
  return out;
}

}  // namespace

TEST_CASE("the dense product equals sums in double for every edge shape and instruction set",
          "[matmul][dense]") {
  higgs::ThreadPool pool(3);
  for (const Isa isa : all_isas())
    for (const std::int64_t m : {0, 1, 2, 3, 4, 5, 6, 7, 13, 97})
      for (const std::int64_t n : {1, 2, 3, 4, 5, 67})
        for (const std::int64_t k : {1, 7, 8, 9, 15, 16, 17, 33, 1030}) {
          const auto x = normals(m * (k + 3), 1), w = normals(n * (k + 1), 2);
          std::vector<float> y(static_cast<std::size_t>(m * (n + 2)), 777.0f);
          higgs::matmul(MatrixView<const float>(x.data(), m, k, k + 3),
                        MatrixView<const float>(w.data(), n, k, k + 1),
                        MatrixView<float>(y.data(), m, n, n + 2), pool, isa);
          for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < n; ++j) {
              double sum = 0, magnitude = 0;
              for (std::int64_t l = 0; l < k; ++l) {
                const double product = double{x[static_cast<std::size_t>(i * (k + 3) + l)]} *
                                       double{w[static_cast<std::size_t>(j * (k + 1) + l)]};
                sum += product;
                magnitude += std::fabs(product);
              }
              // A float sum of k terms errs by at most k/2 ulp of the sum of magnitudes.
              REQUIRE(std::fabs(double{y[static_cast<std::size_t>(i * (n + 2) + j)]} - sum) <=
                      static_cast<double>(k + 1) * 0x1p-24 * magnitude);
            }
            for (std::int64_t j = n; j < n + 2; ++j)
              REQUIRE(y[static_cast<std::size_t>(i * (n + 2) + j)] == 777.0f);
          }
        }
}

TEST_CASE("a row's bits depend neither on the batch, nor on other outputs, nor on threads",
          "[matmul][dense]") {
  const std::int64_t m = 101, n = 131, k = 1500;
  const auto x = normals(m * k, 3), w = normals(n * k, 4);
  higgs::ThreadPool pool(3);
  higgs::SerialExecutor serial;
  for (const Isa isa : all_isas()) {
    std::vector<float> whole(static_cast<std::size_t>(m * n)), part(whole.size());
    higgs::matmul(MatrixView<const float>(x.data(), m, k), MatrixView<const float>(w.data(), n, k),
                  MatrixView<float>(whole.data(), m, n), pool, isa);
    for (const std::int64_t rows : {1, 2, 5, 64}) {
      for (std::int64_t i = 0; i < m; i += rows) {
        const std::int64_t count = std::min(rows, m - i);
        higgs::matmul(MatrixView<const float>(x.data() + i * k, count, k),
                      MatrixView<const float>(w.data(), n, k),
                      MatrixView<float>(part.data() + i * n, count, n), serial, isa);
      }
      REQUIRE(std::memcmp(whole.data(), part.data(), whole.size() * sizeof(float)) == 0);
    }
    for (const std::int64_t cols : {1, 3, 50})
      for (std::int64_t j = 0; j < n; j += cols) {
        const std::int64_t count = std::min(cols, n - j);
        higgs::matmul(MatrixView<const float>(x.data(), m, k),
                      MatrixView<const float>(w.data() + j * k, count, k),
                      MatrixView<float>(part.data() + j, m, count, n), serial, isa);
      }
    REQUIRE(std::memcmp(whole.data(), part.data(), whole.size() * sizeof(float)) == 0);
  }
}

TEMPLATE_TEST_CASE("weights of 16 bits give the bits of the same weights as floats", "[matmul][dense]",
                   higgs::Half, higgs::BFloat16) {
  for (const std::int64_t m : {1, 3, 8})
    for (const std::int64_t k : {1, 15, 64, 1041}) {
      const std::int64_t n = 7;
      const auto x = normals(m * k, 5), floats = normals(n * k, 6);
      std::vector<TestType> w;
      for (const float value : floats) w.push_back(static_cast<TestType>(value));
      std::vector<float> same(w.size()), y(static_cast<std::size_t>(m * n)), expected(y.size());
      higgs::to_floats(w.data(), std::ssize(w), same.data());
      for (const Isa isa : all_isas()) {
        higgs::matmul(MatrixView<const float>(x.data(), m, k), MatrixView<const TestType>(w.data(), n, k),
                      MatrixView<float>(y.data(), m, n), higgs::default_executor(), isa);
        higgs::matmul(MatrixView<const float>(x.data(), m, k), MatrixView<const float>(same.data(), n, k),
                      MatrixView<float>(expected.data(), m, n), higgs::default_executor(), isa);
        REQUIRE(y == expected);
      }
    }
}

TEST_CASE("shapes that do not meet are refused", "[matmul][dense]") {
  std::vector<float> a(64), b(64);
  const MatrixView<const float> x(a.data(), 4, 8), w(a.data(), 5, 8), narrow(a.data(), 5, 7);
  CHECK_THROWS_AS(higgs::matmul(x, narrow, MatrixView<float>(b.data(), 4, 5)), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x, w, MatrixView<float>(b.data(), 5, 4)), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.transposed(), w, MatrixView<float>(b.data(), 8, 5)),
                  higgs::InvalidArgument);
}
