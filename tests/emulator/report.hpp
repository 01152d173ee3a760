// SPDX-License-Identifier: Apache-2.0
// What a launch did, out of the tallies of its instructions.
#pragma once
#include <vector>

#include "warp.hpp"

namespace emulator {

Class class_of(std::string_view opcode);
Counters counters_of(const Grid& grid);
/// The instructions that asked for memory, in the order of the program.
std::vector<Line> lines_of(const Grid& grid);
/// For a person: totals, and what conflicts in banks or wastes sectors.
std::string report_of(const Launch& launch, const std::vector<Line>& lines);

}  // namespace emulator
