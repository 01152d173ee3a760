// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/concepts.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>

namespace {
struct Signs {  // the smallest codebook
  static constexpr int dim = 1;
  static constexpr int size = 2;
  using Element = std::int8_t;
  using Index = std::uint8_t;
  using Point = std::array<std::int8_t, 1>;
  Point decode(Index index) const noexcept { return {static_cast<std::int8_t>(2 * index - 1)}; }
  double step() const noexcept { return 0.8; }
  double mse() const noexcept { return 0.363; }
  static std::string name() { return "signs"; }
};
struct FloatPoints : Signs {
  using Element = float;
};
struct MayThrow : Signs {
  Point decode(Index) const { return {}; }
};
}  // namespace

TEST_CASE("a codebook is what decodes an index to integer coordinates without failing", "[core][concepts]") {
  STATIC_REQUIRE(higgs::Codebook<Signs>);
  STATIC_REQUIRE_FALSE(higgs::Codebook<FloatPoints>);
  STATIC_REQUIRE_FALSE(higgs::Codebook<MayThrow>);
  STATIC_REQUIRE_FALSE(higgs::Codebook<int>);
}

TEST_CASE("scalars are float, fp16 and bf16", "[core][concepts]") {
  STATIC_REQUIRE(higgs::Scalar<higgs::Half>);
  STATIC_REQUIRE_FALSE(higgs::Scalar<double>);
  STATIC_REQUIRE_FALSE(higgs::Scalar<const float>);
}

TEST_CASE("what has the bits of a scalar is taken for it, and nothing else of its size", "[core][concepts]") {
  STATIC_REQUIRE(std::is_same_v<higgs::ScalarOf<float>::type, float>);
  STATIC_REQUIRE(std::is_same_v<higgs::ScalarOf<higgs::BFloat16>::type, higgs::BFloat16>);
  STATIC_REQUIRE(std::is_same_v<higgs::ScalarOf<__half>::type, higgs::Half>);
  STATIC_REQUIRE(std::is_same_v<higgs::ScalarOf<__nv_bfloat16>::type, higgs::BFloat16>);
  STATIC_REQUIRE(higgs::ScalarLike<const higgs::Half>);
  STATIC_REQUIRE_FALSE(higgs::ScalarLike<double>);
  STATIC_REQUIRE_FALSE(higgs::ScalarLike<std::int16_t>);
  STATIC_REQUIRE_FALSE(higgs::ScalarLike<std::uint16_t>);
  STATIC_REQUIRE_FALSE(higgs::ScalarLike<char16_t>);
  STATIC_REQUIRE_FALSE(higgs::ScalarLike<int>);
  STATIC_REQUIRE_FALSE(higgs::ScalarLike<float*>);
#if defined(__FLT16_MAX__) && (!defined(__clang__) || __clang_major__ >= 15)
  STATIC_REQUIRE(std::is_same_v<higgs::ScalarOf<_Float16>::type, higgs::Half>);
  _Float16 numbers[6] = {1, 2, 3, 4, 5, 6};
  const auto view = higgs::detail::as_scalars(higgs::MatrixView<const _Float16>(numbers, 2, 3).transposed());
  STATIC_REQUIRE(std::is_same_v<decltype(view), const higgs::MatrixView<const higgs::Half>>);
  CHECK(static_cast<float>(view(2, 1)) == 6);
  CHECK(static_cast<float>(view(1, 0)) == 2);
#endif
}
