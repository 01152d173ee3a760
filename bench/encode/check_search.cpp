// SPDX-License-Identifier: Apache-2.0
// Compares the fast searches with nearest() on far more inputs than a unit test can: on a line and in the
// plane with every input there is. In the plane the exhaustive search stands for nearest(), after a check of
// its own.
//
//   check_search [codebook ...]     if none is named, all that ship and the large tables; exit status 1 if any code differs
#include <higgs/codes/grid/tables/2x1024.hpp>
#include <higgs/codes/grid/tables/2x4096.hpp>
#include <higgs/codes/grid/tables/3x4096.hpp>
#include <higgs/codes/grid/tables/4x4096.hpp>
#include <higgs/codes/grid/tables/6x4096.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/encoder.hpp>
#include <higgs/encode/exhaustive_search.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace {

// The instruction sets that have searches of their own.
struct NamedIsa {
  const char* name;
  higgs::Isa isa;
};
constexpr NamedIsa isas[] = {
    {"portable", higgs::Isa::Portable}, {"avx2", higgs::Isa::Avx2}, {"avx512", higgs::Isa::Avx512}};

constexpr std::int64_t block = 1 << 16;  // vectors that are compared at a time

// How many codes of each instruction set differ from the expected ones, over blocks of vectors that `fill`
// makes.
template <higgs::Codebook Book, class Fill, class Search, class Expected>
std::vector<std::int64_t> differences(std::int64_t blocks, Fill fill, const Search& search, Expected expected,
                                      std::size_t first_isa = 0) {
  std::array<std::atomic<std::int64_t>, std::size(isas)> totals{};
  higgs::parallel_for(higgs::default_executor(), blocks, 1, [&](std::int64_t number, std::int64_t) {
    std::vector<float> fixed(static_cast<std::size_t>(block) * Book::dim);
    std::vector<typename Book::Index> found(static_cast<std::size_t>(block)), wanted(found.size());
    fill(number, fixed);
    expected(fixed, wanted);
    for (std::size_t i = first_isa; i < std::size(isas); ++i) {
      if (higgs::usable_isa(isas[i].isa) != isas[i].isa) continue;
      search.encode(fixed, found, isas[i].isa);
      for (std::size_t c = 0; c < found.size(); ++c) totals[i] += found[c] != wanted[c];
    }
  });
  return {totals.begin(), totals.end()};
}

// Prints the differences of each instruction set that the machine has; their sum.
std::int64_t report(const std::string& code, const char* what, std::int64_t inputs,
                    const std::vector<std::int64_t>& counts) {
  std::int64_t sum = 0;
  std::printf("%-6s %-34s %11lld inputs, differences:", code.c_str(), what, static_cast<long long>(inputs));
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (higgs::usable_isa(isas[i].isa) != isas[i].isa) continue;
    std::printf(" %s %lld", isas[i].name, static_cast<long long>(counts[i]));
    sum += counts[i];
  }
  std::printf("\n");
  std::fflush(stdout);
  return sum;
}

template <higgs::Codebook Book>
void call_nearest(const std::vector<float>& fixed, std::vector<typename Book::Index>& codes) {
  constexpr auto dim = static_cast<std::size_t>(Book::dim);
  static const Book book;
  for (std::size_t i = 0; i < codes.size(); ++i) {
    std::array<std::int32_t, dim> y;
    for (std::size_t d = 0; d < dim; ++d) y[d] = static_cast<std::int32_t>(fixed[i * dim + d]);
    codes[i] = higgs::nearest(book, std::span<const std::int32_t, dim>(y));
  }
}

// A sixteenth from the whole range; the rest near enough to Gaussian: sums of four uniform numbers.
template <higgs::Codebook Book>
void fill_random(std::int64_t number, std::vector<float>& fixed) {
  constexpr auto limit = static_cast<float>(higgs::fixed_limit<Book>);
  const double units =
      std::sqrt(3.0) * static_cast<double>(1 << higgs::fraction_bits<Book>) / Book{}.step() / 65536;
  for (std::size_t i = 0; i < fixed.size(); ++i) {
    const std::uint64_t bits = higgs::random_bits(static_cast<std::uint64_t>(number) + 1, i);
    const bool anywhere = i / Book::dim % 16 == 0;
    const std::uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    const double value = anywhere
                             ? (static_cast<double>(bits >> 11) * 0x1p-52 - 1) * static_cast<double>(limit)
                             : (static_cast<double>(sum) - 131070.0) * units;
    fixed[i] = std::clamp(static_cast<float>(std::rint(value)), -limit, limit);
  }
}

