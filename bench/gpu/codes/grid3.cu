// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/grid/grid.hpp>

#include "../code_kernels.cuh"

const bench::CodeKernels& bench::grid3_kernels() { return code_kernels<higgs::GridCodebook<2, 64>>(); }
