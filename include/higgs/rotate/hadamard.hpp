// SPDX-License-Identifier: Apache-2.0
// The orthonormal Hadamard transform of order n = m * 2^a, in place.
//
// Which matrix it is belongs to the file format and never changes:
// - n <= 32768; m is 1, 12, 20, 28, 36, 44, 52, 60, 68, 76, 84 or 100. n determines m and a.
// - H_n = H_m (x) H_(2^a): entry (r, c) is H_m(r / 2^a, c / 2^a) * (-1)^popcount(r & c & (2^a - 1)).
// - H_m is Paley's matrix (J. Math. Phys. 12, 1933), rows and columns ordered so that it is symmetric and its
//   first row is all ones. So every H_n / sqrt(n) is its own inverse.
//
// The order of the float operations is fixed as well, so that any implementation gives the same bits:
// 1. In each of the m contiguous runs of 2^a: butterflies (u + v, u - v) of stride 1, 2, 4, ..., 2^(a-1).
// 2. If m > 1, across the runs, with the signs s of an output's row: inputs 4k ... 4k + 3 make the quad
//    q_k = s0 * ((x0 + s0 s1 x1) + s0 s2 (x2 + s2 s3 x3)); the output is ((q_0 + q_1) + q_2) + ...
// 3. One product with float(1 / sqrt(n)).
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/cpu.hpp>
#include <higgs/core/error.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#elif defined(HIGGS_NEON)
#  include <arm_neon.h>
#endif

