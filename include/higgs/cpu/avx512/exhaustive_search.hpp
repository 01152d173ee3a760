// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx512/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/exhaustive_search.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)

// Coordinate d of 16 vectors (16, Dim) in memory: loads and permutations.
template <int Dim>
inline void load_coordinates(const float* fixed, __m512* y) noexcept {
  __m512 in[higgs::detail::extent<Dim>];
  HIGGS_UNROLL for (int d = 0; d < Dim; ++d)
    in[d] = _mm512_loadu_ps(fixed + 16 * d);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  HIGGS_UNROLL for (int d = 0; d < Dim; ++d) {
    const __m512i from =
        _mm512_add_epi32(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(Dim)), _mm512_set1_epi32(d));
    y[d] = _mm512_permutexvar_ps(from, in[0]);
    HIGGS_UNROLL for (int source = 1; source < Dim; ++source)
      y[d] = _mm512_mask_permutexvar_ps(y[d], _mm512_cmpge_epi32_mask(from, _mm512_set1_epi32(16 * source)),
                                        from, in[source]);
  }
}

template <int Dim>
inline void search_run(Avx512, const PointRun<Dim>& run, const float* fixed, std::int32_t* best) noexcept {
  constexpr int pairs = PointRun<Dim>::pairs;
  constexpr int vectors = pairs <= 4 ? 4 : 2;  // vectors of 16 lanes that fit 32 registers
  for (int first = 0; first < search_batch; first += 16 * vectors) {
    __m512i ys[higgs::detail::extent<pairs>][higgs::detail::extent<vectors>],
        most[higgs::detail::extent<vectors>];
    HIGGS_UNROLL for (int v = 0; v < vectors; ++v) {
      most[v] = _mm512_set1_epi32(std::numeric_limits<std::int32_t>::min());
      __m512 y[higgs::detail::extent<Dim>];
      load_coordinates<Dim>(fixed + (first + 16 * v) * Dim, y);
      HIGGS_UNROLL for (int p = 0; p < pairs; ++p) {
        ys[p][v] = _mm512_and_si512(_mm512_cvttps_epi32(y[2 * p]), _mm512_set1_epi32(0xffff));
        if (2 * p + 1 < Dim)
          ys[p][v] = _mm512_or_si512(ys[p][v], _mm512_slli_epi32(_mm512_cvttps_epi32(y[2 * p + 1]), 16));
      }
    }
    for (int k = 0; k < run.count; ++k) {
      __m512i sums[higgs::detail::extent<vectors>];
      const __m512i start = _mm512_set1_epi32(run.entries[k].start);
      HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
        sums[v] = start;
      HIGGS_UNROLL for (int p = 0; p < pairs; ++p) {
        const __m512i c = _mm512_set1_epi32(run.entries[k].words[static_cast<std::size_t>(p)]);
        HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
          sums[v] = _mm512_dpwssd_epi32(sums[v], ys[p][v], c);
      }
      HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
        most[v] = _mm512_max_epi32(most[v], sums[v]);
    }
    HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
      _mm512_storeu_si512(best + first + 16 * v, most[v]);
  }
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
