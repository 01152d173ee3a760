// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/avx2/convert.hpp>
#include <higgs/cpu/avx2/isa.hpp>
