// SPDX-License-Identifier: Apache-2.0
// Makes the tables of include/higgs/codebook/gaussian_grids.hpp anew, the same bytes on every machine, and says on
// standard error how good each is.  Usage: make_grids > include/higgs/codebook/gaussian_grids.hpp
#include <higgs/codebook/fit_grid.hpp>

#include <cstdio>
#include <type_traits>

namespace {

constexpr const char* head = R"(// SPDX-License-Identifier: Apache-2.0
// The tables that ship: points that minimize the mean squared error of rounding N(0, 1). Made by
// bench/codebook/make_grids.cpp; edit that, not this.
#pragma once

#include <higgs/config.hpp>

#include <array>
#include <cstdint>

namespace higgs {
inline namespace v0 {

namespace detail {
template <int Dim, int Size>
inline constexpr bool gaussian_table_ships = false;
}  // namespace detail

/// The Gaussian-optimal table of `Size` points in `Dim` dimensions: `points` with integer coordinates, `step` the size
/// of one integer in standard deviations, `mse` the mean squared error per weight on N(0, 1).
template <int Dim, int Size>
struct GaussianGrid {
  static_assert(detail::gaussian_table_ships<Dim, Size>,
                "no Gaussian table ships for this shape; make one with fit_grid and pass it to GridCodebook");
};
)";

template <int Dim, int Size>
void make(higgs::FitOptions options) {
  options.measure.log2_samples = 22;
  const higgs::FittedGrid<Dim, Size> grid = higgs::fit_grid<Dim, Size>(options);
  std::fprintf(stderr, "%dx%-5d float MSE %.9g +- %.1g   integer MSE %.9g +- %.1g (+%.3f %%)   entropy %.4f   step %.12g\n", Dim,
               Size, grid.points_error.mse, grid.points_error.standard_error, grid.error.mse, grid.error.standard_error,
               100 * (grid.error.mse / grid.points_error.mse - 1), grid.error.entropy, grid.step);
  using Element = typename higgs::GridCodebook<Dim, Size>::Element;
  std::printf("\ntemplate <>\nstruct GaussianGrid<%d, %d> {\n  static constexpr double step = %.12g;\n", Dim, Size, grid.step);
  std::printf("  static constexpr double mse = %.9g;\n", grid.error.mse);
  std::printf("  static constexpr std::array<std::array<std::int%d_t, %d>, %d> points = {{", 8 * static_cast<int>(sizeof(Element)),
              Dim, Size);
  constexpr int columns = 16 / Dim;
  for (int k = 0; k < Size; ++k) {
    std::printf(k % columns == 0 ? "\n    {{" : " {{");
    for (int d = 0; d < Dim; ++d)
      std::printf(d == 0 ? "%d" : ", %d", int{grid.integers[static_cast<std::size_t>(k)][static_cast<std::size_t>(d)]});
    std::printf("}},");
  }
  std::printf("\n  }};\n};\n");
}

higgs::FitOptions effort(int starts, int steps) {
  higgs::FitOptions options;
  options.starts = starts;
  options.steps = steps;
  return options;
}

}  // namespace

int main() {
  std::fputs(head, stdout);
  make<1, 4>({});
  make<1, 8>({});
  make<1, 16>({});
  make<1, 256>({});
  make<2, 16>(effort(24, 400));
  make<2, 64>(effort(16, 400));
  make<2, 256>(effort(6, 800));
  make<4, 256>(effort(3, 300));
  std::fputs("\n}  // namespace v0\n}  // namespace higgs\n", stdout);
}
