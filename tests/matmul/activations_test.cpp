// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/matmul/activations.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

using higgs::Activations;
using higgs::Isa;
using higgs::detail::Panel;
using higgs::detail::QuadOrder;
using higgs::detail::RunShape;

namespace {

constexpr QuadOrder orders[] = {QuadOrder::Bytes, QuadOrder::Words, QuadOrder::Tiles};

RunShape make_shape(Activations kind, std::int64_t group, int dim, QuadOrder order = QuadOrder::Bytes) {
  const std::int64_t step = order == QuadOrder::Tiles ? 64 : 4 * dim;  // inputs
  return {.groups = 2,
          .group = group,
          .padded_group = (group + step - 1) / step * step,
          .run = higgs::detail::run_inputs(kind),
          .dim = dim,
          .planes = kind == Activations::Int16 ? 2 : 1};
}

// The integer of input i of group g in row `at`.
int value_at(const RunShape& shape, QuadOrder order, const Panel& panel, std::int64_t g, std::int64_t i,
             int at) {
  const std::int64_t place = g * shape.padded_group + higgs::detail::quad_position(i, shape.dim),
                     byte = place % 4;
  const std::uint8_t* quad = panel.quad(shape, order, place / 4, at);
  if (order == QuadOrder::Words) {
    std::int16_t words[4];
    std::memcpy(words, quad, 8);
    return words[std::array{0, 2, 1, 3}[static_cast<std::size_t>(byte)]];
  }
  const auto low =
      static_cast<std::int8_t>(quad[byte + (shape.planes == 2 ? Panel::plane_stride(order) : 0)]);
  return shape.planes == 2 ? static_cast<std::int8_t>(quad[byte]) * 256 + low : low;
}

}  // namespace

TEST_CASE("inputs are rounded to the nearest step of their run, in all orders", "[matmul][activations]") {
  for (const Activations kind : {Activations::Int16, Activations::Int8})
    for (const int dim : {1, 2, 4, 8})
      for (const std::int64_t group : {1, 30, 64, 600, 1024}) {
        std::vector<float> row(static_cast<std::size_t>(2 * group));
        for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(higgs::random_normal(7, i));
        for (const QuadOrder order : orders) {
          const RunShape shape = make_shape(kind, group, dim, order);
          std::vector<std::uint8_t> memory(Panel::bytes(shape, order, 3));
          const Panel panel(shape, order, 3, memory.data());
          higgs::detail::quantize_row_portable(row.data(), shape, kind, order, panel, 1);
          for (std::int64_t g = 0; g < 2; ++g)
            for (std::int64_t r = 0; r < shape.runs_per_group(); ++r) {
              const std::int64_t run = (g * shape.runs_per_group() + r) * 3 + 1;
              const std::int64_t begin = r * shape.run, end = std::min(begin + shape.run, shape.padded_group);
              const double step = panel.steps[run];
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
              REQUIRE(step == peak / higgs::detail::quantizer_limit(kind));
              REQUIRE(panel.corrections[run] ==
                      static_cast<std::int32_t>(static_cast<std::uint32_t>(sum) * -128u));
            }
        }
      }
}

TEST_CASE("every instruction set writes the same panel, and only its row", "[matmul][activations]") {
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
            for (const QuadOrder order : orders) {
              const RunShape shape = make_shape(kind, group, dim, order);
              std::vector<std::uint8_t> a(Panel::bytes(shape, order, rows), 0x55), b(a.size(), 0x55);
              const Panel slow(shape, order, rows, a.data()), fast(shape, order, rows, b.data());
              higgs::detail::quantize_row(row.data(), shape, kind, order, slow, rows - 1, Isa::Portable);
              for (const Isa isa : {Isa::Avx2, Isa::Avx512, Isa::Neon}) {
                if (isa > higgs::best_isa()) continue;
                higgs::detail::quantize_row(row.data(), shape, kind, order, fast, rows - 1, isa);
                REQUIRE(a == b);
                std::fill(b.begin(), b.end(), std::uint8_t{0x55});
                static_cast<void>(Panel(shape, order, rows, b.data()));  // zeros where it wants them
              }
            }
          }
}

TEST_CASE("a run that is not finite has step NaN, a vanishing one is zero", "[matmul][activations]") {
  const RunShape shape = make_shape(Activations::Int16, 16, 1);
  for (const float value :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 0x1p-101f}) {
    std::vector<float> row(32, 0.0f);
    row[3] = value;
    std::vector<std::uint8_t> memory(Panel::bytes(shape, QuadOrder::Words, 1));
    const Panel panel(shape, QuadOrder::Words, 1, memory.data());
    higgs::detail::quantize_row_portable(row.data(), shape, Activations::Int16, QuadOrder::Words, panel, 0);
    CHECK(std::isnan(panel.steps[0]) == !(value < 1.0f));
    CHECK(value_at(shape, QuadOrder::Words, panel, 0, 3, 0) == 0);
    CHECK(panel.steps[1] == 0.0f);
  }
}

TEST_CASE("a rotated row in 8 bits is the rotated row within half a step", "[matmul][activations]") {
  for (const std::int64_t block : {4, 36, 96}) {
    std::vector<float> x(static_cast<std::size_t>(3 * block - 1)), scales(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(higgs::random_normal(9, i));
      scales[i] = 0.5f + static_cast<float>(i % 3);
    }
    std::vector<float> row(x.size() + 1), steps((row.size() + 63) / 64);
    higgs::rotate_row(std::span<const float>(x), scales, std::span<float>(row), block, 5, 64);
    for (const Isa isa : {Isa::Portable, higgs::best_isa()}) {
      std::vector<std::int8_t> out(row.size());
      higgs::rotate_to_int8(std::span<const float>(x), scales, std::span<std::int8_t>(out), steps, block, 5,
                            64, isa);
      for (std::size_t i = 0; i < row.size(); ++i)  // half a step, and three roundings of 127
        REQUIRE(std::fabs(row[i] - static_cast<float>(out[i]) * steps[i / 64]) <= 0.50003f * steps[i / 64]);
    }
  }
  std::vector<float> x(8), steps(1);
  std::vector<std::int8_t> out(8);
  const auto rotate = [&](std::size_t size, std::size_t count) {
    higgs::rotate_to_int8(std::span<const float>(x), {}, std::span(out).first(size),
                          std::span(steps).first(count), 2, 1);
  };
  rotate(8, 1);
  CHECK_THROWS_AS(rotate(6, 1), higgs::InvalidArgument);
  CHECK_THROWS_AS(rotate(8, 0), higgs::InvalidArgument);
  CHECK_THROWS_AS(rotate(4, 1), higgs::InvalidArgument);
}

TEST_CASE("scratch memory is kept by a thread, and a second user gets its own", "[matmul][activations]") {
  const std::uint8_t* first = nullptr;
  {
    const higgs::detail::Scratch outer(1000);
    first = outer.data();
    const higgs::detail::Scratch inner(10);
    CHECK(inner.data() != first);
    CHECK(reinterpret_cast<std::uintptr_t>(first) % 64 == 0);
  }
  const higgs::detail::Scratch again(1000);
  CHECK(again.data() == first);
}
