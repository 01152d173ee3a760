// SPDX-License-Identifier: Apache-2.0
// Encoders on one thread, Gaussian inputs, beside the comparison with all points in the same run.
#include <higgs/codes/grid/tables/2x1024.hpp>
#include <higgs/codes/grid/tables/2x4096.hpp>
#include <higgs/codes/grid/tables/3x4096.hpp>
#include <higgs/codes/grid/tables/4x4096.hpp>
#include <higgs/codes/grid/tables/6x4096.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/encoder.hpp>
#include <higgs/encode/exhaustive_search.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr std::size_t weights = 32768;

template <higgs::Code Book>
std::vector<float> gaussian_inputs() {
  constexpr auto limit = static_cast<double>(higgs::fixed_limit<Book>);
  const double units = static_cast<double>(1 << higgs::fraction_bits<Book>) / Book{}.step();
  std::vector<float> fixed(weights);
  for (std::size_t i = 0; i < weights; ++i)
    fixed[i] = static_cast<float>(std::clamp(std::rint(higgs::random_normal(1, i) * units), -limit, limit));
  return fixed;
}

template <class Search, higgs::Codebook Book>
void encode(benchmark::State& state, higgs::Isa isa) {
  const Search search{Book{}};
  const std::vector<float> fixed = gaussian_inputs<Book>();
  std::vector<typename Book::Index> codes(weights / Book::dim), expected(codes.size());
  higgs::ExhaustiveSearch<Book>(Book{}).encode(fixed, expected);
  for (auto _ : state) {
    search.encode(fixed, codes, isa);
    benchmark::DoNotOptimize(codes.data());
    benchmark::ClobberMemory();
  }
  if (codes != expected) state.SkipWithError("codes differ from those of the exhaustive search");
  state.counters["weights/s"] =
      benchmark::Counter(static_cast<double>(weights), benchmark::Counter::kIsIterationInvariantRate);
}

// Groups of 1024 weights of a code whose symbols depend on each other.
template <higgs::ChainCode C>
void encode_groups(benchmark::State& state, higgs::Isa isa) {
  const higgs::Encoder<C> encoder{C{}};
  const std::vector<float> fixed = gaussian_inputs<C>();
  std::vector<higgs::SymbolOf<C>> symbols(weights / C::dim);
  for (auto _ : state) {
    encoder.encode(fixed, 1024 / C::dim, symbols, isa);
    benchmark::DoNotOptimize(symbols.data());
    benchmark::ClobberMemory();
  }
  state.counters["weights/s"] =
      benchmark::Counter(static_cast<double>(weights), benchmark::Counter::kIsIterationInvariantRate);
}

template <higgs::Codebook Book>
void construct(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(higgs::PointSearch<Book>(Book{}));
}

template <higgs::Codebook Book>
void register_book() {
  using Fast = higgs::PointSearch<Book>;
  using All = higgs::ExhaustiveSearch<Book>;
  const std::string name = "encode/encoder/cpu/" + Book::name();
  struct Variant {
    const char* name;
    higgs::Isa isa;
  };
  for (const Variant& each :
       {Variant{"", higgs::best_isa()}, {"_avx2", higgs::Isa::Avx2}, {"_portable", higgs::Isa::Portable}}) {
    if (higgs::usable_isa(each.isa) != each.isa) continue;
    if (!std::is_same_v<Fast, All>)
      benchmark::RegisterBenchmark((name + "/search" + each.name).c_str(), encode<Fast, Book>, each.isa);
    if (sizeof(typename Book::Element) == 1 && Book::size <= 4096)
      benchmark::RegisterBenchmark((name + "/exhaustive" + each.name).c_str(), encode<All, Book>, each.isa);
  }
  benchmark::RegisterBenchmark((name + "/construct").c_str(), construct<Book>)->Unit(benchmark::kMicrosecond);
}

template <higgs::ChainCode C>
void register_book() {
  for (const auto& [name, isa] : {std::pair{"", higgs::best_isa()}, std::pair{"_avx2", higgs::Isa::Avx2},
                                  std::pair{"_portable", higgs::Isa::Portable}})
    if (higgs::usable_isa(isa) == isa)
      benchmark::RegisterBenchmark(("encode/encoder/cpu/" + C::name() + "/search" + name).c_str(),
                                   encode_groups<C>, isa);
}

template <class... Books>
bool register_books(higgs::TypeList<Books...>) {
  (register_book<Books>(), ...);
  return true;
}
const bool registered = register_books(higgs::ShippedCodes{});
const bool large_registered = register_books(
    higgs::TypeList<higgs::GridCodebook<3, 512>, higgs::GridCodebook<8, 256>, higgs::GridCodebook<2, 1024>,
                    higgs::GridCodebook<2, 4096>, higgs::GridCodebook<3, 4096>, higgs::GridCodebook<4, 4096>,
                    higgs::GridCodebook<6, 4096>>{});

}  // namespace
