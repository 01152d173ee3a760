// SPDX-License-Identifier: Apache-2.0
// The kernels in plain C++: the contract of each kernel, and its reference.
#pragma once

#include <higgs/cpu/portable/convert.hpp>
#include <higgs/cpu/portable/isa.hpp>
