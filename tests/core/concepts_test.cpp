// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/concepts.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <string>

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
struct Odd {
  static constexpr int size = 84;
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

TEST_CASE("a code takes the whole bits its codebook needs", "[core][concepts]") {
  STATIC_REQUIRE(higgs::code_bits<Signs> == 1);
  STATIC_REQUIRE(higgs::code_bits<Odd> == 7);
}
