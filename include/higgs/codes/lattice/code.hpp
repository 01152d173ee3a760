// SPDX-License-Identifier: Apache-2.0
// Voronoi codes of E8 with their search.
#pragma once

#include <higgs/codes/lattice/lattice.hpp>
#include <higgs/codes/lattice/search.hpp>
