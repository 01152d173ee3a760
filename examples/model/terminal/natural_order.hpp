// SPDX-License-Identifier: Apache-2.0
// The order of names that people expect: layer 2 comes before layer 10.
#pragma once

#include <algorithm>
#include <string_view>

namespace higgs::model {

/// Whether `a` comes before `b` where runs of digits count as the numbers that they are.
inline bool natural_less(std::string_view a, std::string_view b) noexcept {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  // Cuts the number that a text begins with, without zeros before it.
  const auto cut_number = [&](std::string_view& text) {
    while (text.size() > 1 && text[0] == '0' && is_digit(text[1])) text.remove_prefix(1);
    const auto end = std::find_if_not(text.begin(), text.end(), is_digit);
    const std::string_view number = text.substr(0, static_cast<std::size_t>(end - text.begin()));
    text.remove_prefix(number.size());
    return number;
  };
  while (!a.empty() && !b.empty()) {
    if (is_digit(a[0]) && is_digit(b[0])) {
      const std::string_view x = cut_number(a), y = cut_number(b);
      if (x != y) return x.size() != y.size() ? x.size() < y.size() : x < y;
      continue;
    }
    if (a[0] != b[0]) return a[0] < b[0];
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  return a.size() < b.size();
}

}  // namespace higgs::model
