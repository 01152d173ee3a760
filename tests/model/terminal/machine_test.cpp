// SPDX-License-Identifier: Apache-2.0
#include "terminal/machine.hpp"

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

using namespace higgs::model;

TEST_CASE("peak memory counts what the program took, and free memory is less than an address space",
          "[model][machine]") {
  const auto before = peak_memory();
  const std::vector<char> taken(std::size_t{600} << 20, 1);
  const auto after = peak_memory();
  CHECK(before.has_value() == after.has_value());
  if (after) CHECK(*after >= std::ssize(taken));
  if (const auto free = free_memory()) {
    CHECK(*free > 0);
    CHECK(*free < std::int64_t{1} << 50);
  }
}
