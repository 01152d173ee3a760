// SPDX-License-Identifier: Apache-2.0
// The window codes with their encoder.
#pragma once

#include <higgs/codes/window/viterbi.hpp>
#include <higgs/codes/window/window.hpp>
