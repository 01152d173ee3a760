// SPDX-License-Identifier: Apache-2.0
// Lets tests written for Catch2 2 compile with Catch2 3.
#pragma once

#include <catch2/catch_all.hpp>

#include <string>

namespace Catch {
inline auto Contains(const std::string& text) { return Matchers::ContainsSubstring(text); }
using Matchers::EndsWith;
using Matchers::Equals;
using Matchers::StartsWith;
using Matchers::WithinAbs;
using Matchers::WithinRel;
}  // namespace Catch
using Catch::Approx;
