// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/scratch.hpp>

#include <catch2/catch.hpp>

#include <cstdint>

TEST_CASE("scratch memory is kept by a thread, and a second user gets its own", "[core][scratch]") {
  const std::uint8_t* first = nullptr;
  {
    const higgs::detail::Scratch outer(1000);
    first = outer.data();
    const higgs::detail::Scratch inner(10);
    CHECK(inner.data() != first);
    CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
  }
  const higgs::detail::Scratch again(1000);
  CHECK(again.data() == first);
}
