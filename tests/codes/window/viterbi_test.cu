// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/window/viterbi.cuh>
#include <higgs/core/random.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <type_traits>
#include <vector>

#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::WindowCode;
namespace gpu = higgs::gpu;

namespace {

// One warp for several groups, one after the other: their symbols, and the coordinates that these stand for. Where Resumed,
// `states` are those behind the symbols that the groups have already, and become those behind all.
template <int K, bool Resumed>
__global__ void __launch_bounds__(32)
    search_kernel(const std::uint32_t* words, const std::uint32_t* weights, int groups, int symbols,
                  std::uint32_t* names, typename WindowCode<K>::Symbol* out, std::int8_t* coordinates,
                  typename WindowCode<K>::State* states) {
  using Search = gpu::WindowSearch<K>;
  __shared__ __align__(16) std::uint32_t points[Search::point_words], costs[Search::shared_words];
  for (int i = static_cast<int>(threadIdx.x); i < Search::point_words; i += 32) points[i] = words[i];
  __syncwarp();
  const Search search(points);
  for (int g = static_cast<int>(blockIdx.x); g < groups; g += static_cast<int>(gridDim.x)) {
    const std::int64_t first = std::int64_t{g} * symbols;
    typename WindowCode<K>::State state;
    if constexpr (Resumed) state = states[g];
    search.encode_warp(
        symbols, costs, names + std::int64_t{blockIdx.x} * symbols * Search::name_words,
        [&](std::int64_t t) { return weights[first + t]; },
        [&](std::int64_t t, int symbol, int x, int y) {
          out[first + t] = static_cast<typename WindowCode<K>::Symbol>(symbol);
          coordinates[2 * (first + t)] = static_cast<std::int8_t>(x);
          coordinates[2 * (first + t) + 1] = static_cast<std::int8_t>(y);
        },
        state);
    if constexpr (Resumed) {
      __syncwarp();
      for (int t = 0; t < symbols; ++t) state = Search::next(state, out[first + t]);
      if (threadIdx.x == 0) states[g] = state;
    }
  }
}

template <int K>
struct Found {
  std::vector<typename WindowCode<K>::Symbol> symbols;
  std::vector<std::int8_t> coordinates;
};
template <int K, bool Resumed = false>
Found<K> search_on_device(const WindowCode<K>& code, const std::vector<float>& fixed, int groups,
                          typename WindowCode<K>::State* states = nullptr) {
  using Search = gpu::WindowSearch<K>;
  const std::size_t count = fixed.size() / 2, each = count / static_cast<std::size_t>(groups);
  std::vector<std::uint32_t> weights;
  for (std::size_t t = 0; t < count; ++t)
    weights.push_back(Search::pair(static_cast<int>(fixed[2 * t]), static_cast<int>(fixed[2 * t + 1])));
  const unsigned blocks = static_cast<unsigned>(std::min(groups, 2));
  const gpu::DeviceBuffer<std::uint32_t> words{std::span<const std::uint32_t>(Search::words(code))},
      weights_device{std::span<const std::uint32_t>(weights)}, names(blocks * each * Search::name_words);
  const gpu::DeviceBuffer<typename WindowCode<K>::Symbol> symbols(count);
  const gpu::DeviceBuffer<std::int8_t> coordinates(2 * count);
  gpu::launch(search_kernel<K, Resumed>, dim3(blocks), 32, 0, nullptr, words.data(), weights_device.data(),
              groups, static_cast<int>(each), names.data(), symbols.data(), coordinates.data(), states);
  gpu::check(cudaDeviceSynchronize(), "search_kernel");
  return {symbols.to_host(), coordinates.to_host()};
}

// Weights of N(0, 1), small integers with many ties, zeros, and the largest numbers.
template <int K>
std::vector<float> weights_of(int kind, std::size_t count) {
  using Code = WindowCode<K>;
  constexpr auto limit = static_cast<double>(higgs::fixed_limit<Code>);
  std::vector<float> out;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t bits = higgs::random_bits(15, i);
    const double value = kind == 0   ? higgs::random_normal(19, i) * 16 / Code{}.step()
                         : kind == 1 ? 16.0 * static_cast<double>(bits % 9) - 64
                         : kind == 2 ? 0.0
                                     : ((bits & 1) != 0 ? limit : -limit);
    out.push_back(static_cast<float>(std::clamp(std::rint(value), -limit, limit)));
  }
  return out;
}

// A table of few points, most of them several times: every choice among equals shows.
template <int K>
WindowCode<K> coarse_code() {
  typename WindowCode<K>::Points points;
  for (std::size_t i = 0; i < points.size(); ++i)
    for (std::size_t d = 0; d < 2; ++d)
      points[i][d] = static_cast<std::int8_t>(higgs::random_bits(3, 2 * i + d) % 5 * 2);
  return {points, 0.3, 1.0};
}

