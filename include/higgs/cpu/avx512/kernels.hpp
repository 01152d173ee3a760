// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx512/activations.hpp>
#include <higgs/cpu/avx512/amx_product.hpp>
#include <higgs/cpu/avx512/byte_table.hpp>
#include <higgs/cpu/avx512/cell_search.hpp>
#include <higgs/cpu/avx512/convert.hpp>
#include <higgs/cpu/avx512/dense.hpp>
#include <higgs/cpu/avx512/dot.hpp>
#include <higgs/cpu/avx512/exhaustive_search.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/avx512/line_search.hpp>
#include <higgs/cpu/avx512/lut.hpp>
#include <higgs/cpu/avx512/panel_product.hpp>
#include <higgs/cpu/avx512/plane_search.hpp>
#include <higgs/cpu/avx512/signs.hpp>

// Kernels that only functions of the compiled library call.
#if HIGGS_DEFINITIONS
#  include <higgs/cpu/avx512/hadamard.hpp>
#endif
