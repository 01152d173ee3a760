// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/activations.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "cpu/panels.hpp"

using higgs::Activations;
using higgs::cpu::ActivationOrder;
using higgs::cpu::ActivationPanel;
using higgs::cpu::ActivationShape;
using higgs::cpu::Portable;

namespace {

constexpr ActivationOrder orders[] = {ActivationOrder::Bytes, ActivationOrder::Words,
                                      ActivationOrder::AmxTiles};

ActivationShape make_shape(Activations kind, std::int64_t group, int dim,
                           ActivationOrder order = ActivationOrder::Bytes) {
  const std::int64_t step = order == ActivationOrder::AmxTiles ? 64 : 4 * dim;  // inputs
  return {.groups = 2,
          .group = group,
          .padded_group = (group + step - 1) / step * step,
          .x_group = higgs::cpu::activation_group(kind),
          .dim = dim,
          .planes = kind == Activations::Int16 ? 2 : 1};
}

// The integer of input i of group g in row `at`.
int value_at(const ActivationShape& shape, ActivationOrder order, const ActivationPanel& panel,
             std::int64_t g, std::int64_t i, int at) {
  const std::int64_t place = g * shape.padded_group + higgs::cpu::quad_position(i, shape.dim),
                     byte = place % 4;
  const std::uint8_t* quad = panel.quad(shape, order, place / 4, at);
  if (order == ActivationOrder::Words) {
    std::int16_t words[4];
    std::memcpy(words, quad, 8);
    return words[std::array{0, 2, 1, 3}[static_cast<std::size_t>(byte)]];
  }
  const auto low =
      static_cast<std::int8_t>(quad[byte + (shape.planes == 2 ? ActivationPanel::plane_stride(order) : 0)]);
  return shape.planes == 2 ? static_cast<std::int8_t>(quad[byte]) * 256 + low : low;
}

}  // namespace

TEST_CASE("inputs are rounded to the nearest step of their run, in all orders", "[cpu][activations]") {
  for (const Activations kind : {Activations::Int16, Activations::Int8})
    for (const int dim : {1, 2, 4, 8})
      for (const std::int64_t group : {1, 30, 64, 600, 1024}) {
        std::vector<float> row(static_cast<std::size_t>(2 * group));
        for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(higgs::random_normal(7, i));
        for (const ActivationOrder order : orders) {
          const ActivationShape shape = make_shape(kind, group, dim, order);
          std::vector<std::uint8_t> memory(ActivationPanel::bytes(shape, order, 3));
          const ActivationPanel panel(shape, order, 3, memory.data());
          quantize_row(Portable{}, row.data(), shape, kind, order, panel, 1);
          for (std::int64_t g = 0; g < 2; ++g)
            for (std::int64_t r = 0; r < shape.x_groups_per_group(); ++r) {
              const std::int64_t run = (g * shape.x_groups_per_group() + r) * 3 + 1;
              const std::int64_t begin = r * shape.x_group,
                                 end = std::min(begin + shape.x_group, shape.padded_group);
              const double step = panel.scales[run];
              std::int64_t sum = 0;
              float peak = 0;
              for (std::int64_t i = begin; i < end; ++i) {
                const int q = value_at(shape, order, panel, g, i, 1);
                const float x = i < group ? row[static_cast<std::size_t>(g * group + i)] : 0.0f;
                sum += q;
                peak = std::max(peak, std::fabs(x));
                // Half a step, and three roundings of float: of step, of its inverse, of the product.
                REQUIRE(std::fabs(q * step - double{x}) <= step * (0.5 + std::abs(q) * 3 * 0x1p-24));
              }
              REQUIRE(step == peak / higgs::cpu::activation_limit(kind));
              REQUIRE(panel.compensation[run] ==
                      static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) * -128u));
            }
        }
      }
}

TEST_CASE("every instruction set writes the same panel, and only its row", "[cpu][activations]") {
  for (const Activations kind : {Activations::Int16, Activations::Int8})
    for (const int dim : {1, 2, 4, 8})
      for (const std::int64_t group : {1, 7, 30, 65, 600})
        for (const int rows : {1, 2, 6})
          for (const float unusual : {1.0f, 0.0f, 1e-38f, 3e38f, std::numeric_limits<float>::infinity(),
                                      std::numeric_limits<float>::quiet_NaN()}) {
            std::vector<float> row(static_cast<std::size_t>(2 * group));
            for (std::size_t i = 0; i < row.size(); ++i)
              row[i] = static_cast<float>(higgs::random_normal(8, i)) * (unusual < 1.0f ? unusual : 1.0f);
            row[row.size() / 2] *= unusual;
            for (const ActivationOrder order : orders) {
              const ActivationShape shape = make_shape(kind, group, dim, order);
              std::vector<std::uint8_t> a(ActivationPanel::bytes(shape, order, rows), 0x55),
                  b(a.size(), 0x55);
              const ActivationPanel slow(shape, order, rows, a.data()), fast(shape, order, rows, b.data());
              quantize_row(Portable{}, row.data(), shape, kind, order, slow, rows - 1);
              for_each_set([&](auto set) {
                quantize_row(set, row.data(), shape, kind, order, fast, rows - 1);
                REQUIRE(a == b);
                std::fill(b.begin(), b.end(), std::uint8_t{0x55});
                static_cast<void>(
                    ActivationPanel(shape, order, rows, b.data()));  // zeros where it wants them
              });
            }
          }
}

TEST_CASE("a run that is not finite has step NaN, a vanishing one is zero", "[cpu][activations]") {
  const ActivationShape shape = make_shape(Activations::Int16, 16, 1);
  for (const float value :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 0x1p-101f}) {
    std::vector<float> row(32, 0.0f);
    row[3] = value;
    std::vector<std::uint8_t> memory(ActivationPanel::bytes(shape, ActivationOrder::Words, 1));
    const ActivationPanel panel(shape, ActivationOrder::Words, 1, memory.data());
    quantize_row(Portable{}, row.data(), shape, Activations::Int16, ActivationOrder::Words, panel, 0);
    CHECK(std::isnan(panel.scales[0]) == !(value < 1.0f));
    CHECK(value_at(shape, ActivationOrder::Words, panel, 0, 3, 0) == 0);
    CHECK(panel.scales[1] == 0.0f);
  }
}
