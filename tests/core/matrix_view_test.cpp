// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/matrix_view.hpp>

#include <catch2/catch.hpp>

#include <numeric>
#include <type_traits>
#include <vector>

using higgs::MatrixView;

TEST_CASE("views address elements by row and column, whatever the strides", "[core][matrix_view]") {
  std::vector<int> data(24);
  std::iota(data.begin(), data.end(), 0);
  const MatrixView<int> whole(data.data(), 4, 6);
  CHECK(whole(2, 3) == 15);
  CHECK(*whole.row(3) == 18);
  CHECK(whole.size() == 24);
  CHECK(whole.transposed()(3, 2) == 15);
  CHECK(whole.row_range(1, 2)(1, 3) == 15);
  CHECK(whole.col_range(2, 3)(2, 1) == 15);
  CHECK(whole.transposed().row_range(3, 1)(0, 2) == 15);
  const MatrixView<int> broadcast(data.data() + 6, 100, 6, 0);
  CHECK(broadcast(99, 5) == 11);
  const MatrixView<int> backwards(data.data() + 23, 4, 6, -6, -1);
  CHECK(backwards(0, 0) == 23);
  CHECK(backwards(3, 5) == 0);
}

TEST_CASE("what may be written may be read, not the other way round", "[core][matrix_view]") {
  STATIC_REQUIRE(std::is_convertible_v<MatrixView<float>, MatrixView<const float>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<MatrixView<const float>, MatrixView<float>>);
  STATIC_REQUIRE(std::is_trivially_copyable_v<MatrixView<float>>);
}
