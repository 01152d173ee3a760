// SPDX-License-Identifier: Apache-2.0
// All points for many vectors at a time: the nearest() of every input, in integer lanes.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/cpu/isas.hpp>
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

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#endif

namespace higgs {
inline namespace v0 {

namespace detail {

/// Vectors that an exhaustive search takes at a time.
inline constexpr int search_batch = 64;

/// A run of at most 256 points, arranged so that one signed maximum finds the nearest and the lowest of
/// equals: start + 256 <y, c> = 256 * score + 255 - index + a constant, exactly, in 32 bits.
template <int Dim>
struct PointRun {
  static constexpr int pairs = (Dim + 1) / 2;
  struct Entry {
    std::array<std::int32_t, static_cast<std::size_t>(pairs)> words;  // two int16 each: coordinates times 256
    std::int32_t start;
  };
  const Entry* entries;
  int count;
};

/// What the maximum over a run says: its place in the run and, for comparison between runs, its score.
constexpr std::int32_t place_of(std::int32_t best) noexcept { return 255 - (best & 255); }
constexpr std::int32_t score_of(std::int32_t best) noexcept { return best >> 8; }

namespace portable {
/// best[i] = the maximum over the run for vector i of `fixed` (search_batch, Dim).
template <int Dim>
void search_run(const PointRun<Dim>& run, const float* fixed, std::int32_t* best) noexcept {
  std::int32_t y[extent<Dim>][search_batch];
  for (int i = 0; i < search_batch; ++i)
    for (int d = 0; d < Dim; ++d) y[d][i] = static_cast<std::int32_t>(fixed[i * Dim + d]);
  std::fill_n(best, search_batch, std::numeric_limits<std::int32_t>::min());
  for (int k = 0; k < run.count; ++k) {
    std::int32_t sums[search_batch];
    std::fill_n(sums, search_batch, run.entries[k].start);
    for (int d = 0; d < Dim; ++d) {
      const std::int32_t word = run.entries[k].words[static_cast<std::size_t>(d / 2)];
      const std::int32_t c = d % 2 == 0 ? static_cast<std::int16_t>(word & 0xffff) : word >> 16;
      for (int i = 0; i < search_batch; ++i) sums[i] += c * y[d][i];
    }
    for (int i = 0; i < search_batch; ++i) best[i] = std::max(best[i], sums[i]);
  }
}
}  // namespace portable

#if defined(HIGGS_TARGET_BEGIN)
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace avx2 {
template <int Dim>
inline void search_run(const PointRun<Dim>& run, const float* fixed, std::int32_t* best) noexcept {
  constexpr int pairs = PointRun<Dim>::pairs;
  constexpr int vectors = pairs <= 2 ? 4 : pairs <= 4 ? 2 : 1;  // of 8 lanes: what 16 registers hold
  for (int first = 0; first < search_batch; first += 8 * vectors) {
    alignas(32) std::int16_t y[extent<pairs>][extent<8 * vectors>][2] = {};
    for (int i = 0; i < 8 * vectors; ++i)
      for (int d = 0; d < Dim; ++d)
        y[d / 2][i][d % 2] =
            static_cast<std::int16_t>(static_cast<std::int32_t>(fixed[(first + i) * Dim + d]));
    __m256i ys[extent<pairs>][extent<vectors>], most[extent<vectors>];
    HIGGS_UNROLL
    for (int v = 0; v < vectors; ++v) {
      most[v] = _mm256_set1_epi32(std::numeric_limits<std::int32_t>::min());
      HIGGS_UNROLL
      for (int p = 0; p < pairs; ++p)
        ys[p][v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(y[p][8 * v]));
    }
    for (int k = 0; k < run.count; ++k) {
      __m256i sums[extent<vectors>];
      const __m256i start = _mm256_set1_epi32(run.entries[k].start);
      HIGGS_UNROLL
      for (int v = 0; v < vectors; ++v) sums[v] = start;
      HIGGS_UNROLL
      for (int p = 0; p < pairs; ++p) {
        const __m256i c = _mm256_set1_epi32(run.entries[k].words[static_cast<std::size_t>(p)]);
        HIGGS_UNROLL
        for (int v = 0; v < vectors; ++v) sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(ys[p][v], c));
      }
      HIGGS_UNROLL
      for (int v = 0; v < vectors; ++v) most[v] = _mm256_max_epi32(most[v], sums[v]);
    }
    HIGGS_UNROLL
    for (int v = 0; v < vectors; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(best + first + 8 * v), most[v]);
  }
}
}  // namespace avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace avx512 {
// Coordinate d of 16 vectors: 16 * Dim floats as they lie in memory, permuted.
template <int Dim>
inline void load_coordinates(const float* fixed, __m512* y) noexcept {
  __m512 in[extent<Dim>];
  HIGGS_UNROLL
  for (int d = 0; d < Dim; ++d) in[d] = _mm512_loadu_ps(fixed + 16 * d);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  HIGGS_UNROLL
  for (int d = 0; d < Dim; ++d) {
    const __m512i from =
        _mm512_add_epi32(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(Dim)), _mm512_set1_epi32(d));
    y[d] = _mm512_permutexvar_ps(from, in[0]);
    HIGGS_UNROLL
    for (int source = 1; source < Dim; ++source)
      y[d] = _mm512_mask_permutexvar_ps(y[d], _mm512_cmpge_epi32_mask(from, _mm512_set1_epi32(16 * source)),
                                        from, in[source]);
  }
}

template <int Dim>
inline void search_run(const PointRun<Dim>& run, const float* fixed, std::int32_t* best) noexcept {
  constexpr int pairs = PointRun<Dim>::pairs;
  constexpr int vectors = pairs <= 4 ? 4 : 2;  // of 16 lanes: what 32 registers hold
  for (int first = 0; first < search_batch; first += 16 * vectors) {
    __m512i ys[extent<pairs>][extent<vectors>], most[extent<vectors>];
    HIGGS_UNROLL
    for (int v = 0; v < vectors; ++v) {
      most[v] = _mm512_set1_epi32(std::numeric_limits<std::int32_t>::min());
      __m512 y[extent<Dim>];
      load_coordinates<Dim>(fixed + (first + 16 * v) * Dim, y);
      HIGGS_UNROLL
      for (int p = 0; p < pairs; ++p) {
        ys[p][v] = _mm512_and_si512(_mm512_cvttps_epi32(y[2 * p]), _mm512_set1_epi32(0xffff));
        if (2 * p + 1 < Dim)
          ys[p][v] = _mm512_or_si512(ys[p][v], _mm512_slli_epi32(_mm512_cvttps_epi32(y[2 * p + 1]), 16));
      }
    }
    for (int k = 0; k < run.count; ++k) {
      __m512i sums[extent<vectors>];
      const __m512i start = _mm512_set1_epi32(run.entries[k].start);
      HIGGS_UNROLL
      for (int v = 0; v < vectors; ++v) sums[v] = start;
      HIGGS_UNROLL
      for (int p = 0; p < pairs; ++p) {
        const __m512i c = _mm512_set1_epi32(run.entries[k].words[static_cast<std::size_t>(p)]);
        HIGGS_UNROLL
        for (int v = 0; v < vectors; ++v) sums[v] = _mm512_dpwssd_epi32(sums[v], ys[p][v], c);
      }
      HIGGS_UNROLL
      for (int v = 0; v < vectors; ++v) most[v] = _mm512_max_epi32(most[v], sums[v]);
    }
    HIGGS_UNROLL
    for (int v = 0; v < vectors; ++v) _mm512_storeu_si512(best + first + 16 * v, most[v]);
  }
}
}  // namespace avx512
HIGGS_TARGET_END
#endif