namespace higgs {
inline namespace v0 {

inline constexpr int max_hadamard_order = 32768;

/// Whether there is a transform of `n` values.
constexpr bool is_hadamard_order(std::int64_t n) noexcept;

/// All supported orders, ascending.
constexpr std::span<const int> hadamard_orders() noexcept;

/// The order to cut rows of `cols` values into: of the orders from min(64, cols) to `max_block` the largest
/// of those that need the least padding; where there is none, the largest order up to `max_block`. Rows are
/// padded to ceil(cols / order) * order. Throws InvalidArgument unless both arguments are positive.
constexpr std::int64_t choose_block(std::int64_t cols, std::int64_t max_block = 1024);

/// Entry (row, col) of H_n, +1 or -1: the definition of the transform. Throws InvalidArgument unless n is a
/// supported order and 0 <= row, col < n.
constexpr int hadamard_sign(std::int64_t n, std::int64_t row, std::int64_t col);

/// H_n x / sqrt(n), n = x.size(), summed in double from hadamard_sign in O(n^2): what tests compare with.
inline std::vector<double> hadamard_reference(std::span<const float> x);

/// Multiplies `x` by H_n / sqrt(n), n = x.size(), in place; its own inverse. Sums of n values must not
/// overflow; then all paths give the same bits. `isa` picks one, for tests; what the machine lacks is not
/// used. Throws InvalidArgument unless n is a supported order.
inline void hadamard(std::span<float> x, Isa isa = best_isa());

/// Transforms each run of `block` values of `x`, in place. Throws InvalidArgument unless `block` is a
/// supported order and divides x.size().
inline void hadamard_blocks(std::span<float> x, std::int64_t block, Isa isa = best_isa());

namespace detail {

/// Paley's Hadamard matrix over GF(q), q = p^k, k = 1 or 2: of order q + 1 if q = 3 mod 4, of 2 q + 2
/// otherwise. Element a + b t is number a + p b, where t^2 is the smallest non-residue of p. Entries depend
/// on the sum of the elements of row and column, not as usual on their difference, and so are symmetric.
template <int P, int K>
struct Paley {
  static constexpr int q = K == 1 ? P : P * P;
  static constexpr int width = q % 4 == 3 ? 1 : 2;  // rows for each element
  static constexpr int order = width * (q + 1);

  /// Four entries of a row in a byte, their code: bit 3 if the first is negative, bits 0, 1 and 2 if the
  /// second, third and fourth differ from the first.  (order, order / 4)
  std::uint8_t codes[order * order / 4] = {};

  constexpr Paley() {
    int residue[P] = {};  // 0 at zero, 1 at squares, -1 elsewhere
    for (int i = 1; i < P; ++i) residue[i] = -1;
    for (int i = 1; i < P; ++i) residue[i * i % P] = 1;
    int t2 = 2;
    while (residue[t2] == 1) ++t2;
    int chi[q] = {};  // the same in GF(q): a + b t is a square if its norm a^2 - t^2 b^2 is one in GF(p)
    for (int a = 0; a < P; ++a)
      for (int b = 0; b < q / P; ++b) chi[a + P * b] = residue[K == 1 ? a : (a * a + (P - t2) * b * b) % P];

    // An element's columns in each of its rows, for chi = -1, 0, 1: bit 0 is the first column, 1 is negative.
    constexpr unsigned bits[2][3][2] = {{{1}, {1}, {0}}, {{3, 1}, {2, 3}, {0, 2}}};
    for (int i = -1; i < q; ++i)  // -1: the border
      for (int j = -1; j < q; ++j) {
        int sign = i < 0 && j < 0 ? 2 - width : 1;
        if (i >= 0 && j >= 0) sign = chi[(i % P + j % P) % P + (K == 1 ? 0 : P * ((i / P + j / P) % P))];
        for (int u = 0; u < width; ++u) {
          unsigned group = bits[width - 1][sign + 1][u];
          if (width == 2 && i < 0 && u == 1) group ^= 3;  // row 1 and column 1 are negated:
          if (width == 2 && j < 0) group ^= 2;            // this makes the border positive
          const int entry = ((i + 1) * width + u) * order + (j + 1) * width;
          codes[entry / 4] = static_cast<std::uint8_t>(codes[entry / 4] | group << entry % 4);
        }
      }
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(code & 1 ? 15 - code / 2 : code / 2);
  }
};
template <int P, int K>
inline constexpr Paley<P, K> paley;

inline constexpr auto hadamard_order_list = [] {
  std::array<int, 126> orders{};
  auto next = orders.begin();
  for (const int base : {1, 12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 100})
    for (int n = base; n <= max_hadamard_order; n *= 2) *next++ = n;
  std::sort(orders.begin(), next);
  return orders;
}();

/// The factors of an order: n = base * run.
struct HadamardShape {
  std::ptrdiff_t base = 0;  // m; 0: not a supported order
  std::ptrdiff_t run = 0;   // 2^a
  const std::uint8_t* codes = nullptr;
};
inline constexpr std::ptrdiff_t max_hadamard_quads = 100 / 4;

template <int... P, int... K>
constexpr HadamardShape find_hadamard(std::ptrdiff_t order, std::ptrdiff_t run,
                                      const Paley<P, K>&... base) noexcept {
  HadamardShape shape;
  ((order == base.order ? void(shape = {order, run, base.codes}) : void()), ...);
  return shape;
}

constexpr HadamardShape hadamard_shape(std::int64_t n) noexcept {
  if (n < 1 || n > max_hadamard_order) return {};
  const std::ptrdiff_t order = n, run = order & -order;
  if (run == order) return {1, order, nullptr};
  if (run < 4) return {};
  return find_hadamard(order / run * 4, run / 4, paley<11, 1>, paley<19, 1>, paley<13, 1>, paley<17, 1>,
                       paley<43, 1>, paley<5, 2>, paley<59, 1>, paley<67, 1>, paley<37, 1>, paley<83, 1>,
                       paley<7, 2>);
}

// In all paths a product is with +-1, which is exact, or the last operation on a value: contraction into FMAs
// changes no bit. For the same reason none may be inlined: the caller's sums must not swallow a product.
namespace hadamard_portable {

/// Loops of constant length, which compilers turn into vectors.
template <int W>
inline void butterflies(float* x, std::ptrdiff_t stride) {
  for (int i = 0; i < W; ++i) {
    const float u = x[i], v = x[i + stride];
    x[i] = u + v;
    x[i + stride] = u - v;
  }
}

template <int N>
inline void transform(float* x) {
  if constexpr (N > 1) {
    transform<N / 2>(x);
    transform<N / 2>(x + N / 2);
    butterflies<N / 2>(x, N / 2);
  }
}

/// One block, W = min(run, 8) columns at a time.
template <int W>
[[gnu::noinline]] void transform_block(float* x, const HadamardShape& shape, float scale) {
  const std::ptrdiff_t run = shape.run, n = shape.base * run;
  for (std::ptrdiff_t i = 0; i < n; i += W) transform<W>(x + i);
  for (std::ptrdiff_t stride = W; stride < run; stride *= 2)
    for (std::ptrdiff_t i = 0; i < n; i += 2 * stride)
      for (std::ptrdiff_t j = i; j < i + stride; j += W) butterflies<W>(x + j, stride);

  const std::ptrdiff_t quads = shape.base / 4;
  float sums[max_hadamard_quads][8][W];  // of the inputs of a quad, by bits 0 to 2 of the code
  for (std::ptrdiff_t col = 0; quads != 0 && col < run; col += W) {
    for (std::ptrdiff_t k = 0; k < quads; ++k)
      for (int i = 0; i < W; ++i) {
        const float* in = x + 4 * k * run + col + i;
        const float a = in[0], b = in[run], c = in[2 * run], d = in[3 * run];
        sums[k][0][i] = (a + b) + (c + d);
        sums[k][1][i] = (a - b) + (c + d);
        sums[k][2][i] = (a + b) - (c - d);
        sums[k][3][i] = (a - b) - (c - d);
        sums[k][4][i] = (a + b) + (c - d);
        sums[k][5][i] = (a - b) + (c - d);
        sums[k][6][i] = (a + b) - (c + d);
        sums[k][7][i] = (a - b) - (c + d);
      }
    const std::uint8_t* code = shape.codes;
    for (std::ptrdiff_t row = 0; row < shape.base; ++row) {
      float y[W];
      for (int i = 0; i < W; ++i) y[i] = sums[0][*code][i];  // the first column is positive
      ++code;
      for (std::ptrdiff_t k = 1; k < quads; ++k, ++code) {
        const float sign = *code & 8 ? -1.0f : 1.0f;
        for (int i = 0; i < W; ++i) y[i] += sign * sums[k][*code & 7][i];
      }
      for (int i = 0; i < W; ++i) x[row * run + col + i] = y[i];
    }
  }
  for (std::ptrdiff_t i = 0; i < n; ++i) x[i] *= scale;
}
}  // namespace hadamard_portable

// The vector paths cut a run of N into passes, each over up to `radix` registers that are a stride apart; the
// first pass, whose registers are neighbours, does the strides inside a register too. A function is compiled
// for the instructions of the place where it is written, so the widths cannot share templates.
// Zen has pipes for additions and others for FMA: three of eight butterflies of a later pass are FMAs with `one`.

/// The stride of the last pass: passes are as few and as equal as they can be.
constexpr std::ptrdiff_t last_stride(std::ptrdiff_t n, std::ptrdiff_t lanes, std::ptrdiff_t radix) {
  std::ptrdiff_t passes = 1, reach = lanes * radix;
  for (; reach < n; reach *= radix) ++passes;
  if (passes == 1) return lanes;
  const int bits = std::countr_zero(static_cast<std::size_t>(n / lanes));
  return n >> (bits / static_cast<int>(passes));
}

#if defined(HIGGS_TARGET_BEGIN)

HIGGS_TARGET_BEGIN(HIGGS_AVX2_FEATURES)
namespace hadamard_avx2 {
inline constexpr std::ptrdiff_t lanes = 8, radix = 8;

/// Strides 1, 2 and 4: lane i becomes x[i ^ stride] + (i & stride ? -x[i] : x[i]).
[[gnu::always_inline]] inline __m256 inside(__m256 x) {
  const __m256 by1 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
  const __m256 by2 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  const __m256 by4 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
  x = _mm256_fmadd_ps(x, by1, _mm256_permute_ps(x, 0xb1));
  x = _mm256_fmadd_ps(x, by2, _mm256_permute_ps(x, 0x4e));
  return _mm256_fmadd_ps(x, by4, _mm256_permute2f128_ps(x, x, 1));
}

[[gnu::always_inline]] inline void butterfly(__m256& u, __m256& v) {
  const __m256 sum = _mm256_add_ps(u, v);
  v = _mm256_sub_ps(u, v);
  u = sum;
}

template <int H, int... I>
[[gnu::always_inline]] inline void butterflies(__m256* v, std::integer_sequence<int, I...> all) {
  if constexpr (H < static_cast<int>(sizeof...(I))) {
    ((I & H ? void() : butterfly(v[I], v[I | H])), ...);
    butterflies<2 * H>(v, all);
  }
}

template <std::ptrdiff_t Stride, bool Scaled, int... I>
[[gnu::always_inline]] inline void columns(float* x, __m256 scale, std::integer_sequence<int, I...> all) {
  __m256 v[] = {_mm256_loadu_ps(x + I * Stride)...};
  if constexpr (Stride == lanes) ((v[I] = inside(v[I])), ...);
  butterflies<1>(v, all);
  (_mm256_storeu_ps(x + I * Stride, Scaled ? _mm256_mul_ps(v[I], scale) : v[I]), ...);
}

template <std::ptrdiff_t N, bool Scaled>
[[gnu::always_inline]] inline void passes(float* x, __m256 scale) {
  constexpr std::ptrdiff_t stride = last_stride(N, lanes, radix);
  if constexpr (stride > lanes)
    for (std::ptrdiff_t i = 0; i < N; i += stride) passes<stride, false>(x + i, scale);
  for (std::ptrdiff_t i = 0; i < stride; i += lanes)
    columns<stride, Scaled>(x + i, scale, std::make_integer_sequence<int, N / stride>{});
}

/// `count` runs of N, one after another.
template <std::ptrdiff_t N>
void transform(float* x, std::ptrdiff_t count, float scale) {
  for (const float* end = x + count * N; x != end; x += N) passes<N, true>(x, _mm256_set1_ps(scale));
}
inline constexpr void (*transforms[])(float*, std::ptrdiff_t, float) = {
    transform<8>,    transform<16>,    transform<32>,   transform<64>,   transform<128>,
    transform<256>,  transform<512>,   transform<1024>, transform<2048>, transform<4096>,
    transform<8192>, transform<16384>, transform<32768>};

/// The eight sums of the inputs of a quad, by bits 0 to 2 of the code.
template <std::ptrdiff_t Step>
[[gnu::always_inline]] inline void quad_sums(const float* x, std::ptrdiff_t run, __m256* sum) {
  const __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + run);
  const __m256 c = _mm256_loadu_ps(x + 2 * run), d = _mm256_loadu_ps(x + 3 * run);
  const __m256 u0 = _mm256_add_ps(a, b), u1 = _mm256_sub_ps(a, b);
  const __m256 v0 = _mm256_add_ps(c, d), v1 = _mm256_sub_ps(c, d);
  sum[0 * Step] = _mm256_add_ps(u0, v0);
  sum[1 * Step] = _mm256_add_ps(u1, v0);
  sum[2 * Step] = _mm256_sub_ps(u0, v1);
  sum[3 * Step] = _mm256_sub_ps(u1, v1);
  sum[4 * Step] = _mm256_add_ps(u0, v1);
  sum[5 * Step] = _mm256_add_ps(u1, v1);
  sum[6 * Step] = _mm256_sub_ps(u0, v0);
  sum[7 * Step] = _mm256_sub_ps(u1, v0);
}

/// The base matrix, on 8 columns for each I.
template <int... I>
void combine(float* x, const HadamardShape& shape, float scale, std::integer_sequence<int, I...>) {
  constexpr std::ptrdiff_t width = sizeof...(I);
  constexpr float signs[16] = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};  // by code
  __m256 sums[max_hadamard_quads * 8 * width];  // (quads, 8, width), 25 KiB at most: stays in L1
  const std::ptrdiff_t run = shape.run, n = shape.base * run;
  for (std::ptrdiff_t col = 0; col < run; col += lanes * width) {
    __m256* end = sums;
    for (std::ptrdiff_t i = col; i < n; i += 4 * run, end += 8 * width)
      (quad_sums<width>(x + i + lanes * I, run, end + I), ...);
    const std::uint8_t* code = shape.codes;
    for (std::ptrdiff_t i = col; i < n; i += run) {
      const __m256* quad = sums + *code++ * width;  // the first column is positive
      __m256 y[] = {quad[I]...};
      for (const __m256* sum = sums + 8 * width; sum != end; sum += 8 * width, ++code) {
        quad = sum + std::ptrdiff_t{*code & 7} * width;
        const __m256 sign = _mm256_broadcast_ss(&signs[*code]);
        ((y[I] = _mm256_fmadd_ps(sign, quad[I], y[I])), ...);
      }
      (_mm256_storeu_ps(x + i + lanes * I, _mm256_mul_ps(y[I], _mm256_set1_ps(scale))), ...);
    }
  }
}
}  // namespace hadamard_avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace hadamard_avx512 {
inline constexpr std::ptrdiff_t lanes = 16, radix = 16;

/// Strides 1, 2, 4 and 8.
[[gnu::always_inline]] inline __m512 inside(__m512 x) {
  const __m512 by1 = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);
  const __m512 by2 = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);
  const __m512 by4 = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
  const __m512 by8 = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
  x = _mm512_fmadd_ps(x, by1, _mm512_permute_ps(x, 0xb1));
  x = _mm512_fmadd_ps(x, by2, _mm512_permute_ps(x, 0x4e));
  x = _mm512_fmadd_ps(x, by4, _mm512_shuffle_f32x4(x, x, 0xb1));
  return _mm512_fmadd_ps(x, by8, _mm512_shuffle_f32x4(x, x, 0x4e));
}

