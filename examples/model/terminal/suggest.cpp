// SPDX-License-Identifier: Apache-2.0
#include "terminal/suggest.hpp"

#include <algorithm>
#include <cstddef>

namespace higgs::model {

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<int>> least(a.size() + 1, std::vector<int>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i)
    for (std::size_t j = 0; j <= b.size(); ++j) {
      int& here = least[i][j];
      if (i == 0 || j == 0) {
        here = static_cast<int>(i + j);
        continue;
      }
      here =
          std::min({least[i - 1][j] + 1, least[i][j - 1] + 1, least[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        here = std::min(here, least[i - 2][j - 2] + 1);
    }
  return least[a.size()][b.size()];
}

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  int least = static_cast<int>(word.size() + 2) / 3 + 1;
  std::string found;
  for (const std::string& name : names)
    if (const int distance = edit_distance(word, name); distance < least) {
      least = distance;
      found = name;
    }
  return found;
}

}  // namespace higgs::model
