// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/cpu/neon/activations.hpp>
#include <higgs/cpu/neon/hadamard.hpp>
#include <higgs/cpu/neon/isa.hpp>
#include <higgs/cpu/neon/lut.hpp>
#include <higgs/cpu/neon/panel_product.hpp>
