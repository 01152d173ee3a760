// SPDX-License-Identifier: Apache-2.0
// The kernels in plain C++: the contract of each kernel, and its reference.
#pragma once

#include <higgs/cpu/portable/activations.hpp>
#include <higgs/cpu/portable/cell_search.hpp>
#include <higgs/cpu/portable/convert.hpp>
#include <higgs/cpu/portable/dense.hpp>
#include <higgs/cpu/portable/dot.hpp>
#include <higgs/cpu/portable/exhaustive_search.hpp>
#include <higgs/cpu/portable/hadamard.hpp>
#include <higgs/cpu/portable/isa.hpp>
#include <higgs/cpu/portable/line_search.hpp>
#include <higgs/cpu/portable/lut.hpp>
#include <higgs/cpu/portable/panel_product.hpp>
#include <higgs/cpu/portable/plane_search.hpp>
#include <higgs/cpu/portable/rows.hpp>
#include <higgs/cpu/portable/signs.hpp>