template <bool Fused>
[[gnu::always_inline]] inline void butterfly(__m512& u, __m512& v, __m512 one) {
  const __m512 sum = Fused ? _mm512_fmadd_ps(v, one, u) : _mm512_add_ps(u, v);
  v = Fused ? _mm512_fnmadd_ps(v, one, u) : _mm512_sub_ps(u, v);
  u = sum;
}

template <int H, bool Fused, int... I>
[[gnu::always_inline]] inline void butterflies(__m512* v, __m512 one, std::integer_sequence<int, I...> all) {
  if constexpr (H < static_cast<int>(sizeof...(I))) {
    ((I & H ? void() : butterfly < Fused && I % 3 == 0 > (v[I], v[I | H], one)), ...);
    butterflies<2 * H, Fused>(v, one, all);
  }
}

template <std::ptrdiff_t Stride, bool Scaled, int... I>
[[gnu::always_inline]] inline void columns(float* x, __m512 scale, __m512 one,
                                           std::integer_sequence<int, I...> all) {
  __m512 v[] = {_mm512_loadu_ps(x + I * Stride)...};
  if constexpr (Stride == lanes) ((v[I] = inside(v[I])), ...);
  butterflies<1, Stride != lanes>(v, one, all);
  (_mm512_storeu_ps(x + I * Stride, Scaled ? _mm512_mul_ps(v[I], scale) : v[I]), ...);
}

