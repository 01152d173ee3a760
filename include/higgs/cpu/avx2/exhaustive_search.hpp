// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <higgs/config.hpp>
#include <higgs/cpu/avx2/isa.hpp>
#include <higgs/cpu/intrinsics.hpp>
#include <higgs/cpu/portable/exhaustive_search.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>

#if defined(HIGGS_TARGET_BEGIN)

namespace higgs {
inline namespace v0 {
namespace cpu {
HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)

template <int Dim>
inline void search_run(Avx2, const PointRun<Dim>& run, const float* fixed, std::int32_t* best) noexcept {
  constexpr int pairs = PointRun<Dim>::pairs;
  constexpr int vectors = pairs <= 2 ? 4 : pairs <= 4 ? 2 : 1;  // vectors of 8 lanes that fit 16 registers
  for (int first = 0; first < search_batch; first += 8 * vectors) {
    alignas(32) std::int16_t y[higgs::detail::extent<pairs>][higgs::detail::extent<8 * vectors>][2] = {};
    for (int i = 0; i < 8 * vectors; ++i)
      for (int d = 0; d < Dim; ++d)
        y[d / 2][i][d % 2] =
            static_cast<std::int16_t>(static_cast<std::int32_t>(fixed[(first + i) * Dim + d]));
    __m256i ys[higgs::detail::extent<pairs>][higgs::detail::extent<vectors>],
        most[higgs::detail::extent<vectors>];
    HIGGS_UNROLL for (int v = 0; v < vectors; ++v) {
      most[v] = _mm256_set1_epi32(std::numeric_limits<std::int32_t>::min());
      HIGGS_UNROLL for (int p = 0; p < pairs; ++p)
        ys[p][v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(y[p][8 * v]));
    }
    for (int k = 0; k < run.count; ++k) {
      __m256i sums[higgs::detail::extent<vectors>];
      const __m256i start = _mm256_set1_epi32(run.entries[k].start);
      HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
        sums[v] = start;
      HIGGS_UNROLL for (int p = 0; p < pairs; ++p) {
        const __m256i c = _mm256_set1_epi32(run.entries[k].words[static_cast<std::size_t>(p)]);
        HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
          sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(ys[p][v], c));
      }
      HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
        most[v] = _mm256_max_epi32(most[v], sums[v]);
    }
    HIGGS_UNROLL for (int v = 0; v < vectors; ++v)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(best + first + 8 * v), most[v]);
  }
}

HIGGS_TARGET_END
}  // namespace cpu
}  // namespace v0
}  // namespace higgs
#endif
