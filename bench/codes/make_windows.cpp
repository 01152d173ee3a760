// SPDX-License-Identifier: Apache-2.0
// Makes the tables of the window codes anew, the same bytes on every machine with the same <cmath>: make_windows prints
// codes/window/points.hpp, and on standard error how good each table is.
//
//   make_windows            all tables: a quarter of an hour on 2 cores
//   make_windows NAME       one of them, such as w2.5, without the head of the file
//   make_windows NAME SEED  with another seed: the quality alone, to see what luck does
#include <higgs/fit/fit_window.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

namespace {

const char* const head =
    R"(// SPDX-License-Identifier: Apache-2.0
// Made by bench/codes/make_windows.cpp; edit that, not this.
#pragma once

#include <array>
#include <cstdint>

namespace higgs {
inline namespace v0 {
namespace detail {

/// The table of WindowCode<SymbolBits> for N(0, 1), and the symbols before that its signs depend on.
template <int SymbolBits>
struct WindowTable;
)";
const char* const tail =
    R"(
}  // namespace detail
}  // namespace v0
}  // namespace higgs
)";

template <int K>
void print_table(const higgs::FittedWindow<K>& fitted) {
  const auto binary = [](unsigned taps) {
    std::string out = "0b";
    for (int bit = higgs::WindowCode<K>::memory - 1; bit >= 0; --bit)
      out += (taps >> bit & 1u) != 0 ? '1' : '0';
    return out;
  };
  std::printf("\ntemplate <>\nstruct WindowTable<%d> {\n  static constexpr double step = %.8g;\n", K,
              fitted.step);
  std::printf("  static constexpr double mse = %.6g;\n", fitted.mse);
  std::printf("  static constexpr unsigned x_taps = %s, y_taps = %s;\n",
              binary(higgs::WindowCode<K>::x_taps).c_str(), binary(higgs::WindowCode<K>::y_taps).c_str());
  std::printf("  static constexpr std::array<std::array<std::int8_t, 2>, %d> points = {{\n",
              higgs::WindowCode<K>::size);
  std::string line = "     ";
  for (const auto& point : fitted.integers) {
    const std::string text =
        " {{" + std::to_string(int{point[0]}) + ", " + std::to_string(int{point[1]}) + "}},";
    if (line.size() + text.size() > 108) std::printf("%s\n", line.c_str()), line = "     ";
    line += text;
  }
  std::printf("%s\n  }};\n};\n", line.c_str());
}

/// Makes the table of K bits a symbol if it is wanted.
template <int K>
bool make(const std::string& wanted, const char* seed) {
  const std::string name = higgs::WindowCode<K>::name();
  if (!wanted.empty() && wanted != name) return false;
  higgs::WindowFitOptions options;
  options.starts = 4;
  options.steps = 1500;
  options.polish_steps = 100;
  options.heat = 2;
  options.log2_weights = 17;
  if (seed != nullptr) options.seed = std::strtoull(seed, nullptr, 10);
  options.progress = [&name](const higgs::FitProgress& at) {
    if (std::string(at.phase) == "polish" && at.done < 1) return;
    if (at.done == 1 || std::string(at.phase) == "round")
      std::fprintf(stderr, "%s %s %d: %.6g\n", name.c_str(), at.phase, at.start, at.mse);
  };
  const higgs::FittedWindow<K> fitted = higgs::fit_window<K>(options);
  std::fprintf(stderr, "%s: %d states, mse %.6g +- %.1g, %.3f dB above 2^-%d\n", name.c_str(),
               higgs::cpu::WindowTrellis<K>::states, fitted.mse, fitted.standard_error,
               10 * std::log10(fitted.mse * std::exp2(K)), K);
  if (seed == nullptr) print_table<K>(fitted);
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string wanted = count > 1 ? arguments[1] : "";
  const char* const seed = count > 2 ? arguments[2] : nullptr;
  if (wanted.empty()) std::fputs(head, stdout);
  bool made = false;
  [&]<int... K>(std::integer_sequence<int, K...>) {
    ((made = make<K + 2>(wanted, seed) || made), ...);
  }(std::make_integer_sequence<int, 9>{});
  if (wanted.empty()) std::fputs(tail, stdout);
  if (!made) std::fputs("usage: make_windows [NAME [SEED]], NAME a window code such as w2.5\n", stderr);
  return made ? 0 : 2;
}