template <std::ptrdiff_t N, bool Scaled>
[[gnu::always_inline]] inline void passes(float* x, __m512 scale, __m512 one) {
  constexpr std::ptrdiff_t stride = last_stride(N, lanes, radix);
  if constexpr (stride > lanes)
    for (std::ptrdiff_t i = 0; i < N; i += stride) passes<stride, false>(x + i, scale, one);
  for (std::ptrdiff_t i = 0; i < stride; i += lanes)
    columns<stride, Scaled>(x + i, scale, one, std::make_integer_sequence<int, N / stride>{});
}

/// `count` runs of N, one after another.
template <std::ptrdiff_t N>
void transform(float* x, std::ptrdiff_t count, float scale) {
  __m512 one = _mm512_set1_ps(1.0f);
  asm("" : "+v"(one));  // or compilers turn FMAs with it into additions
  for (const float* end = x + count * N; x != end; x += N) passes<N, true>(x, _mm512_set1_ps(scale), one);
}
inline constexpr void (*transforms[])(float*, std::ptrdiff_t, float) = {
    transform<16>,   transform<32>,   transform<64>,   transform<128>,  transform<256>,   transform<512>,
    transform<1024>, transform<2048>, transform<4096>, transform<8192>, transform<16384>, transform<32768>};

/// The signed sum of a quad, by its code, or a row's first quad.
template <int Code, bool First, bool Fused>
[[gnu::always_inline]] inline __m512 add_quad(__m512 y, const __m512 (&sum)[8], __m512 one) {
  if constexpr (First) return sum[Code];  // the first column is positive
  if constexpr (Fused)
    return Code & 8 ? _mm512_fnmadd_ps(sum[Code & 7], one, y) : _mm512_fmadd_ps(sum[Code & 7], one, y);
  return Code & 8 ? _mm512_sub_ps(y, sum[Code & 7]) : _mm512_add_ps(y, sum[Code & 7]);
}

