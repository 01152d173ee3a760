// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/fit/gaussian_cloud.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <numeric>

namespace {
template <int Dim>
higgs::detail::Centers<Dim> scattered(std::size_t count) {
  higgs::detail::Centers<Dim> centers(count);
  for (std::size_t k = 0; k < count; ++k)
    for (std::size_t d = 0; d < Dim; ++d)
      centers[k][d] = higgs::detail::snap(higgs::random_normal(3, k * Dim + d));
  return centers;
}
}  // namespace

TEST_CASE("a cloud has the moments of the normal distribution", "[fit][gaussian_cloud]") {
  higgs::SerialExecutor serial;
  const higgs::detail::Centers<3> origin(1);
  const auto cloud = higgs::detail::GaussianCloud<3>::quasi_random(5, 14);
  CHECK(cloud.size() == 1u << 14);
  CHECK(cloud.error(origin, cloud.divide(origin, serial)) == Approx(1).epsilon(2e-3));
  const higgs::detail::Centers<2> middle(1);
  const auto plane = higgs::detail::GaussianCloud<2>::midpoints(5);
  CHECK(plane.error(middle, plane.divide(middle, serial)) == Approx(1).epsilon(1e-5));
}

TEST_CASE("a divided cloud loses nothing and does not depend on threads", "[fit][gaussian_cloud]") {
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  const auto cloud = higgs::detail::GaussianCloud<4>::quasi_random(9, 13);
  const auto centers = scattered<4>(37);
  const auto cells = cloud.divide(centers, serial), again = cloud.divide(centers, pool);
  CHECK(cells.mass == again.mass);
  CHECK(cells.sum == again.sum);
  CHECK(static_cast<double>(std::accumulate(cells.mass.begin(), cells.mass.end(), std::int64_t{0})) ==
        cloud.mass());
}

TEST_CASE("other seeds are other rules, the same seed is the same", "[fit][gaussian_cloud]") {
  higgs::SerialExecutor serial;
  const auto centers = scattered<3>(10);
  const auto masses = [&](std::uint64_t seed) {
    return higgs::detail::GaussianCloud<3>::quasi_random(seed, 12).divide(centers, serial).mass;
  };
  CHECK(masses(1) == masses(1));
  CHECK(masses(1) != masses(2));
}
