// SPDX-License-Identifier: Apache-2.0
// Radix codes with their search.
#pragma once

#include <higgs/codes/radix/radix.hpp>
#include <higgs/codes/radix/search.hpp>
