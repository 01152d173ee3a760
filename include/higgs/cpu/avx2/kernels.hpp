// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/activations.hpp>
#include <higgs/cpu/avx2/cell_search.hpp>
#include <higgs/cpu/avx2/convert.hpp>
#include <higgs/cpu/avx2/dense.hpp>
#include <higgs/cpu/avx2/exhaustive_search.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/avx2/line_search.hpp>
#include <higgs/cpu/avx2/lut.hpp>
#include <higgs/cpu/avx2/panel_product.hpp>
#include <higgs/cpu/avx2/plane_search.hpp>
#include <higgs/cpu/avx2/rows.hpp>
#include <higgs/cpu/avx2/signs.hpp>

// Kernels that only functions of the compiled library call.
#if HIGGS_DEFINITIONS
#  include <higgs/cpu/avx2/hadamard.hpp>
#endif
