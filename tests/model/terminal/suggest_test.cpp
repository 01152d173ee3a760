// SPDX-License-Identifier: Apache-2.0
#include "terminal/suggest.hpp"

#include <catch2/catch.hpp>

#include <string>
#include <vector>

using higgs::model::edit_distance;
using higgs::model::nearest_name;

TEST_CASE("one edit is a letter more, less, other, or swapped with its neighbour", "[model][suggest]") {
  const std::string word = "quantize";
  CHECK(edit_distance(word, word) == 0);
  CHECK(edit_distance("", word) == 8);
  CHECK(edit_distance(word, "") == 8);
  for (std::size_t i = 0; i < word.size(); ++i) {
    std::string less = word, more = word, other = word, swapped = word;
    less.erase(i, 1);
    more.insert(i, 1, '-');
    other[i] = '-';
    for (const std::string& each : {less, more, other}) {
      CHECK(edit_distance(word, each) == 1);
      CHECK(edit_distance(each, word) == 1);
    }
    if (i == 0) continue;
    std::swap(swapped[i - 1], swapped[i]);
    CHECK(edit_distance(word, swapped) == 1);
  }
}

TEST_CASE("a misspelt name finds its own, and another word none", "[model][suggest]") {
  const std::vector<std::string> names{"inspect",     "quantize", "eval",      "compare",
                                       "sensitivity", "allocate", "linearity", "generate"};
  for (const std::string& name : names) {
    CHECK(nearest_name(name, names) == name);
    for (std::size_t i = 0; i < name.size(); ++i) {
      std::string less = name, other = name;
      CHECK(nearest_name(less.erase(i, 1), names) == name);
      other[i] = '-';
      CHECK(nearest_name(other, names) == name);
    }
  }
  CHECK(nearest_name("quantise", names) == "quantize");
  CHECK(nearest_name("quantify", names) == "quantize");
  for (const char* word : {"", "foo", "perplexity", "x"}) CHECK(nearest_name(word, names).empty());
}
