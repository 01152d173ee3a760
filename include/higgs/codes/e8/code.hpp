// SPDX-License-Identifier: Apache-2.0
// The E8 code with its search and its packed format.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/e8/packed.hpp>
#include <higgs/codes/e8/search.hpp>
