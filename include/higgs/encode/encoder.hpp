// SPDX-License-Identifier: Apache-2.0
// Scaled weights to symbols, for any code.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/encode/point_search.hpp>

#include <algorithm>
#include <cstddef>
#include <span>

namespace higgs {
inline namespace v0 {

/// The encoder of one code, prepared once: for a Codebook the fastest search that equals nearest(), for a ChainCode its
/// own Encoder.
template <Code C>
class Encoder {
 public:
  explicit Encoder(const C& code) : encoder_(code) {}

  /// Encodes whole groups of `group_symbols` symbols: symbols.size() is a multiple of it, scaled.size() is symbols.size()
  /// * C::dim. `scaled` holds integers in fixed point (fraction_bits), |scaled| <= fixed_limit; a group's last span is
  /// filled up with zeros. The symbols are the same for every `isa`.
  void encode(std::span<const float> scaled, std::size_t group_symbols, std::span<SymbolOf<C>> symbols,
              Isa isa = best_isa()) const noexcept {
    if constexpr (ChainCode<C>) {
      constexpr auto dim = static_cast<std::size_t>(C::dim);
      for (std::size_t i = 0; i < symbols.size(); i += group_symbols)
        encoder_.encode(scaled.subspan(i * dim, group_symbols * dim), symbols.subspan(i, group_symbols), isa);
    } else {
      encoder_.encode(scaled, symbols, isa);
    }
  }
  /// The encoder of a ChainCode.
  const auto& chain() const noexcept
    requires ChainCode<C>
  {
    return encoder_;
  }

 private:
  template <class T>
  struct Chosen {
    using type = typename T::Encoder;
  };
  template <Codebook T>
  struct Chosen<T> {
    using type = PointSearch<T>;
  };
  typename Chosen<C>::type encoder_;
};

namespace detail {

/// `x` in units of `rms` * step * 2^-fraction_bits, rounded to integers and clamped to fixed_limit. Zeros fill up
/// `scaled`, which holds whole symbols.
template <Code C>
void to_fixed_point(const C& code, std::span<const float> x, double rms, std::span<float> scaled) noexcept {
  constexpr auto limit = static_cast<float>(fixed_limit<C>);
  const double units = static_cast<double>(1 << fraction_bits<C>) / (rms * code.step());
  // A group so small that its inverse overflows has no direction worth keeping: its scale is 0 in fp16 too.
  const float factor = units < 3e38 ? static_cast<float>(units) : 0.0f;
  cpu::dispatch(best_isa(),
                [&](auto set) { round_clamped(set, x.data(), x.size(), factor, limit, scaled.data()); });
  std::fill(scaled.begin() + static_cast<std::ptrdiff_t>(x.size()), scaled.end(), 0.0f);
}

}  // namespace detail

}  // namespace v0
}  // namespace higgs
