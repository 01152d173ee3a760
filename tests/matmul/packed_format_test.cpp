// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/radix/code.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/matmul/packed_format.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <type_traits>

#include "codes/toy_code.hpp"

namespace cpu = higgs::cpu;

template <class C, class Format>
inline constexpr bool has_format = std::is_same_v<higgs::PackedFormatOf<C>, Format>;

static_assert(has_format<higgs::GridCodebook<1, 4>, cpu::Lut<4, 2>>);  // two symbols an index
static_assert(has_format<higgs::GridCodebook<1, 8>, cpu::Lut<6, 2>>);
static_assert(has_format<higgs::GridCodebook<1, 16>, cpu::Lut<4, 1>>);
static_assert(has_format<higgs::GridCodebook<2, 16>, cpu::Lut<4, 2>>);
static_assert(has_format<higgs::GridCodebook<2, 64>, cpu::Lut<6, 2>>);
static_assert(has_format<higgs::GridCodebook<2, 256>, cpu::Lut<8, 2>>);
static_assert(has_format<higgs::GridCodebook<4, 256>, cpu::Lut<8, 4>>);
static_assert(has_format<higgs::GridCodebook<1, 256>, cpu::Lut<8, 1, 2>>);  // 16-bit coordinates
static_assert(has_format<higgs::E8Codebook, cpu::E8Format>);                // a format of its own
static_assert(has_format<ToyCode, ToyFormat>);
static_assert(has_format<higgs::UniformCodebook8, cpu::CoordinateBytes>);
static_assert(has_format<higgs::GridCodebook<2, 1024>, cpu::CoordinateBytes>);  // no table of 10 bits
static_assert(has_format<higgs::NestedE8Codebook<2>, cpu::CoordinateBytes>);
static_assert(has_format<higgs::RadixCodebook<higgs::GridCodebook<2, 16>, 5>, cpu::CoordinateBytes>);

TEST_CASE("the kernels of a format are those of the instruction set, or of the set below for few rows of x",
          "[matmul][packed_format]") {
  const higgs::detail::PackedFormat& format = higgs::detail::PanelKernels<cpu::Lut<8, 2>>::format;
  CHECK(format.dim == 2);
  CHECK(format.planes == 1);
  CHECK(&format.kernel(higgs::Isa::Portable, 1) == &format.kernel(higgs::Isa::Portable, 100));
  CHECK(format.kernel(higgs::Isa::Portable, 1).order == cpu::ActivationOrder::Words);
#if defined(HIGGS_TARGET_BEGIN)
  CHECK(&format.kernel(higgs::Isa::Amx, 7) == &format.kernel(higgs::Isa::Avx512, 7));
  CHECK(format.kernel(higgs::Isa::Amx, 8).order == cpu::ActivationOrder::AmxTiles);
  CHECK(format.kernel(higgs::Isa::AvxVnni, 1).max_rows[1] == 3);
#endif
}
