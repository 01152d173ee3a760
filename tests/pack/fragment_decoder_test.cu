// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/formats.cuh>
#include <higgs/pack/fragment_decoder.cuh>

#include <catch2/catch.hpp>

namespace gpu = higgs::gpu;

TEST_CASE("a type is a format if it has all functions that kernels call", "[pack][fragment_decoder][gpu]") {
  STATIC_REQUIRE(gpu::FragmentDecoder<gpu::TableFormat<4>>);
  STATIC_REQUIRE(gpu::FragmentDecoder<gpu::E8Format>);
  STATIC_REQUIRE(!gpu::FragmentDecoder<int>);
}