// Halfway between two of 32 points drawn at random that are near each other, moved by -1, 0 or 1: borders and ties.
template <higgs::Codebook Book>
void fill_borders(std::int64_t number, std::vector<float>& fixed) {
  constexpr auto limit = static_cast<std::int32_t>(higgs::fixed_limit<Book>);
  constexpr std::int32_t half = 1 << (higgs::fraction_bits<Book> - 1);
  static const Book book;
  std::uint64_t counter = 0;
  const auto below = [&](std::uint64_t bound) {
    return static_cast<std::int32_t>(
        higgs::random_bits(static_cast<std::uint64_t>(number) + 1000, counter++) % bound);
  };
  const auto point = [&] { return book.decode(static_cast<typename Book::Index>(below(Book::size))); };
  for (std::size_t i = 0; i < fixed.size(); i += Book::dim) {
    const auto a = point();
    auto b = point();
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    for (int tries = 0; tries < 32; ++tries) {
      const auto other = point();
      std::int64_t distance = 0;
      for (std::size_t d = 0; d < other.size(); ++d) distance += (a[d] - other[d]) * (a[d] - other[d]);
      if (distance > 0 && distance < least) least = distance, b = other;
    }
    const std::int32_t along = below(65) - 32;
    for (std::size_t d = 0; d < a.size(); ++d) {
      std::int32_t v = (a[d] + b[d]) * half + below(3) - 1;
      if (d == 0) v -= along * (a[1] - b[1]);  // along the border
      if (d == 1) v += along * (a[0] - b[0]);
      fixed[i + d] = static_cast<float>(std::clamp(v, -limit, limit));
    }
  }
}

// Block `number` of all inputs, in order; beyond the last one it starts again.
template <higgs::Codebook Book>
void fill_all(std::int64_t number, std::vector<float>& fixed) {
  constexpr std::int64_t limit = higgs::fixed_limit<Book>, side = 2 * limit + 1;
  std::int64_t x = number * block % side, y = number * block / side % side;
  for (std::size_t i = 0; i < fixed.size(); i += Book::dim) {
    fixed[i] = static_cast<float>(x - limit);
    if (Book::dim == 2) fixed[i + 1] = static_cast<float>(y - limit);
    if (++x < side) continue;
    x = 0;
    y = (y + 1) % side;
  }
}

template <higgs::Codebook Book>
std::int64_t check() {
  const Book book;
  const higgs::PointSearch<Book> fast(book);
  const higgs::ExhaustiveSearch<Book> all(book);
  std::int64_t wrong = 0;
  const auto report = [&](const char* what, std::int64_t blocks, const std::vector<std::int64_t>& counts) {
    wrong += ::report(Book::name(), what, blocks * block, counts);
  };
  constexpr std::int64_t side = 2 * std::int64_t{higgs::fixed_limit<Book>} + 1;
  constexpr std::int64_t line = side / block + 1, plane = side * side / block + 1,
                         random = 100'000'000 / block + 1;
  const auto by_all = [&](const auto& fixed, auto& codes) { all.encode(fixed, codes); };
  if constexpr (Book::dim == 1) {
    report("search = nearest, every input", line,
           differences<Book>(line, fill_all<Book>, fast, call_nearest<Book>));
  } else if constexpr (Book::size >
                       4096) {  // the definition is too slow; the portable search is another algorithm
    report("search = nearest, random", 1, differences<Book>(1, fill_random<Book>, fast, call_nearest<Book>));
    report("search = nearest, borders", 1,
           differences<Book>(1, fill_borders<Book>, fast, call_nearest<Book>));
    const auto portable = [&](const auto& fixed, auto& codes) {
      fast.encode(fixed, codes, higgs::Isa::Portable);
    };
    report("search = portable search, random", random,
           differences<Book>(random, fill_random<Book>, fast, portable, 1));
    report("search = portable search, borders", 160,
           differences<Book>(160, fill_borders<Book>, fast, portable, 1));
  } else {
    report("exhaustive = nearest, random", 32,
           differences<Book>(32, fill_random<Book>, all, call_nearest<Book>));
    report("search = exhaustive, borders", 160, differences<Book>(160, fill_borders<Book>, fast, by_all));
    if constexpr (Book::dim == 2 && Book::size <= 256)
      report("search = exhaustive, every input", plane,
             differences<Book>(plane, fill_all<Book>, fast, by_all));
    else
      report("search = exhaustive, random", random,
             differences<Book>(random, fill_random<Book>, fast, by_all));
  }
  return wrong;
}

