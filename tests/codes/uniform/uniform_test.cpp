// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/uniform/uniform.hpp>
#include <higgs/fit/measure_grid.hpp>

#include <catch2/catch.hpp>

#include <cstdint>
#include <vector>

namespace {
template <int Bits>
double error_of(double step) {
  std::vector<double> points;
  for (int i = 0; i < 1 << Bits; ++i)
    points.push_back(step * higgs::UniformCodebook<Bits>{}.decode(static_cast<std::uint8_t>(i))[0]);
  return higgs::detail::measure_line(points).mse;
}
}  // namespace

TEST_CASE("CH8 decodes to all int8 values in order", "[codes][uniform]") {
  const higgs::UniformCodebook8 book;
  for (int i = 0; i < 256; ++i) CHECK(int{book.decode(static_cast<std::uint8_t>(i))[0]} == i - 128);
}

TEMPLATE_TEST_CASE_SIG("uniform points below 8 bits are evenly spaced and symmetric", "[codes][uniform]",
                       ((int Bits), Bits), 2, 3, 4, 5, 6, 7) {
  const higgs::UniformCodebook<Bits> book;
  CHECK(book.name() == "u" + std::to_string(Bits));
  for (int i = 0; i < book.size; ++i) {
    const int value = book.decode(static_cast<std::uint8_t>(i))[0];
    CHECK(value == -book.decode(static_cast<std::uint8_t>(book.size - 1 - i))[0]);
    CHECK(value == book.decode(0)[0] + 2 * i);
  }
}

TEMPLATE_TEST_CASE_SIG("the step of uniform points is the best, and their error is as claimed",
                       "[codes][uniform]", ((int Bits), Bits), 2, 3, 4, 5, 6, 7, 8) {
  const higgs::UniformCodebook<Bits> book;
  CHECK(error_of<Bits>(book.step()) == Approx(book.mse()).epsilon(1e-9));
  CHECK(error_of<Bits>(book.step()) < error_of<Bits>(book.step() * 1.001));
  CHECK(error_of<Bits>(book.step()) < error_of<Bits>(book.step() * 0.999));
}
