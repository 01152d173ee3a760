// SPDX-License-Identifier: Apache-2.0
// The shipped codes by their bits a weight: which code is the most accurate at a rate.
#pragma once

#include <higgs/codes/registry.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {

/// A shipped code by name, with its bits a weight and its mean squared error on N(0, 1). Scales are not counted.
struct RatedCode {
  std::string name;  ///< such as "w2.5"
  double bits = 0;   ///< bits a weight
  double mse = 0;    ///< on N(0, 1)
};

/// Bits a weight and error of the shipped code of that name. Throws InvalidArgument if none has it.
inline RatedCode rate_of_code(std::string_view name) {
  RatedCode out{.name = std::string(name)};
  with_shipped_code(name, [&]<class C>(std::type_identity<C>) {
    out.bits = static_cast<double>(code_bits<C>) / C::dim;
    out.mse = C{}.mse();
  });
  return out;
}

/// The shipped code of least error at each rate, by ascending bits.
inline std::vector<RatedCode> best_codes() {
  std::vector<RatedCode> codes;
  for (const std::string& name : shipped_code_names()) codes.push_back(rate_of_code(name));
  std::stable_sort(codes.begin(), codes.end(), [](const RatedCode& a, const RatedCode& b) {
    return a.bits < b.bits || (a.bits == b.bits && a.mse < b.mse);
  });
  const auto same_rate = [](const RatedCode& a, const RatedCode& b) { return a.bits == b.bits; };
  codes.erase(std::unique(codes.begin(), codes.end(), same_rate), codes.end());
  return codes;
}

/// The name of the shipped code of least error among those of exactly `bits` bits a weight, scales not counted. Throws
/// InvalidArgument, which lists the rates that there are, if no code has that rate.
inline std::string best_code_of_bits(double bits) {
  std::string rates;
  for (const RatedCode& code : best_codes()) {
    if (code.bits == bits) return code.name;
    rates += detail::sentence(rates.empty() ? "" : ", ", code.bits);
  }
  throw InvalidArgument(detail::sentence("higgs: no code has ", bits, " bits a weight; there are ", rates));
}

}  // namespace v0
}  // namespace higgs
