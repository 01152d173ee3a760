// SPDX-License-Identifier: Apache-2.0
// The window codes with their encoder and their packed format.
#pragma once

#include <higgs/codes/window/packed.hpp>
#include <higgs/codes/window/viterbi.hpp>
#include <higgs/codes/window/window.hpp>
