// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx512/convert.hpp>
#include <higgs/cpu/avx512/isa.hpp>
