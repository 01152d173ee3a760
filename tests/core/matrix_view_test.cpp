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

TEST_CASE("a null pointer with sizes is refused with its name and shape, an empty view is not",
          "[core][matrix_view]") {
  using Catch::Contains;
  float one = 0;
  CHECK_NOTHROW(higgs::detail::expect_data("f", "w", MatrixView<float>(nullptr, 0, 512)));
  CHECK_NOTHROW(higgs::detail::expect_data("f", "w", MatrixView<float>(nullptr, 2, 0)));
  CHECK_NOTHROW(higgs::detail::expect_data("f", "w", MatrixView<float>(&one, 1, 1)));
  CHECK_THROWS_WITH(higgs::detail::expect_data("f", "w", MatrixView<float>(nullptr, 2, 512)),
                    Contains("f: w is (2, 512)") && Contains("null"));
  CHECK_THROWS_WITH(higgs::detail::expect_data("f", "w", MatrixView<float>(&one, -1, 1)),
                    Contains("(-1, 1)") && Contains("negative"));
}

TEST_CASE("arguments of a product that do not meet are named with their sizes", "[core][matrix_view]") {
  const auto message = [](MatrixView<float> x, MatrixView<float> y, std::size_t bias) {
    try {
      higgs::detail::expect_product("f", x, 4096, 1024, y, bias);
    } catch (const higgs::InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  float one = 0;
  const MatrixView<float> x(&one, 8, 1024), y(&one, 8, 4096);
  CHECK(message(x, y, 0).empty());
  CHECK(message(x, y, 4096).empty());
  CHECK(message({&one, 8, 512}, y, 0) == "f: x is (8, 512), but w has 1024 columns");
  CHECK(message(x, {&one, 7, 4096}, 0) ==
        "f: y is (7, 4096), but must be (8, 4096), as x has 8 rows and w has 4096");
  CHECK(message(x, {&one, 8, 1}, 0) ==
        "f: y is (8, 1), but must be (8, 4096), as x has 8 rows and w has 4096");
  CHECK(message(x, y, 3) == "f: bias holds 3 values, but w has 4096 rows");
  CHECK(message({nullptr, 8, 1024}, y, 0) == "f: x is (8, 1024), but its data is a null pointer");
  CHECK(message(x, {nullptr, 8, 4096}, 0) == "f: y is (8, 4096), but its data is a null pointer");
}
