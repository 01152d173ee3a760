// SPDX-License-Identifier: Apache-2.0
// Nearest points of E8Codebook: 512 shifted patterns are compared instead of 65,536 points, as the best signs
// of a pattern are those of the input.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/codes/e8/search_portable.hpp>
#include <higgs/cpu/isas.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#if HIGGS_DEFINITIONS
#  include <higgs/codes/e8/search_avx2.hpp>
#  include <higgs/codes/e8/search_avx512.hpp>
#endif

namespace higgs {
inline namespace v0 {

/// nearest() for E8Codebook.
class E8Search {
 public:
  explicit E8Search(const E8Codebook&) {}

  /// codes[i] = nearest(book, fixed[8 i ... 8 i + 7]). `fixed` holds integers, |fixed| <= fixed_limit.
  void encode(std::span<const float> fixed, std::span<std::uint16_t> codes,
              Isa isa = best_isa()) const noexcept;

 private:
  cpu::E8Patterns patterns_;
};

#if HIGGS_DEFINITIONS

HIGGS_INLINE void E8Search::encode(std::span<const float> fixed, std::span<std::uint16_t> codes,
                                   Isa isa) const noexcept {
  using Kernel = void (*)(const cpu::E8Patterns&, const float*, std::uint16_t*) noexcept;
  constexpr std::size_t batch = cpu::E8Patterns::batch;
  const auto kernel = cpu::dispatch(usable_isa(isa), []<class Set>(Set) -> Kernel {
    return [](const cpu::E8Patterns& patterns, const float* in, std::uint16_t* out) noexcept {
      encode_e8(Set{}, patterns, in, out);
    };
  });
  std::size_t i = 0;
  for (; i + batch <= codes.size(); i += batch) kernel(patterns_, fixed.data() + 8 * i, codes.data() + i);
  if (i == codes.size()) return;
  std::array<float, 8 * batch> rest{};
  std::array<std::uint16_t, batch> found;
  std::copy_n(fixed.data() + 8 * i, 8 * (codes.size() - i), rest.data());
  kernel(patterns_, rest.data(), found.data());
  std::copy_n(found.data(), codes.size() - i, codes.data() + i);
}

#endif

}  // namespace v0
}  // namespace higgs
