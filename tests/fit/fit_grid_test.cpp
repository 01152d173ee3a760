// SPDX-License-Identifier: Apache-2.0
#include <higgs/fit/fit_grid.hpp>

#include <catch2/catch.hpp>

#include <cstdlib>

namespace {
higgs::FitOptions small() {
  higgs::FitOptions options;
  options.starts = 2;
  options.steps = 60;
  options.polish_steps = 20;
  options.rotations = 2;
  options.log2_samples = 14;
  options.measure.log2_samples = 14;
  return options;
}
}  // namespace

TEST_CASE("even a short fit comes within 3 % of the best known grids", "[fit][fit_grid]") {
  CHECK(higgs::fit_grid<1, 16>().error.mse < 0.0095010080 * 1.001);
  CHECK(higgs::fit_grid<2, 16>(small()).error.mse < 0.1076 * 1.03);
  CHECK(higgs::fit_grid<3, 8>(small()).error.mse < 0.3564 * 1.03);
}

TEST_CASE("a fit depends on its seed alone", "[fit][fit_grid]") {
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  const auto one = higgs::fit_grid<2, 8>(small(), serial), same = higgs::fit_grid<2, 8>(small(), pool);
  CHECK(one.integers == same.integers);
  CHECK(one.step == same.step);
  CHECK(one.error.mse == same.error.mse);
  higgs::FitOptions options = small();
  options.seed = 2;
  CHECK(higgs::fit_grid<2, 8>(options, serial).integers != one.integers);
}

TEST_CASE("a fitted grid is a codebook, and integers cost little", "[fit][fit_grid]") {
  const auto grid = higgs::fit_grid<2, 16>(small());
  const higgs::GridCodebook<2, 16> book = grid.codebook();
  CHECK(book.mse() == grid.error.mse);
  CHECK(book.decode(3) == grid.integers[3]);
  CHECK(grid.error.mse < grid.points_error.mse * 1.005);
}

TEST_CASE("points that become integers in stages lose less", "[fit][fit_grid]") {
  higgs::FitOptions options = small();
  options.limit = 12;
  options.rounds = 0;
  const auto at_once = higgs::fit_grid<2, 64>(options);
  options.stages = 16;
  const auto staged = higgs::fit_grid<2, 64>(options);
  CHECK(staged.error.mse < at_once.error.mse);
  for (const auto& point : staged.integers)
    for (const int c : point) CHECK(std::abs(c) <= 12);
}

TEST_CASE("options out of range are refused", "[fit][fit_grid]") {
  for (const auto change :
       {+[](higgs::FitOptions& o) { o.starts = 0; }, +[](higgs::FitOptions& o) { o.limit = 128; },
        +[](higgs::FitOptions& o) { o.log2_samples = 40; }, +[](higgs::FitOptions& o) { o.heat = -1; }}) {
    higgs::FitOptions options = small();
    change(options);
    CHECK_THROWS_AS((higgs::fit_grid<2, 8>(options)), higgs::InvalidArgument);
  }
}
