// SPDX-License-Identifier: Apache-2.0
// Scaled weights to symbols, for any code.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/encode/point_search.hpp>

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

}  // namespace v0
}  // namespace higgs
