// SPDX-License-Identifier: Apache-2.0
// Runs a grid of blocks.
#pragma once
#include <vector>

#include "warp.hpp"

namespace emulator {

/// Runs the kernel to its end; arguments[i] points at the value of parameter i. Throws where the kernel fails.
void run_grid(Grid& grid, Program& program, const std::vector<const void*>& arguments);

}  // namespace emulator
