// SPDX-License-Identifier: Apache-2.0
#include <higgs/codebook/measure_grid.hpp>
#include <higgs/codebook/uniform.hpp>

#include <catch2/catch.hpp>

#include <vector>

namespace {
double error_of(double step) {
  std::vector<double> points;
  for (int v = -128; v <= 127; ++v) points.push_back(step * v);
  return higgs::detail::measure_line(points).mse;
}
}  // namespace

TEST_CASE("CH8 decodes to all int8 values in order", "[codebook][uniform]") {
  const higgs::UniformCodebook8 book;
  for (int i = 0; i < 256; ++i) CHECK(int{book.decode(static_cast<std::uint8_t>(i))[0]} == i - 128);
}

TEST_CASE("the step of CH8 is the best, and its error is as claimed", "[codebook][uniform]") {
  const higgs::UniformCodebook8 book;
  CHECK(error_of(book.step()) == Approx(book.mse()).epsilon(1e-9));
  CHECK(error_of(book.step()) < error_of(book.step() * 1.001));
  CHECK(error_of(book.step()) < error_of(book.step() * 0.999));
}
