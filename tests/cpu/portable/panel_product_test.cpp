// SPDX-License-Identifier: Apache-2.0
#include <higgs/cpu/portable/panel_product.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/panels.hpp"

using higgs::Activations;
using higgs::Half;
namespace cpu = higgs::cpu;

namespace {

template <class Set, class Code>
std::vector<float> product(Set set, const RandomPanel<Code>& panel, Activations kind, int rows) {
  using Format = higgs::PackedFormatOf<Code>;
  const int planes = kind == Activations::Int16 ? 2 : 1;
  return panel_sums(panel, Set::activation_order, Set::group_multiple, kind, rows, Set::panel_rows(planes),
                    [&](const cpu::ActivationShape& shape, const auto* panels, int count, float* sums) {
                      multiply_panel(set, Format{}, panel.layout, panel.tables, shape, panel.bytes.data(),
                                     panels, count, sums);
                    });
}

}  // namespace

TEST_CASE("all kernels give the same bits for every code, number of rows and shape of groups",
          "[cpu][panel_product]") {
  for (const std::int64_t indices : {7, 40, 150})  // of a group
    for_each_panel(indices, [](auto panel, const auto& code) {
      panel.make_scales_finite();
      for (const auto kind : {Activations::Int16, Activations::Int8})
        for (int rows = 8; rows > 0; --rows) {
          const std::vector<float> expected = product(cpu::Portable{}, panel, kind, rows);
          for_each_set([&](auto set) {
            INFO(code.name() << ", instruction set " << static_cast<int>(decltype(set)::isa) << ", rows "
                             << rows);
            REQUIRE(product(set, panel, kind, rows) == expected);
          });
        }
    });
}

// The largest integers: all symbols decode to the extreme coordinates, all activations are at the limit.
TEST_CASE("no sum overflows: extreme weights times extreme activations are exact", "[cpu][panel_product]") {
  const std::int64_t cols = 1024;
  const auto check = [&]<class Code>(const Code& code) {
    using Format = higgs::PackedFormatOf<Code>;
    int lowest = 0, extreme = 0;
    for (int i = 0; i < Code::size; ++i) {
      int sum = 0;
      for (const auto coordinate : code.decode(static_cast<typename Code::Index>(i))) sum += coordinate;
      if (sum < lowest) lowest = sum, extreme = i;
    }
    std::vector<typename Code::Index> codes(static_cast<std::size_t>(cols / Code::dim),
                                            static_cast<typename Code::Index>(extreme));
    std::vector<std::uint8_t> bytes(higgs::packed_bytes(codes.size(), higgs::code_bits<Code>));
    higgs::pack_bits(std::span<const typename Code::Index>(codes), higgs::code_bits<Code>, std::span(bytes));
    const std::vector<Half> scales(1, Half(1.0f));
    higgs::QuantizedMatrix<Code> w;
    w.layout = {.rows = 1, .cols = cols, .block = cols, .group = cols};
    w.book = code;
    w.codes = bytes;
    w.scales = scales;
    // In the format of the code, whatever form is fast on this machine.
    const higgs::PackedMatrix packed(w, higgs::default_executor(), higgs::PackedForm::Codes);

    const std::vector<float> row(static_cast<std::size_t>(cols), -32639.0f);
    for_each_set([&]<class Set>(Set set) {
      for (const int rows : {1, 2, 3}) {  // decoded in registers, and in memory
        const cpu::ActivationShape shape{.groups = 1,
                                         .group = cols,
                                         .padded_group = cols,
                                         .x_group = 512,
                                         .dim = Format::dim,
                                         .planes = 2};
        std::vector<std::uint8_t> memory(cpu::ActivationPanel::bytes(shape, Set::activation_order, rows));
        const cpu::ActivationPanel panel(shape, Set::activation_order, rows, memory.data());
        for (int m = 0; m < rows; ++m)
          quantize_row(cpu::Portable{}, row.data(), shape, Activations::Int16, Set::activation_order, panel,
                       m);
        std::vector<float> sums(static_cast<std::size_t>(rows * 32));
        multiply_panel(set, Format{}, packed.packed(),
                       *static_cast<const typename Format::Tables*>(packed.tables()), shape,
                       packed.bytes().data(), &panel, 1, sums.data());
        const double exact = -32639.0 * lowest * static_cast<double>(cols / Code::dim);
        for (int m = 0; m < rows; ++m)
          // Two activation groups of two planes at most, each converted, scaled and added with one rounding.
          REQUIRE(std::fabs(double{sums[static_cast<std::size_t>(m * 32)]} - exact) <= exact * 6 * 0x1p-24);
      }
    });
  };
  [&]<class... Codes>(higgs::TypeList<Codes...>) {
    const auto one = [&]<class Code>(const Code& code) {
      if constexpr (higgs::Codebook<Code>) check(code);
    };
    (one(Codes{}), ...);
  }(higgs::ShippedCodes{});
}
