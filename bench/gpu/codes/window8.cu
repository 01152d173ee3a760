// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/window/window.hpp>

#include "../code_kernels.cuh"

const bench::CodeKernels& bench::window8_kernels() { return code_kernels<higgs::WindowCode<8>>(); }