/// Rows First + I of the base matrix on 16 columns, all sums in registers; x are the inputs, a register each.
template <const auto& Base, int First, int K, int... I>
[[gnu::always_inline]] inline void add_quads(const float* x, __m512* y, __m512 one,
                                             std::integer_sequence<int, I...> all) {
  constexpr int quads = Base.order / 4;
  if constexpr (K < quads) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + lanes);
    const __m512 c = _mm512_loadu_ps(x + 2 * lanes), d = _mm512_loadu_ps(x + 3 * lanes);
    const __m512 u0 = _mm512_add_ps(a, b), u1 = _mm512_sub_ps(a, b);
    const __m512 v0 = _mm512_add_ps(c, d), v1 = _mm512_sub_ps(c, d);
    const __m512 sum[8] = {_mm512_add_ps(u0, v0), _mm512_add_ps(u1, v0), _mm512_sub_ps(u0, v1),
                           _mm512_sub_ps(u1, v1), _mm512_add_ps(u0, v1), _mm512_add_ps(u1, v1),
                           _mm512_sub_ps(u0, v0), _mm512_sub_ps(u1, v0)};
    ((y[I] = add_quad < Base.codes[(First + I) * quads + K], K == 0, I % 2 == 0 > (y[I], sum, one)), ...);
    add_quads<Base, First, K + 1>(x + 4 * lanes, y, one, all);
  }
}

