// SPDX-License-Identifier: Apache-2.0
// Searches for nearest points on the device: the symbols of nearest(), bit for bit.
//
// A search has its constants in 32-bit words, made by words() on the host; a kernel copies them to shared memory once.
// find() takes a batch of vectors in fixed point, which share the loads of points; find_warp() takes one, the same for all
// lanes of a warp, which share the points. coordinate() decodes.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/encode/nearest.hpp>
#include <higgs/gpu/error.cuh>

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

namespace detail {
/// The code of the largest score of all lanes of a warp, the lowest of several.
__device__ inline std::uint32_t best_of_warp(float score, std::uint32_t code) {
  for (int by = 16; by > 0; by /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, score, by);
    const std::uint32_t other_code = __shfl_xor_sync(0xffffffffu, code, by);
    if (other > score || (other == score && other_code < code)) score = other, code = other_code;
  }
  return code;
}
}  // namespace detail

/// Compares a vector with every point of a table. Scores are integers below 2^24, so they are exact in float.
template <int Dim>
struct PointSearch {
  static constexpr int dim = Dim, batch = Dim <= 4 ? 4 : 2;
  /// Words per point: coordinates, then half its squared norm in units of nearest_score(), then padding.
  static constexpr int stride = (Dim + 4) / 4 * 4;

  int size = 0;

  template <Codebook Book>
  static std::vector<std::uint32_t> words(const Book& book) {
    std::vector<std::uint32_t> out;
    for (std::int64_t i = 0; i < Book::size; ++i) {
      const typename Book::Point point = book.decode(static_cast<typename Book::Index>(i));
      float norm = 0;
      for (const auto c : point) {
        out.push_back(std::bit_cast<std::uint32_t>(static_cast<float>(c)));
        norm += static_cast<float>(c) * static_cast<float>(c);
      }
      out.push_back(std::bit_cast<std::uint32_t>(norm * (1 << (fraction_bits<Book> - 1))));
      out.resize((out.size() + 3) / 4 * 4);
    }
    return out;
  }

  /// The nearest points of a batch.
  __device__ void find(const std::uint32_t* words, const float (&y)[batch][Dim],
                       std::uint32_t (&codes)[batch]) const {
    float best[batch];
    HIGGS_UNROLL for (int b = 0; b < batch; ++b)
      best[b] = -std::numeric_limits<float>::infinity();
    for (int p = 0; p < size; ++p) {
      float point[stride];
      HIGGS_UNROLL for (int w = 0; w < stride; w += 4)
        *reinterpret_cast<uint4*>(point + w) = *reinterpret_cast<const uint4*>(words + p * stride + w);
      HIGGS_UNROLL for (int b = 0; b < batch; ++b) {
        float score = -point[Dim];
        HIGGS_UNROLL for (int d = 0; d < Dim; ++d)
          score = fmaf(y[b][d], point[d], score);
        if (score > best[b]) {
          best[b] = score;
          codes[b] = static_cast<std::uint32_t>(p);
        }
      }
    }
  }
  /// The nearest point of one vector, by all lanes of a warp.
  __device__ std::uint32_t find_warp(const std::uint32_t* words, const float (&y)[Dim]) const {
    float best = -std::numeric_limits<float>::infinity();
    std::uint32_t code = 0;
    for (int p = static_cast<int>(threadIdx.x) % 32; p < size; p += 32) {
      float point[stride];
      HIGGS_UNROLL for (int w = 0; w < stride; w += 4)
        *reinterpret_cast<uint4*>(point + w) = *reinterpret_cast<const uint4*>(words + p * stride + w);
      float score = -point[Dim];
      HIGGS_UNROLL for (int d = 0; d < Dim; ++d)
        score = fmaf(y[d], point[d], score);
      if (score > best) best = score, code = static_cast<std::uint32_t>(p);
    }
    return detail::best_of_warp(best, code);
  }
  __device__ int coordinate(const std::uint32_t* words, std::uint32_t code, int d) const {
    return static_cast<int>(std::bit_cast<float>(words[code * stride + static_cast<std::uint32_t>(d)]));
  }
};

/// A codebook of one dimension: bisects the borders between neighbours.
struct LineSearch {
  static constexpr int dim = 1, batch = 8;

  int size = 0;  // entries per table, a power of two

