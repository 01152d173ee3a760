// SPDX-License-Identifier: Apache-2.0
// All points for many vectors at a time: the nearest() of every input, in integer lanes.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/cpu/portable/exhaustive_search.hpp>
#include <higgs/encode/nearest.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {

/// The exhaustive search of nearest() for many vectors: 2 instructions for a pair of coordinates of 16
/// vectors.
template <Codebook Book>
class ExhaustiveSearch {
 public:
  explicit ExhaustiveSearch(const Book& book) : book_(book) {
    // The sums of a run have to fit 32 bits for every input; shipped tables do with any int8 coordinates
    // above -128.
    if constexpr (sizeof(typename Book::Element) == 1) {
      std::int64_t low = 0, high = 0;
      for (int i = 0; i < Book::size; ++i) {
        const typename Book::Point point = book.decode(static_cast<Index>(i));
        std::int64_t reach = 0;
        for (const auto c : point) reach += std::int64_t{fixed_limit<Book>} * std::abs(int{c});
        low = std::min(low, -reach - half_norm(point));
        high = std::max(high, reach - half_norm(point));
      }
      if (256 * (high - low) + 255 > std::numeric_limits<std::uint32_t>::max()) return;
      const std::int64_t shift = std::numeric_limits<std::int32_t>::min() - 256 * low;
      for (int i = 0; i < Book::size; ++i) {
        const typename Book::Point point = book.decode(static_cast<Index>(i));
        typename Run::Entry entry{};
        for (std::size_t d = 0; d < point.size(); ++d)
          entry.words[d / 2] |=
              static_cast<std::int32_t>((static_cast<std::uint32_t>(point[d]) & 0xff) << (d % 2 * 16 + 8));
        entry.start = static_cast<std::int32_t>(shift - 256 * half_norm(point) + 255 - i % 256);
        entries_.push_back(entry);
      }
    }
  }

  /// codes[i] = nearest(book, fixed[i * dim ... (i + 1) * dim)). `fixed` holds integers, |fixed| <=
  /// fixed_limit.
  void encode(std::span<const float> fixed, std::span<typename Book::Index> codes,
              Isa isa = best_isa()) const noexcept {
    constexpr std::size_t batch = cpu::search_batch, dim = Book::dim;
    const auto kernel = cpu::dispatch(usable_isa(isa), []<class Set>(Set) -> Kernel {
      return [](const Run& run, const float* in, std::int32_t* out) noexcept {
        search_run(Set{}, run, in, out);
      };
    });
    std::size_t i = 0;
    for (; i + batch <= codes.size(); i += batch)
      search_batch(kernel, fixed.data() + i * dim, codes.data() + i);
    if (i == codes.size()) return;
    std::array<float, batch * dim> rest{};
    std::array<Index, batch> found;
    std::copy_n(fixed.data() + i * dim, (codes.size() - i) * dim, rest.data());
    search_batch(kernel, rest.data(), found.data());
    std::copy_n(found.data(), codes.size() - i, codes.data() + i);
  }

 private:
  using Index = typename Book::Index;
  using Run = cpu::PointRun<Book::dim>;
  using Kernel = void (*)(const Run&, const float*, std::int32_t*) noexcept;

  static std::int64_t half_norm(const typename Book::Point& point) noexcept {
    std::int64_t norm = 0;
    for (const auto c : point) norm += std::int64_t{c} * c;
    return norm * (std::int64_t{1} << (fraction_bits<Book> - 1));
  }

  void search_batch(Kernel kernel, const float* fixed, Index* codes) const noexcept {
    constexpr int batch = cpu::search_batch;
    if (entries_.empty() || !fits(fixed)) {
      for (int i = 0; i < batch; ++i) {
        std::array<std::int32_t, Book::dim> y;
        for (std::size_t d = 0; d < y.size(); ++d)
          y[d] = static_cast<std::int32_t>(fixed[static_cast<std::size_t>(i) * y.size() + d]);
        codes[i] = nearest(book_, std::span<const std::int32_t, Book::dim>(y));
      }
      return;
    }
    std::int32_t most[batch], best[batch];
    kernel({entries_.data(), std::min(Book::size, 256)}, fixed, most);
    for (int i = 0; i < batch; ++i) codes[i] = static_cast<Index>(cpu::place_of(most[i]));
    if constexpr (Book::size > 256)
      for (int begin = 256; begin < Book::size; begin += 256) {
        kernel({entries_.data() + begin, std::min(Book::size - begin, 256)}, fixed, best);
        for (int i = 0; i < batch; ++i) {
          if (cpu::score_of(best[i]) <= cpu::score_of(most[i])) continue;
          most[i] = best[i];
          codes[i] = static_cast<Index>(begin + cpu::place_of(best[i]));
        }
      }
  }
  // Vector lanes hold int16, one less than the limit of one and two dimensions.
  static bool fits(const float* fixed) noexcept {
    if constexpr (fixed_limit<Book> <= std::numeric_limits<std::int16_t>::max()) return true;
    int beyond = 0;
    for (int i = 0; i < cpu::search_batch * Book::dim; ++i) beyond += fixed[i] > 32767.0f;
    return beyond == 0;
  }

  Book book_;
  std::vector<typename Run::Entry> entries_;  // (size); none: they do not fit, nearest() is called instead
};

}  // namespace v0
}  // namespace higgs
