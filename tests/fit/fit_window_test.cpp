// SPDX-License-Identifier: Apache-2.0
#include <higgs/fit/fit_window.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <set>
#include <string>

using higgs::WindowCode;

namespace {

higgs::WindowFitOptions brief() {
  return {.seed = 3, .starts = 2, .steps = 12, .polish_steps = 3, .log2_weights = 13, .log2_measured = 15};
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("the error of a table that ships is what it says", "[fit][fit_window]", ((int K), K),
                       2, 3, 4, 5, 6, 7, 8, 9, 10) {
  const WindowCode<K> code;
  const higgs::WindowError error = higgs::measure_window(code, 19);
  CHECK(std::fabs(error.mse - code.mse()) < 4 * error.standard_error);
  CHECK(error.standard_error < 0.004 * error.mse);
  // Another step errs more: the table's is the one that it was made for.
  for (const double factor : {0.97, 1.03})
    CHECK(higgs::measure_window(WindowCode<K>(code.points(), code.step() * factor, 0), 19).mse > code.mse());
}

TEST_CASE("short groups begin anew and err more, by little", "[fit][fit_window]") {
  const WindowCode<6> code;
  double last = code.mse() * 0.99;
  for (const std::int64_t group : {1024, 256, 128, 64}) {
    const double mse = higgs::measure_window(code, 19, group).mse;
    CHECK(mse > last);
    last = mse;
  }
  CHECK(last < 1.1 * code.mse());
}

TEST_CASE("a brief fit comes near the table that ships, and begins where its seed says",
          "[fit][fit_window]") {
  const auto fitted = higgs::fit_window<8>(brief());
  CHECK(fitted.mse < 1.3 * WindowCode<8>().mse());
  CHECK(fitted.mse > WindowCode<8>().mse());
  auto other = brief();
  other.seed = 4;
  CHECK(higgs::fit_window<8>(other).integers != fitted.integers);
  CHECK(fitted.code().points() == fitted.integers);
}

TEST_CASE("a fit does not depend on threads, and tells its phases", "[fit][fit_window]") {
  auto options = brief();
  std::set<std::string> phases;
  options.progress = [&](const higgs::FitProgress& at) {
    phases.insert(at.phase);
    CHECK(at.done > 0);
    CHECK(at.done <= 1);
    CHECK(std::isfinite(at.mse));
  };
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  const auto one = higgs::fit_window<3>(options, serial), many = higgs::fit_window<3>(options, pool);
  CHECK(one.integers == many.integers);
  CHECK(one.step == many.step);
  CHECK(one.mse == many.mse);
  CHECK(phases == std::set<std::string>{"anneal", "polish", "round"});
}

TEST_CASE("window fits refuse options out of range", "[fit][fit_window]") {
  for (const auto& change :
       {+[](higgs::WindowFitOptions& o) { o.starts = 0; }, +[](higgs::WindowFitOptions& o) { o.steps = 0; },
        +[](higgs::WindowFitOptions& o) { o.log2_weights = 11; },
        +[](higgs::WindowFitOptions& o) { o.heat = -1; }}) {
    auto options = brief();
    change(options);
    CHECK_THROWS_AS(higgs::fit_window<4>(options), higgs::InvalidArgument);
  }
  CHECK_THROWS_AS(higgs::measure_window(WindowCode<4>(), 8), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::measure_window(WindowCode<4>(), 16, 3), higgs::InvalidArgument);
}
