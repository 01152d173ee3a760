// SPDX-License-Identifier: Apache-2.0
// Makes the tables that ship anew, the same bytes on every machine, and says on standard error how good each is.
//   make_grids              prints include/higgs/codes/grid/gaussian_grids.hpp
//   make_grids 4x4096       prints include/higgs/codes/grid/tables/4x4096.hpp, likewise the other large tables
#include <higgs/fit/fit_grid.hpp>

#include <cstddef>
#include <cstdio>
#include <string>
#include <tuple>
#include <utility>

namespace {

constexpr const char* head = R"(// SPDX-License-Identifier: Apache-2.0
// The tables that ship: points that minimize the mean squared error of rounding N(0, 1). Made by
// bench/codes/make_grids.cpp; edit that, not this.
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
/// of one integer in standard deviations, `mse` the mean squared error per weight on N(0, 1). Tables of 1024 points
/// and more are in headers of their own, codes/grid/tables/<Dim>x<Size>.hpp.
template <int Dim, int Size>
struct GaussianGrid {
  static_assert(detail::gaussian_table_ships<Dim, Size>,
                "no Gaussian table ships for this shape; make one with fit_grid and pass it to GridCodebook");
};
)";

constexpr const char* head_of_one = R"(// SPDX-License-Identifier: Apache-2.0
// Made by bench/codes/make_grids.cpp; edit that, not this.
#pragma once

#include <higgs/codes/grid/gaussian_grids.hpp>

#include <array>
#include <cstdint>

namespace higgs {
inline namespace v0 {
)";

constexpr const char* tail = "\n}  // namespace v0\n}  // namespace higgs\n";

higgs::FitOptions effort(int starts, int steps) {
  higgs::FitOptions options;
  options.starts = starts;
  options.steps = steps;
  options.measure.log2_samples = 22;
  return options;
}

// Thousands of points: more samples, but one run, and few looks at the result.
higgs::FitOptions large_effort(int log2_samples, int rotations, int rounds, int stages = 0) {
  higgs::FitOptions options = effort(1, 300);
  options.polish_steps = 40;
  options.heat = 0.3;
  options.log2_samples = log2_samples;
  options.rotations = rotations;
  options.rounds = rounds;
  options.stages = stages;
  return options;
}

template <int Dim, int Size>
struct Table {
  higgs::FitOptions options = effort(1, 1);

  static std::string name() { return higgs::GridCodebook<Dim, Size>::name(); }

  void make() const {
    const higgs::FittedGrid<Dim, Size> grid = higgs::fit_grid<Dim, Size>(options);
    std::fprintf(
        stderr,
        "%-7s float MSE %.9g +- %.1g   integer MSE %.9g +- %.1g (%+.3f %%)   entropy %.4f   step %.12g\n",
        name().c_str(), grid.points_error.mse, grid.points_error.standard_error, grid.error.mse,
        grid.error.standard_error, 100 * (grid.error.mse / grid.points_error.mse - 1), grid.error.entropy,
        grid.step);
    print(grid);
  }

  static void print(const higgs::FittedGrid<Dim, Size>& grid) {
    const int bits = 8 * static_cast<int>(sizeof(typename higgs::GridCodebook<Dim, Size>::Element));
    std::printf("\ntemplate <>\nstruct GaussianGrid<%d, %d> {\n", Dim, Size);
    std::printf("  static constexpr double step = %.12g;\n", grid.step);
    std::printf("  static constexpr double mse = %.9g;\n", grid.error.mse);
    std::printf("  static constexpr std::array<std::array<std::int%d_t, %d>, %d> points = {{\n", bits, Dim,
                Size);
    std::string line = "   ";
    for (const auto& integers : grid.integers) {
      std::string point;
      for (const int v : integers) point += (point.empty() ? "" : ", ") + std::to_string(v);
      point = " {{" + point + "}},";
      if (line.size() + point.size() > 110) {
        std::printf("%s\n", line.c_str());
        line = "   ";
      }
      line += point;
    }
    std::printf("%s\n  }};\n};\n", line.c_str());
  }
};

}  // namespace

int main(int count, char** arguments) {
  const std::tuple tables{
      Table<1, 2>{},
      Table<1, 3>{},
      Table<1, 4>{},
      Table<1, 8>{},
      Table<1, 16>{},
      Table<1, 32>{},
      Table<1, 64>{},
      Table<1, 128>{},
      Table<1, 256>{},
      Table<2, 16>{effort(24, 400)},
      Table<2, 23>{effort(24, 400)},
      Table<2, 40>{effort(24, 400)},
      Table<2, 64>{effort(16, 400)},
      Table<2, 84>{effort(16, 400)},
      Table<2, 256>{effort(6, 800)},
      Table<3, 64>{effort(16, 400)},
      Table<3, 512>{effort(2, 600)},
      Table<4, 16>{effort(16, 200)},
      Table<4, 256>{effort(3, 300)},
      Table<8, 256>{effort(1, 200)},
  };
  const std::tuple large{
      Table<2, 1024>{effort(2, 800)},          Table<2, 4096>{large_effort(22, 8, 100, 40)},
      Table<3, 4096>{large_effort(22, 2, 30)}, Table<4, 4096>{large_effort(22, 2, 40)},
      Table<6, 4096>{large_effort(20, 2, 4)},
  };
  if (count == 1) {
    std::fputs(head, stdout);
    std::apply([](const auto&... table) { (table.make(), ...); }, tables);
    std::fputs(tail, stdout);
    return 0;
  }
  const std::string name = arguments[1];
  bool made = false;
  const auto make = [&](const auto& table) {
    if (count != 2 || table.name() != name) return;
    std::fputs(head_of_one, stdout);
    table.make();
    std::fputs(tail, stdout);
    made = true;
  };
  std::apply([&](const auto&... table) { (make(table), ...); }, std::tuple_cat(tables, large));
  if (!made)
    std::fputs("usage: make_grids [NAME], NAME a shape that ships, such as 2x256 or 4x4096\n", stderr);
  return made ? 0 : 2;
}
