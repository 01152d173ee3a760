// SPDX-License-Identifier: Apache-2.0
#include "terminal/natural_order.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <string>
#include <vector>

using higgs::model::natural_less;

TEST_CASE("names stand in the order of the numbers in them", "[model][natural_order]") {
  const std::vector<std::string> order{"",       "a",         "a.2.up",  "a.10",  "a.10.down", "a.010.up",
                                       "a.10.x", "a.11.down", "a.100.b", "b.1.1", "b.1.2",     "b.2.1"};
  for (std::size_t i = 0; i < order.size(); ++i)
    for (std::size_t j = 0; j < order.size(); ++j) {
      INFO(order[i] << " and " << order[j]);
      CHECK(natural_less(order[i], order[j]) == (i < j));
    }
  std::vector<std::string> sorted(order.rbegin(), order.rend());
  std::sort(sorted.begin(), sorted.end(), natural_less);
  CHECK(sorted == order);
}
