// SPDX-License-Identifier: Apache-2.0
// What somebody may have meant by a name that does not exist.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// How many letters must be added, removed, replaced, or swapped with a neighbour to turn `a` into `b`.
int edit_distance(std::string_view a, std::string_view b);

/// The name that is most like `word`: the first of those with the fewest edits. Empty if those are more than a third of
/// the word's letters, rounded up.
std::string nearest_name(std::string_view word, const std::vector<std::string>& names);

}  // namespace higgs::model
