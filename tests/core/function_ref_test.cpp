// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/function_ref.hpp>

#include <catch2/catch.hpp>

TEST_CASE("a reference calls the function object that it was made from, not a copy", "[core][function_ref]") {
  int calls = 0;
  const auto add = [&calls](int a, int b) { return ++calls, a + b; };
  higgs::detail::FunctionRef<int(int, int)> call = add;
  CHECK(call(2, 3) == 5);
  const auto multiply = [](int a, int b) { return a * b; };
  call = multiply;
  CHECK(call(2, 3) == 6);
  CHECK(calls == 1);
}