template <const auto& Base, int First, int... I>
[[gnu::always_inline]] inline void base_rows(const float* in, float* out, std::ptrdiff_t run, __m512 scale,
                                             __m512 one, std::integer_sequence<int, I...> all) {
  __m512 y[sizeof...(I)];
  add_quads<Base, First, 0>(in, y, one, all);
  (_mm512_storeu_ps(out + (First + I) * run, _mm512_mul_ps(y[I], scale)), ...);
}

/// All of a block of base * run inputs, for the smaller bases, which are those of most models: up to 20 rows of
/// the base matrix at once, more would not fit into registers.
template <const auto& Base>
void transform_base(float* x, std::ptrdiff_t run, float scale) {
  constexpr int order = Base.order, parts = order > 20 ? 2 : 1;
  __m512 one = _mm512_set1_ps(1.0f);
  asm("" : "+v"(one));
  const __m512 factor = _mm512_set1_ps(scale);
  alignas(64) float column[order * lanes];
  for (std::ptrdiff_t col = 0; col < run; col += lanes) {
    for (std::ptrdiff_t i = 0; i < order; ++i) {
      const __m512 v = _mm512_loadu_ps(x + i * run + col);
      _mm512_store_ps(column + i * lanes, run == lanes ? inside(v) : v);
    }
    constexpr auto rows = std::make_integer_sequence<int, order / parts>{};
    base_rows<Base, 0>(column, x + col, run, factor, one, rows);
    if constexpr (parts == 2) base_rows<Base, order / 2>(column, x + col, run, factor, one, rows);
  }
}

