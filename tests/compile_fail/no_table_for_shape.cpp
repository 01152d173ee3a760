// SPDX-License-Identifier: Apache-2.0
// expect: no Gaussian table ships for this shape; make one with fit_grid
#include <higgs/codes/grid/grid.hpp>
#if defined(MISUSE)
constexpr higgs::GridCodebook<2, 100> book;
#else
constexpr higgs::GridCodebook<2, 64> book;
#endif
static_assert(book.mse() > 0.0);
int main() {}
