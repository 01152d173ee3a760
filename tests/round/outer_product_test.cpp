// SPDX-License-Identifier: Apache-2.0
#include <higgs/round/outer_product.hpp>

#include <catch2/catch.hpp>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cpu/sets.hpp"
#include "round/inputs.hpp"

using namespace higgs;

namespace {

// The definition; `upper`: only outputs on and above the diagonal.
void add_plainly(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> c,
                 bool upper = false) {
  for (std::int64_t i = 0; i < c.rows; ++i)
    for (std::int64_t j = upper ? i : 0; j < c.cols; ++j)
      for (std::int64_t t = 0; t < a.rows; ++t) c(i, j) = std::fma(a(t, i), b(t, j), c(i, j));
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return false;
  return a.size() == b.size();
}

struct Shape {
  std::int64_t k, m, n;
};
// Tiles of every set whole and in part, several blocks in each direction, and stretches beyond one block's depth.
constexpr Shape shapes[] = {{0, 3, 5},   {1, 1, 1},   {3, 12, 32},  {16, 64, 96},  {5, 13, 33},
                            {7, 5, 100}, {2, 31, 17}, {257, 13, 9}, {513, 25, 40}, {2, 200, 530}};

}  // namespace

TEST_CASE("outputs are one chain of fused multiply-adds each, on every instruction set",
          "[round][outer_product]") {
  for (const auto [k, m, n] : shapes) {
    const std::vector<float> a = normals(k * m, 1), b = normals(k * n, 2), start = normals(m * n, 3);
    std::vector<float> expected = start;
    const MatrixView<const float> view_a(a.data(), k, m), view_b(b.data(), k, n);
    add_plainly(view_a, view_b, {expected.data(), m, n});
    for (const Isa isa : all_isas()) {
      std::vector<float> c = start;
      add_outer_products(view_a, view_b, {c.data(), m, n}, isa);
      INFO("k " << k << ", m " << m << ", n " << n << ", isa " << static_cast<int>(isa));
      CHECK(same_bits(c, expected));
    }
  }
}

TEST_CASE("neither threads nor a split of the rows change an output", "[round][outer_product]") {
  constexpr std::int64_t k = 70, m = 203, n = 150;
  const std::vector<float> a = normals(k * m, 1), b = normals(k * n, 2), start = normals(m * n, 3);
  const MatrixView<const float> view_a(a.data(), k, m), view_b(b.data(), k, n);
  std::vector<float> expected = start;
  add_outer_products(view_a, view_b, {expected.data(), m, n});
  for (const int threads : {1, 2, 5})
    for (const std::int64_t first : {0, 1, 33, 70}) {
      ThreadPool pool(threads);
      std::vector<float> c = start;
      const MatrixView<float> view_c(c.data(), m, n);
      add_outer_products(view_a.row_range(0, first), view_b.row_range(0, first), view_c, pool);
      add_outer_products(view_a.row_range(first, k - first), view_b.row_range(first, k - first), view_c,
                         pool);
      CHECK(same_bits(c, expected));
    }
}

TEST_CASE("operands may have any strides, and what is between the rows of the sums stays",
          "[round][outer_product]") {
  constexpr std::int64_t k = 19, m = 29, n = 45, gap = 7;
  const std::vector<float> a = normals(k * m, 1), b = normals(2 * k * n, 2);
  const std::vector<float> start = normals(m * (n + gap), 3);
  const MatrixView<const float> transposed = MatrixView<const float>(a.data(), m, k).transposed();
  const MatrixView<const float> every_second(b.data(), k, n, 2 * n, 2);
  std::vector<float> expected = start;
  add_plainly(transposed, every_second, {expected.data(), m, n, n + gap});
  for (const Isa isa : all_isas()) {
    std::vector<float> c = start;
    add_outer_products(transposed, every_second, {c.data(), m, n, n + gap}, isa);
    CHECK(same_bits(c, expected));
  }
}

TEST_CASE("an upper sum writes the outputs on and above the diagonal and no other",
          "[round][outer_product]") {
  for (const std::int64_t n : {1, 11, 12, 33, 97, 531}) {
    const std::int64_t k = 9;
    const std::vector<float> a = normals(k * n, 1), b = normals(k * n, 2), start = normals(n * n, 3);
    const MatrixView<const float> view_a(a.data(), k, n), view_b(b.data(), k, n);
    std::vector<float> expected = start;
    add_plainly(view_a, view_b, {expected.data(), n, n}, true);
    for (const int threads : {1, 3})
      for (const Isa isa : all_isas()) {
        ThreadPool pool(threads);
        std::vector<float> c = start;
        add_upper_outer_products(view_a, view_b, {c.data(), n, n}, pool, isa);
        INFO("n " << n << ", threads " << threads << ", isa " << static_cast<int>(isa));
        CHECK(same_bits(c, expected));
      }
  }
}

TEST_CASE("infinity and NaN reach the outputs of their column alone", "[round][outer_product]") {
  constexpr std::int64_t k = 2, m = 13, n = 35;
  std::vector<float> a(k * m, 1.0f);
  const std::vector<float> b(k * n, 1.0f);
  a[m + 4] = std::numeric_limits<float>::infinity();
  a[7] = std::numeric_limits<float>::quiet_NaN();
  for (const Isa isa : all_isas()) {
    std::vector<float> c(m * n, 1.0f);
    add_outer_products({a.data(), k, m}, {b.data(), k, n}, {c.data(), m, n}, isa);
    for (std::size_t i = 0; i < m; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        const float value = c[i * n + j];
        CHECK((i == 4 ? std::isinf(value) : i == 7 ? std::isnan(value) : value == 3.0f));
      }
  }
}

TEST_CASE("shapes that do not fit are refused with their numbers", "[round][outer_product]") {
  std::vector<float> values(100);
  const auto message = [&](Shape a, Shape b, MatrixView<float> c, bool upper) {
    ThreadPool pool(1);
    const MatrixView<const float> view_a(values.data(), a.k, a.m), view_b(values.data(), b.k, b.n);
    try {
      if (upper)
        add_upper_outer_products(view_a, view_b, c, pool);
      else
        add_outer_products(view_a, view_b, c, pool);
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const MatrixView<float> c(values.data(), 3, 4);
  CHECK(message({2, 3, 0}, {2, 0, 4}, c, false).empty());
  CHECK(message({2, 3, 0}, {1, 0, 4}, c, false).find("a is (2, 3), b is (1, 4)") != std::string::npos);
  CHECK(message({2, 4, 0}, {2, 0, 4}, c, false).find("c must be (4, 4)") != std::string::npos);
  CHECK(message({2, 3, 0}, {2, 0, 4}, c.transposed(), false).find("c is (4, 3)") != std::string::npos);
  CHECK(message({2, 4, 0}, {2, 0, 3}, c.transposed(), false).find("columns 4 elements") != std::string::npos);
  CHECK(message({2, 3, 0}, {2, 0, 4}, c, true).find("no upper triangle") != std::string::npos);
  CHECK(message({2, 3, 0}, {2, 0, 4}, {nullptr, 3, 4}, false).find("null pointer") != std::string::npos);
}