inline auto find_transform_base(std::ptrdiff_t base) noexcept -> void (*)(float*, std::ptrdiff_t, float) {
  switch (base) {
    case 12:
      return transform_base<paley<11, 1>>;
    case 20:
      return transform_base<paley<19, 1>>;
    case 28:
      return transform_base<paley<13, 1>>;
    case 36:
      return transform_base<paley<17, 1>>;
    default:
      return nullptr;
  }
}
}  // namespace hadamard_avx512
HIGGS_TARGET_END

#elif defined(HIGGS_NEON)

namespace hadamard_neon {
inline constexpr std::ptrdiff_t lanes = 4, radix = 16;

/// Strides 1 and 2.
[[gnu::always_inline]] inline float32x4_t inside(float32x4_t x) {
  const float32x4_t by1 = {1, -1, 1, -1}, by2 = {1, 1, -1, -1};
  x = vfmaq_f32(vrev64q_f32(x), x, by1);
  return vfmaq_f32(vextq_f32(x, x, 2), x, by2);
}

[[gnu::always_inline]] inline void butterfly(float32x4_t& u, float32x4_t& v) {
  const float32x4_t sum = vaddq_f32(u, v);
  v = vsubq_f32(u, v);
  u = sum;
}

template <int H, int... I>
[[gnu::always_inline]] inline void butterflies(float32x4_t* v, std::integer_sequence<int, I...> all) {
  if constexpr (H < static_cast<int>(sizeof...(I))) {
    ((I & H ? void() : butterfly(v[I], v[I | H])), ...);
    butterflies<2 * H>(v, all);
  }
}

template <std::ptrdiff_t Stride, bool Scaled, int... I>
[[gnu::always_inline]] inline void columns(float* x, float scale, std::integer_sequence<int, I...> all) {
  float32x4_t v[] = {vld1q_f32(x + I * Stride)...};
  if constexpr (Stride == lanes) ((v[I] = inside(v[I])), ...);
  butterflies<1>(v, all);
  (vst1q_f32(x + I * Stride, Scaled ? vmulq_n_f32(v[I], scale) : v[I]), ...);
}

template <std::ptrdiff_t N, bool Scaled>
[[gnu::always_inline]] inline void passes(float* x, float scale) {
  constexpr std::ptrdiff_t stride = last_stride(N, lanes, radix);
  if constexpr (stride > lanes)
    for (std::ptrdiff_t i = 0; i < N; i += stride) passes<stride, false>(x + i, scale);
  for (std::ptrdiff_t i = 0; i < stride; i += lanes)
    columns<stride, Scaled>(x + i, scale, std::make_integer_sequence<int, N / stride>{});
}

/// `count` runs of N, one after another.
template <std::ptrdiff_t N>
[[gnu::noinline]] void transform(float* x, std::ptrdiff_t count, float scale) {
  for (const float* end = x + count * N; x != end; x += N) passes<N, true>(x, scale);
}
inline constexpr void (*transforms[])(float*, std::ptrdiff_t, float) = {
    transform<4>,    transform<8>,    transform<16>,    transform<32>,   transform<64>,
    transform<128>,  transform<256>,  transform<512>,   transform<1024>, transform<2048>,
    transform<4096>, transform<8192>, transform<16384>, transform<32768>};
}  // namespace hadamard_neon

#endif

