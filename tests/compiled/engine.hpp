// SPDX-License-Identifier: Apache-2.0
// What the two files of the program share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

/// `count` normal numbers.
std::vector<float> normal(std::int64_t count, std::uint64_t seed);

/// Writes a checkpoint of one layer, loads it and returns its product with `x` (1, 768).
std::vector<float> run_engine(const std::filesystem::path& file, const std::vector<float>& x);
