// SPDX-License-Identifier: Apache-2.0
// expect: Dim must lie in .* is the order Dim, Size\?
#include <higgs/codes/grid/grid.hpp>
#if defined(MISUSE)
using Book = higgs::GridCodebook<256, 2>;
#else
using Book = higgs::GridCodebook<2, 256>;
#endif
static_assert(sizeof(Book) > 0);
int main() {}