/// `count` blocks, one after another.
inline void transform_blocks(float* x, std::ptrdiff_t count, const HadamardShape& shape, float scale,
                             [[maybe_unused]] Isa isa) {
  const std::ptrdiff_t run = shape.run, n = shape.base * run;
#if defined(HIGGS_TARGET_BEGIN)
  if (isa != Isa::Portable && run >= hadamard_avx2::lanes) {
    const bool wide = isa == Isa::Avx512 && run >= hadamard_avx512::lanes;
    const int a = std::countr_zero(static_cast<unsigned>(run));
    const auto transform = wide ? hadamard_avx512::transforms[a - 4] : hadamard_avx2::transforms[a - 3];
    if (shape.base == 1) return transform(x, count, scale);
    const auto whole = wide ? hadamard_avx512::find_transform_base(shape.base) : nullptr;
    for (const float* end = x + count * n; x != end; x += n) {
      if (whole == nullptr || run > hadamard_avx512::lanes) transform(x, shape.base, 1.0f);
      // Limited by reading codes, not by the width of vectors, so one width is enough.
      if (whole != nullptr)
        whole(x, run, scale);
      else if (run == 8)
        hadamard_avx2::combine(x, shape, scale, std::make_integer_sequence<int, 1>{});
      else if (run == 16)
        hadamard_avx2::combine(x, shape, scale, std::make_integer_sequence<int, 2>{});
      else
        hadamard_avx2::combine(x, shape, scale, std::make_integer_sequence<int, 4>{});
    }
    return;
  }
#elif defined(HIGGS_NEON)
  if (isa == Isa::Neon && shape.base == 1 && run >= hadamard_neon::lanes)
    return hadamard_neon::transforms[std::countr_zero(static_cast<unsigned>(run)) - 2](x, count, scale);
#endif
  const auto portable = run == 1   ? hadamard_portable::transform_block<1>
                        : run == 2 ? hadamard_portable::transform_block<2>
                        : run == 4 ? hadamard_portable::transform_block<4>
                                   : hadamard_portable::transform_block<8>;
  for (const float* end = x + count * n; x != end; x += n) portable(x, shape, scale);
}

}  // namespace detail

constexpr bool is_hadamard_order(std::int64_t n) noexcept { return detail::hadamard_shape(n).base != 0; }

constexpr std::span<const int> hadamard_orders() noexcept { return detail::hadamard_order_list; }

constexpr std::int64_t choose_block(std::int64_t cols, std::int64_t max_block) {
  expects(cols > 0 && max_block > 0, "higgs::choose_block: cols and max_block must be positive");
  std::int64_t best = 0, least = 0;
  for (std::size_t i = hadamard_orders().size(); i-- > 0;) {
    const std::int64_t order = hadamard_orders()[i], padding = (order - cols % order) % order;
    if (order > max_block) continue;
    if (best != 0 && order < std::min<std::int64_t>(64, cols)) break;
    if (best == 0 || padding < least) best = order, least = padding;
  }
  return best;
}

constexpr int hadamard_sign(std::int64_t n, std::int64_t row, std::int64_t col) {
  const detail::HadamardShape shape = detail::hadamard_shape(n);
  expects(shape.base != 0, "higgs::hadamard_sign: n must be one of hadamard_orders()");
  expects(row >= 0 && row < n && col >= 0 && col < n, "higgs::hadamard_sign: row and col must lie in [0, n)");
  int minuses = std::popcount(static_cast<std::uint64_t>(row & col & (shape.run - 1)));
  if (shape.base != 1) {
    const std::int64_t entry = row / shape.run * shape.base + col / shape.run;
    const int code = shape.codes[entry / 4];
    minuses += code >> 3 ^ code << 1 >> entry % 4;
  }
  return minuses % 2 == 0 ? 1 : -1;
}

inline std::vector<double> hadamard_reference(std::span<const float> x) {
  const auto n = static_cast<std::int64_t>(x.size());
  std::vector<double> y;
  for (std::int64_t row = 0; row < n; ++row) {
    double sum = 0;
    for (std::int64_t col = 0; col < n; ++col)
      sum += hadamard_sign(n, row, col) * double{x[static_cast<std::size_t>(col)]};
    y.push_back(sum / std::sqrt(static_cast<double>(n)));
  }
  return y;
}

inline void hadamard_blocks(std::span<float> x, std::int64_t block, Isa isa) {
  const detail::HadamardShape shape = detail::hadamard_shape(block);
  const auto size = static_cast<std::int64_t>(x.size());
  expects(shape.base != 0, "higgs::hadamard: the order must be one of hadamard_orders()");
  expects(size % block == 0, "higgs::hadamard_blocks: x.size() must be a multiple of block");
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  isa = std::min(isa, best_isa());
  detail::transform_blocks(x.data(), size / block, shape, scale, isa);
}

inline void hadamard(std::span<float> x, Isa isa) {
  hadamard_blocks(x, static_cast<std::int64_t>(x.size()), isa);
}

}  // namespace v0
}  // namespace higgs
