// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/cpu/avx512/byte_table.hpp>
#include <higgs/cpu/isas.hpp>

#include <catch2/catch.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace {
template <int Size>
void look_up(const std::uint8_t* bytes, const std::uint8_t* index, std::uint8_t* out) {
  const higgs::cpu::ByteTable<Size> table(bytes);
  _mm512_storeu_si512(out, table[_mm512_loadu_si512(index)]);
}
}  // namespace
HIGGS_TARGET_END

namespace {
template <int Size>
void every_entry_is_found() {
  std::vector<std::uint8_t> bytes(256), index(64), out(64);
  for (std::size_t i = 0; i < 256; ++i) bytes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  for (std::size_t first = 0; first < Size; ++first) {
    for (std::size_t lane = 0; lane < 64; ++lane)
      index[lane] = static_cast<std::uint8_t>((first + 37 * lane) % Size);
    look_up<Size>(bytes.data(), index.data(), out.data());
    for (std::size_t lane = 0; lane < 64; ++lane) REQUIRE(out[lane] == bytes[index[lane]]);
  }
}
}  // namespace

TEST_CASE("a table of bytes in registers gives each of its entries in each lane", "[cpu][byte_table]") {
  if (!higgs::isa_includes(higgs::best_isa(), higgs::Isa::Avx512)) {
    WARN("this machine has no AVX-512 VBMI: nothing was looked up");
    return;
  }
  every_entry_is_found<1>();
  every_entry_is_found<64>();
  every_entry_is_found<65>();
  every_entry_is_found<128>();
  every_entry_is_found<129>();
  every_entry_is_found<256>();
}
#endif
