// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/neon/hadamard.hpp>
#include <higgs/cpu/neon/isa.hpp>