  /// Three tables: borders, codes in the order of coordinates, coordinates in the order of codes.
  template <Codebook Book>
  static std::vector<std::uint32_t> words(const Book& book) {
    struct Place {
      std::int32_t coordinate;
      std::uint32_t code;
    };
    std::vector<Place> line;
    for (int i = 0; i < Book::size; ++i)
      line.push_back({book.decode(static_cast<typename Book::Index>(i))[0], static_cast<std::uint32_t>(i)});
    std::vector<std::uint32_t> coordinates;
    for (const Place& each : line) coordinates.push_back(static_cast<std::uint32_t>(each.coordinate));
    std::stable_sort(line.begin(), line.end(),
                     [](const Place& a, const Place& b) { return a.coordinate < b.coordinate; });
    const auto same = [](const Place& a, const Place& b) { return a.coordinate == b.coordinate; };
    line.erase(std::unique(line.begin(), line.end(), same),
               line.end());  // the lowest code of equal points stays
    constexpr std::size_t count = std::bit_ceil(static_cast<std::size_t>(Book::size));
    std::vector<std::uint32_t> out(2 * count, std::numeric_limits<std::int32_t>::max());
    for (std::size_t i = 0; i < line.size(); ++i) {
      out[count + i] = line[i].code;
      if (i + 1 == line.size()) break;
      const std::int32_t middle =
          (line[i].coordinate + line[i + 1].coordinate) * (1 << (fraction_bits<Book> - 1));
      out[i] = static_cast<std::uint32_t>(middle -
                                          (line[i].code > line[i + 1].code));  // a tie goes to the lower code
    }
    out.insert(out.end(), coordinates.begin(), coordinates.end());
    return out;
  }

  /// The nearest points of a batch.
  __device__ void find(const std::uint32_t* words, const float (&y)[batch][1],
                       std::uint32_t (&codes)[batch]) const {
    HIGGS_UNROLL for (int b = 0; b < batch; ++b)
      codes[b] = find_warp(words, y[b]);
  }
  /// The nearest point of one vector, by each lane alone.
  __device__ std::uint32_t find_warp(const std::uint32_t* words, const float (&y)[1]) const {
    const int at = __float2int_rn(y[0]);
    int rank = 0;  // borders below y
    for (int step = size / 2; step > 0; step /= 2)
      if (at > static_cast<int>(words[rank + step - 1])) rank += step;
    return words[size + rank];
  }
  __device__ int coordinate(const std::uint32_t* words, std::uint32_t code, int) const {
    return static_cast<int>(words[2 * size + static_cast<int>(code)]);
  }
};

/// E8Codebook: compares with 512 shifted patterns, each with its best signs, as higgs::E8Search does.
struct E8PatternSearch {
  static constexpr int dim = 8, batch = 2, patterns = 256;
  static constexpr float shift = higgs::detail::e8_shift << fraction_bits<E8Codebook>;  // in fixed point

  int size = 0;  // unused

  /// Magnitudes (256, 8), then halves of squared norms (256).
  static std::vector<std::uint32_t> words(const E8Codebook&) {
    std::vector<std::uint32_t> out, norms;
    for (const std::uint32_t pattern : higgs::detail::e8_patterns) {
      float norm = 0;
      for (unsigned d = 0; d < 8; ++d) {
        const float magnitude = higgs::detail::e8_levels[pattern >> 4 * d & 15u];
        out.push_back(std::bit_cast<std::uint32_t>(magnitude));
        norm += magnitude * magnitude;
      }
      norms.push_back(std::bit_cast<std::uint32_t>(norm * (1 << (fraction_bits<E8Codebook> - 1))));
    }
    out.insert(out.end(), norms.begin(), norms.end());
    return out;
  }