template <int K>
void check_equals_definition(const WindowCode<K>& code, const std::vector<float>& fixed, int groups) {
  const Found<K> found = search_on_device(code, fixed, groups);
  const std::size_t each = found.symbols.size() / static_cast<std::size_t>(groups);
  std::vector<typename WindowCode<K>::Symbol> symbols(each);
  std::vector<std::int8_t> values(2 * each);
  for (std::size_t g = 0; g < static_cast<std::size_t>(groups); ++g) {
    INFO("group " << g << " of " << groups << ", " << each << " symbols");
    higgs::search_window_plainly(code, std::span(fixed).subspan(2 * g * each, 2 * each), std::span(symbols));
    code.decode(symbols, values);
    CHECK(std::ranges::equal(std::span(found.symbols).subspan(g * each, each), symbols));
    CHECK(std::ranges::equal(std::span(found.coordinates).subspan(2 * g * each, 2 * each), values));
  }
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("a warp finds the symbols of the definition, ties included", "[codes][window][gpu]",
                       ((int K), K), 2, 3, 4, 5, 6, 7, 8, 9, 10) {
  for (int kind = 0; kind < 4; ++kind) {
    INFO("kind " << kind);
    for (const std::size_t symbols : {1u, 2u, 5u, 31u, 32u, 33u, 70u})
      check_equals_definition(WindowCode<K>{}, weights_of<K>(kind, 6 * symbols), 3);
    check_equals_definition(coarse_code<K>(), weights_of<K>(kind, 2 * 100), 1);
  }
  check_equals_definition(WindowCode<K>{}, weights_of<K>(0, 1024), 1);
}

TEMPLATE_TEST_CASE_SIG("a warp goes on from any state as the definition does", "[codes][window][gpu]",
                       ((int K), K), 2, 4, 5, 8, 10) {
  const WindowCode<K> code;
  using State = typename WindowCode<K>::State;
  using Symbols = std::vector<typename WindowCode<K>::Symbol>;
  constexpr std::size_t groups = 5, each = 28;
  std::vector<State> states(groups);
  std::vector<std::int8_t> values(2 * each);
  for (std::size_t g = 0; g < groups; ++g) {
    Symbols before;
    for (std::size_t i = 0; i < each; ++i)
      before.push_back(static_cast<typename WindowCode<K>::Symbol>(higgs::random_bits(g, i) >> (64 - K)));
    code.decode(states[g], before, values);
  }
  const gpu::DeviceBuffer<State> on_device{std::span<const State>(states)};
  const std::vector<float> fixed = weights_of<K>(0, 2 * each * groups);
  const Found<K> found = search_on_device<K, true>(code, fixed, groups, on_device.data());
  const std::vector<State> behind = on_device.to_host();
  for (std::size_t g = 0; g < groups; ++g) {
    Symbols symbols(each);
    higgs::search_window_plainly(code, std::span(fixed).subspan(2 * g * each, 2 * each), std::span(symbols),
                                 states[g]);
    code.decode(states[g], symbols, values);
    CHECK(std::ranges::equal(std::span(found.symbols).subspan(g * each, each), symbols));
    CHECK(std::ranges::equal(std::span(found.coordinates).subspan(2 * g * each, 2 * each), values));
    CHECK(behind[g].window == states[g].window);
    CHECK(behind[g].signs == states[g].signs);
  }
}

TEST_CASE("no schedule of the search has a race or changes a symbol", "[codes][window][gpu]") {
  const auto check = []<int K>(std::integral_constant<int, K>) {
    const std::vector<float> fixed = weights_of<K>(1, 4 * 40);
    const Found<K> first = search_on_device(WindowCode<K>{}, fixed, 2);
    emulator::for_each_schedule(10, [&](std::uint32_t) {
      REQUIRE(search_on_device(WindowCode<K>{}, fixed, 2).symbols == first.symbols);
    });
  };
  check(std::integral_constant<int, 2>{});
  check(std::integral_constant<int, 4>{});
  check(std::integral_constant<int, 5>{});
  check(std::integral_constant<int, 8>{});
  check(std::integral_constant<int, 10>{});
}

namespace {

// Warp instructions and passes of shared memory a weight, in groups of 1024, each with its bound.
template <int K>
void check_counts(double instructions, double passes) {
  emulator::clear_launches();
  search_on_device(WindowCode<K>{}, weights_of<K>(0, 8 * 1024), 8);
  const emulator::Counters& found = emulator::launches().back().counters;
  const auto each = [](std::uint64_t count) { return static_cast<double>(count) / (8 * 1024); };
  const double work = each(found.work()), taken = each(found.shared_passes);
  std::printf("| %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", K / 2.0, work, taken,
              each(found.shared_passes_ideal), each(found[emulator::Class::Shuffle]),
              32 * each(found.sectors_read + found.sectors_written));
  CHECK(work <= instructions);
  CHECK(taken <= passes);
}

}  // namespace

TEST_CASE("the search executes no more instructions and passes than the table says",
          "[codes][window][counts][gpu]") {
  if (!emulator::in_use) return;
  std::printf(
      "| bits | instructions | passes | without conflicts | shuffles | bytes "
      "|\n|---:|---:|---:|---:|---:|---:|\n");
  check_counts<2>(142, 12.3);
  check_counts<3>(
      191, 37.5);  // nvcc loads a pair of costs once more or not, as the order of instances in a file has it
  check_counts<4>(255, 69);
  check_counts<5>(183, 18.8);
  check_counts<6>(157, 10.5);
  check_counts<7>(166, 11.5);
  check_counts<8>(218, 22.6);
  check_counts<9>(347, 26.8);
  check_counts<10>(528, 35);
}
