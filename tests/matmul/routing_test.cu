// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/random.hpp>
#include <higgs/matmul/routing.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "emulator/schedules.hpp"
#include "matrices.hpp"

using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

struct Sorted {
  std::vector<std::int32_t> offsets, pairs, tokens;
};

/// The definition: experts in ascending order, each with its pairs in ascending order.
Sorted sort_plainly(const std::vector<std::int32_t>& ids, int slots, int experts) {
  Sorted out{{0}, {}, {}};
  for (int e = 0; e < experts; ++e) {
    for (std::size_t pair = 0; pair < ids.size(); ++pair)
      if (ids[pair] == e) {
        out.pairs.push_back(static_cast<std::int32_t>(pair));
        out.tokens.push_back(static_cast<std::int32_t>(pair) / slots);
      }
    out.offsets.push_back(static_cast<std::int32_t>(out.pairs.size()));
  }
  return out;
}

Sorted sort_on_device(const std::vector<std::int32_t>& ids, int slots, int experts) {
  const auto tokens = static_cast<std::int64_t>(ids.size()) / slots;
  const gpu::DeviceBuffer<std::int32_t> ids_device{std::span<const std::int32_t>(ids)};
  const gpu::DeviceBuffer<std::int32_t> offsets(static_cast<std::size_t>(experts + 1)), pairs(ids.size()),
      of_pairs(ids.size());
  gpu::sort_pairs_async(gpu::DenseView<const std::int32_t>(ids_device.data(), tokens, slots), experts,
                        {offsets.data(), pairs.data(), of_pairs.data()}, nullptr);
  gpu::check(cudaDeviceSynchronize(), "sort_on_device");
  Sorted out{offsets.to_host(), pairs.to_host(), of_pairs.to_host()};
  const auto count = static_cast<std::size_t>(out.offsets.back());
  REQUIRE(count <= ids.size());
  out.pairs.resize(count);
  out.tokens.resize(count);
  return out;
}

std::vector<std::int32_t> random_ids(std::size_t count, int experts, std::uint64_t seed) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < count; ++i)  // some below 0, some of experts that are not here
    ids.push_back(
        static_cast<std::int32_t>(higgs::random_bits(seed, i) % static_cast<unsigned>(experts + 3)) - 1);
  return ids;
}

}  // namespace

TEST_CASE("pairs are sorted by expert and then by number, those without an expert left out",
          "[matmul][routing][gpu]") {
  struct Case {
    int tokens, slots, experts;
  };
  for (const Case c : {Case{1, 8, 128}, {5, 2, 3}, {7, 1, 1}, {33, 4, 10}, {0, 2, 5}, {300, 1, 4}}) {
    INFO(c.tokens << " tokens, " << c.slots << " slots, " << c.experts << " experts");
    const auto ids = random_ids(static_cast<std::size_t>(c.tokens * c.slots), c.experts, 5);
    const Sorted expected = sort_plainly(ids, c.slots, c.experts);
    emulator::for_each_schedule(2, [&](std::uint32_t) {
      const Sorted sorted = sort_on_device(ids, c.slots, c.experts);
      REQUIRE(sorted.offsets == expected.offsets);
      REQUIRE(sorted.pairs == expected.pairs);
      REQUIRE(sorted.tokens == expected.tokens);
    });
  }
  const gpu::DenseView<const std::int32_t> none(nullptr, 1, 0), one(nullptr, 1, 1);
  CHECK_THROWS_AS(gpu::sort_pairs_async(none, 4, {}, nullptr), higgs::InvalidArgument);
  CHECK_THROWS_AS(gpu::sort_pairs_async(one, 0, {}, nullptr), higgs::InvalidArgument);
}

TEST_CASE("the outputs of a token's pairs are added in the order of its slots", "[matmul][routing][gpu]") {
  const int tokens = 5, slots = 3, experts = 4, outputs = 37, stride = 40;
  const auto ids = random_ids(tokens * slots, experts, 6);
  const Normals<Half> x(tokens * slots, outputs, 2);
  const Normals residual(tokens, stride, 3);
  const gpu::DeviceBuffer<std::int32_t> ids_device{std::span<const std::int32_t>(ids)};
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const gpu::DeviceBuffer<float> y{std::span<const float>(residual.data)};  // the residual in place
  const gpu::DenseView<const std::int32_t> ids_view(ids_device.data(), tokens, slots);
  const gpu::DenseView<const Half> pairs(x_device.data(), tokens * slots, outputs);
  gpu::add_pairs_async(pairs, ids_view, experts, gpu::DenseView<float>(y.data(), tokens, outputs, stride),
                       nullptr, y.data());
  const gpu::DeviceBuffer<Half> rounded(tokens * outputs);
  gpu::add_pairs_async(pairs, ids_view, experts, gpu::DenseView<Half>(rounded.data(), tokens, outputs),
                       nullptr);
  gpu::check(cudaDeviceSynchronize(), "add_pairs_async");
  const std::vector<float> sums = y.to_host();
  const std::vector<Half> halves = rounded.to_host();
  for (int t = 0; t < tokens; ++t)
    for (int n = 0; n < stride; ++n) {
      float sum = 0;
      for (int s = 0; s < slots && n < outputs; ++s)
        if (const std::int32_t id = ids[static_cast<std::size_t>(t * slots + s)]; id >= 0 && id < experts)
          sum += static_cast<float>(x.view(t * slots + s, n));
      if (n < outputs) CHECK(halves[static_cast<std::size_t>(t * outputs + n)] == Half(sum));
      CHECK(sums[static_cast<std::size_t>(t * stride + n)] == sum + residual.view(t, n));
    }
  CHECK_THROWS_AS(
      gpu::add_pairs_async(pairs, ids_view, experts, gpu::DenseView<float>(y.data(), tokens, 36), nullptr),
      higgs::InvalidArgument);
}