// Groups of 4 to 1024 weights of a window code: three quarters are Gaussian, the others small integers with many ties or
// the largest numbers.
template <higgs::ChainCode C>
std::int64_t check() {
  constexpr std::int64_t groups = 24'000, most = 1024;
  const C code;
  const higgs::Encoder<C> encoder(code);
  const double units = static_cast<double>(1 << higgs::fraction_bits<C>) / code.step();
  std::array<std::atomic<std::int64_t>, std::size(isas)> totals{};
  std::atomic<std::int64_t> weights = 0;
  higgs::parallel_for(higgs::default_executor(), groups, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t g = begin; g < end; ++g) {
      const auto seed = static_cast<std::uint64_t>(g) + 7;
      const std::size_t count = 4 + 2 * (higgs::random_bits(seed, 0) % (most / 2 - 1));
      std::vector<float> fixed(count);
      constexpr auto limit = static_cast<double>(higgs::fixed_limit<C>);
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t bits = higgs::random_bits(seed, i + 1);
        const double value = g % 8 == 0   ? 16.0 * static_cast<double>(bits % 9) - 64
                             : g % 8 == 1 ? ((bits & 1) != 0 ? limit : -limit)
                                          : std::rint(higgs::random_normal(seed, i) * units);
        fixed[i] = static_cast<float>(std::clamp(value, -limit, limit));
      }
      std::vector<higgs::SymbolOf<C>> wanted(count / 2), found(count / 2);
      higgs::search_window_plainly(code, fixed, std::span(wanted));
      for (std::size_t i = 0; i < std::size(isas); ++i) {
        if (higgs::usable_isa(isas[i].isa) != isas[i].isa) continue;
        encoder.encode(fixed, found.size(), std::span(found), isas[i].isa);
        for (std::size_t s = 0; s < found.size(); ++s) totals[i] += found[s] != wanted[s];
      }
      weights += static_cast<std::int64_t>(count);
    }
  });
  return report(C::name(), "search = definition", weights, {totals.begin(), totals.end()});
}

}  // namespace

int main(int count, char** arguments) {
  const higgs::ShippedCodes shipped;
  const higgs::TypeList<higgs::GridCodebook<3, 512>, higgs::GridCodebook<2, 1024>,
                        higgs::GridCodebook<2, 4096>, higgs::GridCodebook<3, 4096>,
                        higgs::GridCodebook<4, 4096>, higgs::GridCodebook<6, 4096>>
      large;
  std::vector<std::string> names(arguments + 1, arguments + count);
  if (names.empty()) {
    names = higgs::detail::names_of(shipped);
    for (const std::string& name : higgs::detail::names_of(large)) names.push_back(name);
  }
  std::int64_t wrong = 0;
  const auto run = [&]<class Book>(std::type_identity<Book>) { wrong += check<Book>(); };
  for (const std::string& name : names) {
    if (higgs::detail::visit_code_named(name, run, shipped) ||
        higgs::detail::visit_code_named(name, run, large))
      continue;
    std::fprintf(stderr, "check_search: there is no codebook %s\n", name.c_str());
    return 2;
  }
  std::printf("%lld differences in all\n", static_cast<long long>(wrong));
  return wrong != 0;
}