  /// The nearest points of a batch.
  __device__ void find(const std::uint32_t* words, const float (&y)[batch][8],
                       std::uint32_t (&codes)[batch]) const {
    float best[batch];
    int found[batch] = {};
    HIGGS_UNROLL for (int b = 0; b < batch; ++b)
      best[b] = -std::numeric_limits<float>::infinity();
    for (int side = 0; side < 2; ++side) {
      const float sign = side == 0 ? 1.0f : -1.0f;
      float z[batch][8], base[batch] = {};
      bool odd[batch] = {};
      HIGGS_UNROLL for (int b = 0; b < batch; ++b) HIGGS_UNROLL
        for (int d = 0; d < 8; ++d) {
          const float moved = y[b][d] - sign * shift;
          odd[b] ^= moved < 0;
          z[b][d] = fabsf(moved);
          base[b] = fmaf(sign * higgs::detail::e8_shift, y[b][d], base[b]);
        }
      for (int k = 0; k < patterns; ++k) {
        float pattern[8];
        load_pattern(words, k, pattern);
        const float half_norm = std::bit_cast<float>(words[8 * patterns + k]);
        HIGGS_UNROLL for (int b = 0; b < batch; ++b) {
          float score = base[b] - half_norm, least = std::numeric_limits<float>::infinity();
          HIGGS_UNROLL for (int d = 0; d < 8; ++d) {
            const float product = z[b][d] * pattern[d];
            score += product;
            least = fminf(least, product);
          }
          if (odd[b] != (k >= patterns / 2)) score = fmaf(-2.0f, least, score);
          if (score > best[b]) {
            best[b] = score;
            found[b] = side * patterns + k;
          }
        }
      }
    }
    HIGGS_UNROLL for (int b = 0; b < batch; ++b)
      codes[b] = static_cast<std::uint32_t>(found[b] << 7 | best_signs(words, y[b], found[b]));
  }
  /// The nearest point of one vector, by all lanes of a warp.
  __device__ std::uint32_t find_warp(const std::uint32_t* words, const float (&y)[8]) const {
    float best = -std::numeric_limits<float>::infinity();
    std::uint32_t found = 0;
    for (int p = static_cast<int>(threadIdx.x) % 32; p < 2 * patterns; p += 32) {
      const float sign = p < patterns ? 1.0f : -1.0f;
      float pattern[8], base = 0, products = 0, least = std::numeric_limits<float>::infinity();
      load_pattern(words, p % patterns, pattern);
      bool odd = p % patterns >= patterns / 2;
      HIGGS_UNROLL for (int d = 0; d < 8; ++d) {
        const float moved = y[d] - sign * shift, product = fabsf(moved) * pattern[d];
        odd ^= moved < 0;
        base = fmaf(sign * higgs::detail::e8_shift, y[d], base);
        products += product;
        least = fminf(least, product);
      }
      const float score = base - std::bit_cast<float>(words[8 * patterns + p % patterns]) + products -
                          (odd ? 2.0f * least : 0.0f);
      if (score > best) best = score, found = static_cast<std::uint32_t>(p);
    }
    found = detail::best_of_warp(best, found);
    return found << 7 | static_cast<std::uint32_t>(best_signs(words, y, static_cast<int>(found)));
  }
  __device__ int coordinate(const std::uint32_t* words, std::uint32_t code, int d) const {
    const std::uint32_t number = code >> 7 & 255u, signs = code & 127u;
    const std::uint32_t all = signs | ((static_cast<std::uint32_t>(__popc(signs)) + (number >> 7)) & 1u) << 7;
    const int magnitude =
        static_cast<int>(std::bit_cast<float>(words[8 * number + static_cast<std::uint32_t>(d)]));
    return ((all >> d & 1u) != 0 ? -magnitude : magnitude) +
           (code >> 15 != 0 ? -higgs::detail::e8_shift : higgs::detail::e8_shift);
  }

 private:
  static __device__ void load_pattern(const std::uint32_t* words, int k, float (&pattern)[8]) {
    *reinterpret_cast<uint4*>(pattern) = *reinterpret_cast<const uint4*>(words + 8 * k);
    *reinterpret_cast<uint4*>(pattern + 4) = *reinterpret_cast<const uint4*>(words + 8 * k + 4);
  }
  // The lowest of the best signs. If their parity is wrong, the sign whose change costs least is changed.
  static __device__ int best_signs(const std::uint32_t* words, const float (&y)[8], int found) {
    float pattern[8], losses[8], least = std::numeric_limits<float>::infinity();
    load_pattern(words, found % patterns, pattern);
    int signs = 0;
    bool odd = found % patterns >= patterns / 2;
    HIGGS_UNROLL for (int d = 0; d < 8; ++d) {
      const float product = (y[d] - (found < patterns ? shift : -shift)) * pattern[d];
      if (product < 0) signs |= 1 << d, odd = !odd;
      losses[d] = fabsf(product);
      least = fminf(least, losses[d]);
    }
    int best = odd ? 256 : signs & 127;
    HIGGS_UNROLL for (int d = 0; d < 8; ++d)
      if (odd && losses[d] == least) best = min(best, (signs ^ 1 << d) & 127);
    return best;
  }
};

/// The search for a code: its type. A chain code specializes it, see codes/window/viterbi.cuh. For a codebook also the
/// search's member `size`, and whether its words fit into shared memory.
template <Code C>
struct DeviceSearchOf;
template <Codebook Book>
struct DeviceSearchOf<Book> {
  static_assert(Book::size <= 65536, "DeviceSearchOf<Book>: codes of at most 16 bits");
  static_assert(Book::dim == 1 || sizeof(typename Book::Element) == 1,
                "DeviceSearchOf<Book>: coordinates of a byte, but on a line");
  using Type = std::conditional_t<std::is_same_v<Book, E8Codebook>, E8PatternSearch,
                                  std::conditional_t<Book::dim == 1, LineSearch, PointSearch<Book::dim>>>;
  static constexpr int size =
      Book::dim == 1 ? std::bit_ceil(static_cast<unsigned>(Book::size)) : static_cast<int>(Book::size);
  static constexpr bool in_shared =
      std::is_same_v<Type, E8PatternSearch> || Book::size * ((Book::dim + 4) / 4 * 16) <= 96 * 1024;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
