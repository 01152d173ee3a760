// SPDX-License-Identifier: Apache-2.0
// Strips of random codes that tests of the kernels share.
#pragma once

#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/matmul/strip.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

/// One strip of random codes of a codebook: `units` a group, two groups, scales left random as well.
struct RandomStrip {
  template <class Book>
  RandomStrip(const Book& book, std::int64_t units)
      : tables(higgs::detail::make_unit_tables(book, higgs::PackedForm::Codes)),
        layout{
            .rows = 32, .groups = 2, .codes_per_group = units, .code_bits = 1, .unit_bits = tables.unit_bits},
        bytes(static_cast<std::size_t>(layout.strip_bytes())) {
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::uint8_t>(higgs::random_bits(1, i));
  }
  const std::uint8_t* codes() const { return bytes.data() + layout.scale_bytes(); }
  higgs::detail::StripProduct product() const { return {&layout, &tables, nullptr, bytes.data()}; }

  /// What `decode` makes of the first group, written into planes of zeros.
  template <class Decode>
  std::vector<std::uint8_t> decoded(const Decode& decode) const {
    alignas(64) std::uint8_t out[2 * higgs::detail::chunk_bytes] = {};
    const std::uint8_t* from = decode(product(), codes(), layout.steps_per_group(), out);
    if (from == codes()) std::copy_n(from, layout.steps_per_group() * layout.step_bytes(), out);
    return {out, out + sizeof out};
  }

  higgs::detail::UnitTables tables;
  higgs::PackedLayout layout;
  std::vector<std::uint8_t> bytes;
};

/// Calls visit(strip, book) for a strip of every shipped codebook.
template <class Visit>
void for_each_strip(std::int64_t units, const Visit& visit) {
  [&]<class... Books>(higgs::TypeList<Books...>) {
    (visit(RandomStrip(Books{}, units), Books{}), ...);
  }(higgs::ShippedCodebooks{});
}
