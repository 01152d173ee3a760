// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/neon/activations.hpp>
#include <higgs/cpu/neon/isa.hpp>
#include <higgs/cpu/neon/lut.hpp>
#include <higgs/cpu/neon/panel_product.hpp>

// Kernels that only functions of the compiled library call.
#if HIGGS_DEFINITIONS
#  include <higgs/cpu/neon/hadamard.hpp>
#endif
