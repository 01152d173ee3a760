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
#include <higgs/cpu/isas.hpp>
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
  std::uint8_t codes[extent<order * order / 4>] = {};

  constexpr Paley() {
    int residue[extent<P>] = {};  // 0 at zero, 1 at squares, -1 elsewhere
    for (int i = 1; i < P; ++i) residue[i] = -1;
    for (int i = 1; i < P; ++i) residue[i * i % P] = 1;
    int t2 = 2;
    while (residue[t2] == 1) ++t2;
    int chi[extent<q>] =
        {};  // the same in GF(q): a + b t is a square if its norm a^2 - t^2 b^2 is one in GF(p)
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
  float sums[max_hadamard_quads][8][extent<W>];  // of the inputs of a quad, by bits 0 to 2 of the code
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
      float y[extent<W>];
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
using Vector = __m256;
inline constexpr int lanes = 8, radix = 8, base_rows = 6;
inline constexpr bool fused = true;
inline Vector load(const float* x) { return _mm256_loadu_ps(x); }
inline void store(float* x, Vector v) { _mm256_storeu_ps(x, v); }
inline Vector splat(float x) { return _mm256_set1_ps(x); }
inline Vector opaque_one() {
  Vector one = splat(1.0f);
  asm("" : "+x"(one));  // or compilers turn FMAs with it into additions
  return one;
}
inline Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return _mm256_fnmadd_ps(a, b, c); }
[[gnu::always_inline]] inline Vector inside(Vector x) {
  const Vector by1 = {1, -1, 1, -1, 1, -1, 1, -1}, by2 = {1, 1, -1, -1, 1, 1, -1, -1};
  const Vector by4 = {1, 1, 1, 1, -1, -1, -1, -1};
  x = _mm256_fmadd_ps(x, by1, _mm256_permute_ps(x, 0xb1));
  x = _mm256_fmadd_ps(x, by2, _mm256_permute_ps(x, 0x4e));
  return _mm256_fmadd_ps(x, by4, _mm256_permute2f128_ps(x, x, 1));
}
#  include <higgs/rotate/hadamard_passes.inc>
}  // namespace hadamard_avx2
HIGGS_TARGET_END

HIGGS_TARGET_BEGIN(HIGGS_AVX512_FEATURES)
namespace hadamard_avx512 {
using Vector = __m512;
inline constexpr int lanes = 16, radix = 16, base_rows = 20;
inline constexpr bool fused = true;
inline Vector load(const float* x) { return _mm512_loadu_ps(x); }
inline void store(float* x, Vector v) { _mm512_storeu_ps(x, v); }
inline Vector splat(float x) { return _mm512_set1_ps(x); }
inline Vector opaque_one() {
  Vector one = splat(1.0f);
  asm("" : "+v"(one));
  return one;
}
inline Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return _mm512_fnmadd_ps(a, b, c); }
[[gnu::always_inline]] inline Vector inside(Vector x) {
  const Vector by1 = {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1};
  const Vector by2 = {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1};
  const Vector by4 = {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1};
  const Vector by8 = {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1};
  x = _mm512_fmadd_ps(x, by1, _mm512_permute_ps(x, 0xb1));
  x = _mm512_fmadd_ps(x, by2, _mm512_permute_ps(x, 0x4e));
  x = _mm512_fmadd_ps(x, by4, _mm512_shuffle_f32x4(x, x, 0xb1));
  return _mm512_fmadd_ps(x, by8, _mm512_shuffle_f32x4(x, x, 0x4e));
}
#  include <higgs/rotate/hadamard_passes.inc>
}  // namespace hadamard_avx512
HIGGS_TARGET_END

#elif defined(HIGGS_NEON)

namespace hadamard_neon {
using Vector = float32x4_t;
inline constexpr int lanes = 4, radix = 16, base_rows = 20;
inline constexpr bool fused = false;
inline Vector load(const float* x) { return vld1q_f32(x); }
inline void store(float* x, Vector v) { vst1q_f32(x, v); }
inline Vector splat(float x) { return vdupq_n_f32(x); }
inline Vector opaque_one() { return splat(1.0f); }
inline Vector multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
inline Vector multiply_subtract(Vector a, Vector b, Vector c) { return vfmsq_f32(c, a, b); }
[[gnu::always_inline]] inline Vector inside(Vector x) {
  const Vector by1 = {1, -1, 1, -1}, by2 = {1, 1, -1, -1};
  x = vfmaq_f32(vrev64q_f32(x), x, by1);
  return vfmaq_f32(vextq_f32(x, x, 2), x, by2);
}
#  include <higgs/rotate/hadamard_passes.inc>
}  // namespace hadamard_neon

#endif

/// `count` blocks, one after another, by the widest registers that runs fill.
inline void transform_blocks(float* x, std::ptrdiff_t count, const HadamardShape& shape, float scale,
                             [[maybe_unused]] Isa isa) {
  const std::ptrdiff_t run = shape.run, n = shape.base * run;
#if defined(HIGGS_TARGET_BEGIN)
  if (isa_includes(isa, Isa::Avx512) && run >= hadamard_avx512::lanes)
    return hadamard_avx512::transform_blocks(x, count, shape, scale);
  if (isa_includes(isa, Isa::Avx2) && run >= hadamard_avx2::lanes)
    return hadamard_avx2::transform_blocks(x, count, shape, scale);
#elif defined(HIGGS_NEON)
  if (isa_includes(isa, Isa::Neon) && run >= hadamard_neon::lanes)
    return hadamard_neon::transform_blocks(x, count, shape, scale);
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
      sum += hadamard_sign(n, row, col) * static_cast<double>(x[static_cast<std::size_t>(col)]);
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
  isa = usable_isa(isa);
  detail::transform_blocks(x.data(), size / block, shape, scale, isa);
}

inline void hadamard(std::span<float> x, Isa isa) {
  hadamard_blocks(x, static_cast<std::int64_t>(x.size()), isa);
}

}  // namespace v0
}  // namespace higgs
