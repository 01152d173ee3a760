// SPDX-License-Identifier: Apache-2.0
#include "math/math.hpp"

#include <higgs/core/random.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

using namespace higgs::model;

namespace {

std::vector<float> normals(std::uint64_t seed, std::int64_t count, double deviation) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < count; ++i)
    out.push_back(static_cast<float>(deviation * higgs::random_normal(seed, static_cast<std::uint64_t>(i))));
  return out;
}

double slow_log_sum_exp(const std::vector<float>& x) {
  const double most = static_cast<double>(*std::max_element(x.begin(), x.end()));
  double sum = 0;
  for (const float each : x) sum += std::exp(static_cast<double>(each) - most);
  return most + std::log(sum);
}

// Lengths about the widths of vectors and the longest run that is summed in float.
constexpr std::int64_t lengths[] = {1, 2, 31, 32, 33, 64, 100, 2047, 2048, 2049, 5000};

}  // namespace

TEST_CASE("softmax is exp over its sum", "[model][math]") {
  for (const std::int64_t n : lengths) {
    std::vector<float> x = normals(1, n, 10);
    const double log_sum = slow_log_sum_exp(x);
    const std::vector<float> logits = x;
    softmax(x.data(), n);
    // The argument of exp, up to 100, is rounded to float: 2^-18 in the worst case; exp adds a few 2^-24.
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = std::exp(static_cast<double>(logits[i]) - log_sum);
      if (expected > 1e-37) CHECK(static_cast<double>(x[i]) == Approx(expected).epsilon(0x1p-17));
    }
  }
  std::vector<float> far{0, -1000, 1000, -INFINITY};
  softmax(far.data(), 4);
  CHECK(far == std::vector<float>{0, 0, 1, 0});
}

TEST_CASE("swiglu is x / (1 + exp(-x)) * up at any magnitude", "[model][math]") {
  std::vector<float> gate = normals(2, 1000, 8), up = normals(3, 1000, 1);
  gate[0] = 200, gate[1] = -200, gate[2] = 0, gate[3] = 1e30f, gate[4] = -1e30f;
  std::vector<float> out = gate;
  swiglu(out.data(), up.data(), 1000, out.data());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto x = static_cast<double>(gate[i]);
    const double expected = x / (1 + std::exp(-x)) * static_cast<double>(up[i]);
    // exp(-x) stops growing at e^88, where the true value is below 1e-34 of x.
    CHECK(static_cast<double>(out[i]) ==
          Approx(expected).epsilon(0x1p-18).margin(1e-35 * (1 + std::fabs(x))));
  }
}

TEST_CASE("rms_norm divides by the root of the mean square", "[model][math]") {
  for (const std::int64_t n : lengths) {
    std::vector<float> x = normals(4, n, 3);
    const std::vector<float> gain = normals(5, n, 1);
    double squares = 0;
    for (const float each : x) squares += static_cast<double>(each) * static_cast<double>(each);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-3);
    std::vector<float> out(x.size());
    rms_norm(x.data(), gain.data(), n, 1e-3, out.data());
    // 5000 / 32 terms in each float lane, half of the error under the root, and three more roundings.
    for (std::size_t i = 0; i < x.size(); ++i)
      CHECK(static_cast<double>(out[i]) ==
            Approx(static_cast<double>(x[i]) * factor * static_cast<double>(gain[i])).epsilon(100 * 0x1p-24));
    rms_norm(x.data(), gain.data(), n, 1e-3, x.data());  // in place
    CHECK(x == out);
  }
}

TEST_CASE("log_sum_exp and kl_divergence are those of doubles", "[model][math]") {
  for (const std::int64_t n : lengths) {
    const std::vector<float> p = normals(6, n, 4);
    for (const double difference : {0.0, 1e-3, 0.3, 5.0}) {
      std::vector<float> q = normals(7, n, difference);
      for (std::size_t i = 0; i < q.size(); ++i) q[i] += p[i];
      const double p_sum = slow_log_sum_exp(p), q_sum = slow_log_sum_exp(q);
      CHECK(log_sum_exp(q.data(), n) == Approx(q_sum).epsilon(0).margin(1e-5));
      double expected = 0;
      for (std::size_t i = 0; i < p.size(); ++i) {
        const double log_p = static_cast<double>(p[i]) - p_sum, log_q = static_cast<double>(q[i]) - q_sum;
        expected += std::exp(log_p) * (log_p - log_q);
      }
      const double kl =
          kl_divergence(p.data(), log_sum_exp(p.data(), n), q.data(), log_sum_exp(q.data(), n), n);
      // Log-sums within 1e-6 of the truth shift all terms alike: that much is the floor for equal
      // distributions.
      CHECK(kl == Approx(expected).epsilon(1e-4).margin(2e-6));
    }
  }
}

TEST_CASE("the first number that is not finite is found, at every place", "[model][math]") {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinite = std::numeric_limits<float>::infinity();
  for (const std::int64_t n : {0, 1, 31, 32, 33, 1000, 5000}) {
    std::vector<float> x(static_cast<std::size_t>(n), std::numeric_limits<float>::max());
    CHECK(find_not_finite(x.data(), n) == -1);
    for (std::int64_t i = n; i-- > 0;) {  // from the back: those behind it stay
      x[static_cast<std::size_t>(i)] = i % 3 == 0 ? nan : i % 3 == 1 ? infinite : -infinite;
      if (find_not_finite(x.data(), n) != i) FAIL("at " << i << " of " << n);
    }
  }
}
