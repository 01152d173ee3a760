// SPDX-License-Identifier: Apache-2.0
#include <higgs/cpu/convert.hpp>

#include <catch2/catch.hpp>

#include <bit>
#include <cstdint>
#include <vector>

namespace {

// Every 16-bit pattern, by every instruction set, whole and as a run that starts anywhere and ends in a remainder.
template <class T>
void check_all_patterns() {
  std::vector<T> in;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits)
    in.push_back(T::from_bits(static_cast<std::uint16_t>(bits)));
  std::vector<float> out(in.size());
  for (const higgs::Isa isa : {higgs::Isa::Portable, higgs::best_isa()})
    for (const std::size_t first : {0u, 3u}) {
      const std::size_t count = in.size() - first - (first != 0 ? 2 : 0);
      higgs::to_floats(in.data() + first, static_cast<std::int64_t>(count), out.data(), isa);
      for (std::size_t i = 0; i < count; ++i) {
        const auto expected = std::bit_cast<std::uint32_t>(static_cast<float>(in[first + i]));
        const auto found = std::bit_cast<std::uint32_t>(out[i]);
        const bool nan = (expected & 0x7fffffffu) > 0x7f800000u;
        REQUIRE((found == expected || (nan && found == (expected | 0x400000u))));  // a NaN may come out quiet
      }
    }
}

}  // namespace

TEST_CASE("every half and every bfloat16 becomes the float it is", "[cpu][convert]") {
  check_all_patterns<higgs::Half>();
  check_all_patterns<higgs::BFloat16>();
}

TEST_CASE("floats are copied, and no more of them than asked", "[cpu][convert]") {
  const std::vector<float> in{1.5f, -0.0f, 3e38f};
  std::vector<float> out{7, 7, 7};
  higgs::to_floats(in.data(), 2, out.data());
  CHECK(out == std::vector<float>{1.5f, -0.0f, 7});
}