template <int Dim>
void search_run(const PointRun<Dim>& run, const float* fixed, std::int32_t* best, Isa isa) noexcept {
  isa = usable_isa(isa);
#if defined(HIGGS_TARGET_BEGIN)
  if (isa_includes(isa, Isa::Avx512)) return avx512::search_run<Dim>(run, fixed, best);
  if (isa_includes(isa, Isa::Avx2)) return avx2::search_run<Dim>(run, fixed, best);
#endif
  static_cast<void>(isa);
  portable::search_run<Dim>(run, fixed, best);
}

}  // namespace detail

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
    constexpr std::size_t batch = detail::search_batch, dim = Book::dim;
    std::size_t i = 0;
    for (; i + batch <= codes.size(); i += batch) search_batch(fixed.data() + i * dim, codes.data() + i, isa);
    if (i == codes.size()) return;
    std::array<float, batch * dim> rest{};
    std::array<Index, batch> found;
    std::copy_n(fixed.data() + i * dim, (codes.size() - i) * dim, rest.data());
    search_batch(rest.data(), found.data(), isa);
    std::copy_n(found.data(), codes.size() - i, codes.data() + i);
  }

 private:
  using Index = typename Book::Index;
  using Run = detail::PointRun<Book::dim>;

  static std::int64_t half_norm(const typename Book::Point& point) noexcept {
    std::int64_t norm = 0;
    for (const auto c : point) norm += std::int64_t{c} * c;
    return norm * (std::int64_t{1} << (fraction_bits<Book> - 1));
  }

  void search_batch(const float* fixed, Index* codes, Isa isa) const noexcept {
    constexpr int batch = detail::search_batch;
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
    search_run({entries_.data(), std::min(Book::size, 256)}, fixed, most, isa);
    for (int i = 0; i < batch; ++i) codes[i] = static_cast<Index>(detail::place_of(most[i]));
    if constexpr (Book::size > 256)
      for (int begin = 256; begin < Book::size; begin += 256) {
        search_run({entries_.data() + begin, std::min(Book::size - begin, 256)}, fixed, best, isa);
        for (int i = 0; i < batch; ++i) {
          if (detail::score_of(best[i]) <= detail::score_of(most[i])) continue;
          most[i] = best[i];
          codes[i] = static_cast<Index>(begin + detail::place_of(best[i]));
        }
      }
  }
  static void search_run(const Run& run, const float* fixed, std::int32_t* best, Isa isa) noexcept {
    detail::search_run<Book::dim>(run, fixed, best, isa);
  }
  // Vector lanes hold int16, one less than the limit of one and two dimensions.
  static bool fits(const float* fixed) noexcept {
    if constexpr (fixed_limit<Book> <= std::numeric_limits<std::int16_t>::max()) return true;
    int beyond = 0;
    for (int i = 0; i < detail::search_batch * Book::dim; ++i) beyond += fixed[i] > 32767.0f;
    return beyond == 0;
  }

  Book book_;
  std::vector<typename Run::Entry> entries_;  // (size); none: they do not fit, nearest() is called instead
};

}  // namespace v0
}  // namespace higgs
