// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/registry.hpp>

#include <catch2/catch.hpp>

#include <set>
#include <string>
#include <type_traits>

TEST_CASE("every shipped codebook is found by its name, and names are unique", "[codes][registry]") {
  const auto names = higgs::shipped_code_names();
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  for (const std::string& name : names) {
    std::string found;
    higgs::with_shipped_code(name, [&]<class Book>(std::type_identity<Book>) { found = Book::name(); });
    CHECK(found == name);
  }
  CHECK_THROWS_WITH(higgs::with_shipped_code("3x3", [](auto) {}),
                    Catch::Contains("3x3") && Catch::Contains("2x256") && Catch::Contains("ch8"));
}

namespace {
template <class... Books>
bool all_are_codes(higgs::TypeList<Books...>) {
  return (higgs::Code<Books> && ...) && ((Books{}.mse() > 0 && Books{}.step() > 0) && ...);
}
}  // namespace

TEST_CASE("every shipped type is a code with a step and an error", "[codes][registry]") {
  CHECK(all_are_codes(higgs::ShippedCodes{}));
}
