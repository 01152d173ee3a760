// SPDX-License-Identifier: Apache-2.0
// Compiled for sm_75 it must be refused: tests/CMakeLists.txt says with which words.
#include <higgs/gpu/error.cuh>
