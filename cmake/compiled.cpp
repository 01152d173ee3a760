// SPDX-License-Identifier: Apache-2.0
// The one source file of the compiled library, higgs::compiled: every function that headers only declare for its users.
#if !defined(HIGGS_COMPILED)
#  error compile this file with HIGGS_COMPILED defined, as the CMake target does
#endif
#define HIGGS_COMPILED_SOURCE

#include <higgs/higgs.hpp>
#include <higgs/models.hpp>
#include <higgs/tools.hpp>
