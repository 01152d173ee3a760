// SPDX-License-Identifier: Apache-2.0
// y = x * W^T from packed codes on the CPU; W never becomes a matrix of floats.
//
// - From a PackedMatrix: integer kernels, for engines. Every instruction set gives the same bits (strip_product.hpp).
// - From a QuantizedMatrix as it is, without preparation and for any codebook: a tile of floats at a time.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/dense.hpp>
#include <higgs/matmul/strip_product.hpp>
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {

/// How a product from a PackedMatrix is computed; the defaults are right for most.
struct MatmulOptions {
  Activations activations = Activations::Int16;
  Isa isa = best_isa();  ///< for tests; the result does not depend on it
};

namespace detail {

/// Rows of x that are multiplied with a strip at once: their activations stay in a core's second cache.
inline constexpr std::int64_t batch_block = 192;

/// Strips of one task. Of few rows of x memory is the limit, and a thread reads fastest what lies together: 1 MiB or
/// more, in parts as equal as they can be.
inline std::int64_t strip_grain(const PackedLayout& tiles, std::int64_t batch, std::int64_t width) noexcept {
  constexpr std::int64_t together = 1 << 20;  // bytes
  if (batch >= min_panel_rows) return 1;
  const std::int64_t rounds =
      tiles.strips() * tiles.strip_bytes() / (together * width);  // of a task for each thread
  const std::int64_t tasks = std::max<std::int64_t>(1, rounds) * width;
  return std::max<std::int64_t>(1, (tiles.strips() + tasks - 1) / tasks);
}

/// y[n * stride] = sums[n] * unit + bias[n], the product with a power of two being exact; `bias` may be null.
template <Scalar Y>
void write_outputs(const float* sums, float unit, const float* bias, std::int64_t count, Y* y,
                   std::int64_t stride) noexcept {
  if (bias == nullptr && stride == 1) {
    for (std::int64_t n = 0; n < count; ++n) y[n] = static_cast<Y>(sums[n] * unit);
  } else {
    for (std::int64_t n = 0; n < count; ++n)
      y[n * stride] = static_cast<Y>(bias != nullptr ? sums[n] * unit + bias[n] : sums[n] * unit);
  }
}

/// Rows of x beyond `huge_input` once they are rotated, or whose rotation overflows, are multiplied by
/// 2^-huge_shift before it, and their products by the inverse: then no sum in between overflows, with room
/// for 2^20 groups of the largest scales and codes.
inline constexpr int huge_shift = 96;
inline constexpr float huge_factor = 0x1p-96f, huge_input = 0x1p55f;

/// x * 2^exponent, rounded once.
inline float scaled(float x, int exponent) noexcept {
  return static_cast<float>(std::ldexp(static_cast<double>(x), exponent));
}

/// Whether all magnitudes are numbers up to `most`.
inline bool is_at_most(std::span<const float> x, float most) noexcept {
  std::uint32_t peak = 0;  // bits of magnitudes sort like these, NaN last
  for (const float value : x) peak = std::max(peak, std::bit_cast<std::uint32_t>(value) & 0x7fffffffu);
  return peak <= std::bit_cast<std::uint32_t>(most);
}

/// Row m of x in the rotated basis of W: times `unit` and the input scales (cols, or none), zeros up to whole
/// blocks, rotated.
template <class X>
void rotate_activations(MatrixView<X> x, std::int64_t m, float unit, std::span<const float> input_scales,
                        const CodeLayout& layout, std::optional<std::uint64_t> seed, std::int64_t first_col,
                        std::span<float> row, Isa isa) {
  if (x.col_stride == 1 && unit == 1) {
    const std::span<const std::remove_const_t<X>> inputs(x.row(m), static_cast<std::size_t>(x.cols));
    return rotate_row(inputs, input_scales, row, layout.block, seed, first_col, isa);
  }
  for (std::int64_t k = 0; k < x.cols; ++k)
    row[static_cast<std::size_t>(k)] = static_cast<float>(x(m, k)) * unit;
  const std::span<float> inputs = row.first(static_cast<std::size_t>(x.cols));
  rotate_row(std::span<const float>(inputs), input_scales, row, layout.block, seed, first_col, isa);
}

/// The product of up to batch_block rows.
template <class X, Scalar Y>
void matmul_block(MatrixView<X> x, const PackedMatrix& w, MatrixView<Y> y, std::span<const float> bias,
                  Executor& executor, const MatmulOptions& options) {
  const CodeLayout& layout = w.layout();
  const PackedLayout& tiles = w.tiles();
  const StripKernel kernel = strip_kernel(options.isa, x.rows);
  const RunShape shape{.groups = layout.groups(),
                       .group = layout.group,
                       .padded_group = padded_group(kernel, tiles, w.tables()),
                       .run = run_inputs(options.activations),
                       .dim = w.tables().dim,
                       .planes = options.activations == Activations::Int16 ? 2 : 1};
  const QuadOrder order = quad_order(kernel);
  const int most = panel_rows(kernel, shape.planes), batch = static_cast<int>(x.rows);
  const int panel_count = (batch + most - 1) / most;
  const std::size_t panel_bytes = Panel::bytes(shape, order, most);
  const auto padded = static_cast<std::size_t>(layout.padded_cols());
  const std::size_t floats = (padded * sizeof(float) + 63) / 64 * 64;  // of a row
  // Rows that one task prepares, one after the other in the same floats.
  const std::int64_t grain = std::max<std::int64_t>(2, (batch + 31) / 32),
                     tasks = (batch + grain - 1) / grain;
  const Scratch scratch(static_cast<std::size_t>(panel_count) * panel_bytes +
                        static_cast<std::size_t>(tasks) * floats);
  constexpr std::size_t most_panels = batch_block / min_panel_rows;
  alignas(Panel) std::byte panel_memory[most_panels * sizeof(Panel)];
  auto* panels = reinterpret_cast<Panel*>(panel_memory);
  for (int i = 0; i < panel_count; ++i)
    new (panels + i) Panel(shape, order, std::min(most, batch - i * most),
                           scratch.data() + static_cast<std::size_t>(i) * panel_bytes);
  std::uint8_t* rotated = scratch.data() + static_cast<std::size_t>(panel_count) * panel_bytes;

  std::uint8_t huge[batch_block];  // whether a row is 2^-huge_shift of itself
  parallel_for(executor, batch, grain, [&](std::int64_t begin, std::int64_t end) {
    auto* row = reinterpret_cast<float*>(rotated + static_cast<std::size_t>(begin / grain) * floats);
    for (std::int64_t m = begin; m < end; ++m) {
      const Panel& panel = panels[m / most];
      const int at = static_cast<int>(m % most);
      const auto prepare = [&](float factor) {
        rotate_activations(x, m, factor, w.input_scales(), layout, w.seed(), w.first_col(), {row, padded},
                           options.isa);
        quantize_row(row, shape, options.activations, order, panel, at, options.isa);
      };
      prepare(1);
      huge[m] = !steps_are_at_most(panel, shape, at, huge_input / quantizer_limit(options.activations));
      if (huge[m] != 0) [[unlikely]]
        prepare(huge_factor);
    }
  });

  const float unit = std::ldexp(1.0f, w.exponent());
  const std::int64_t strips = strip_grain(tiles, batch, executor.width());
  parallel_for(executor, tiles.strips(), strips, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) float sums[batch_block * strip_rows];
    for (std::int64_t strip = begin; strip < end; ++strip) {
      std::fill(sums, sums + batch * strip_rows, 0.0f);
      const StripProduct product{&tiles, &w.tables(), &shape, w.bytes().data() + strip * tiles.strip_bytes()};
      strip_product(product, panels, panel_count, sums, kernel);
      const std::int64_t first = strip * strip_rows, count = std::min(strip_rows, w.rows() - first);
      const float* added = bias.empty() ? nullptr : bias.data() + first;
      for (std::int64_t m = 0; m < batch; ++m) {
        if (huge[m] != 0) [[unlikely]] {
          float* const row = sums + m * strip_rows;
          for (std::int64_t n = 0; n < count; ++n) row[n] = scaled(row[n], w.exponent() + huge_shift);
          write_outputs(row, 1, added, count, y.row(m) + first * y.col_stride, y.col_stride);
          continue;
        }
        write_outputs(sums + m * strip_rows, unit, added, count, y.row(m) + first * y.col_stride,
                      y.col_stride);
      }
    }
  });
}

/// The product from a matrix as it is.
template <class X, Codebook Book, Scalar Y>
void decode_and_multiply(MatrixView<X> x, const QuantizedMatrix<Book>& w, MatrixView<Y> y,
                         std::span<const float> bias, Executor& executor, Isa isa) {
  const std::int64_t batch = x.rows, padded = w.layout.padded_cols(), group = w.layout.group;

  std::vector<float> input_scales(w.input_scales.size());  // (cols) or empty
  to_floats(w.input_scales.data(), std::ssize(w.input_scales), input_scales.data(), isa);
  std::vector<float> rotated(static_cast<std::size_t>(batch * padded));  // (M, padded)
  std::vector<std::uint8_t> huge(
      static_cast<std::size_t>(batch));  // rows that are 2^-huge_shift of themselves
  parallel_for(executor, batch, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m) {
      const std::span<float> row(rotated.data() + m * padded, static_cast<std::size_t>(padded));
      rotate_activations(x, m, 1, input_scales, w.layout, w.seed, 0, row, isa);
      if (is_at_most(row, huge_input)) continue;
      huge[static_cast<std::size_t>(m)] = 1;
      rotate_activations(x, m, huge_factor, input_scales, w.layout, w.seed, 0, row, isa);
    }
  });

  const PointTable<Book> points(w.book);
  const std::int64_t tile_rows = batch > 8 ? 64 : 16;
  const std::int64_t tile_groups = std::max<std::int64_t>(1, tile_depth / group);
  parallel_for(executor, w.rows(), tile_rows, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t rows = end - begin;
    std::vector<float> tile(static_cast<std::size_t>(rows * tile_groups * group));  // (rows, depth)
    std::vector<float> sums(static_cast<std::size_t>(batch * rows));                // (M, rows)
    std::vector<typename Book::Index> codes;
    for (std::int64_t first = 0; first < w.layout.groups(); first += tile_groups) {
      const std::int64_t count = std::min(tile_groups, w.layout.groups() - first), depth = count * group;
      for (std::int64_t n = 0; n < rows; ++n)
        decode_groups(w, points, begin + n, first, count,
                      std::span<float>(tile.data() + n * depth, static_cast<std::size_t>(depth)), codes);
      for (std::int64_t m = 0; m < batch; m += tile_batch)
        tile_product<float>(
            {rotated.data() + m * padded + first * group, padded, tile.data(), depth, sums.data() + m * rows,
             rows, std::min(tile_batch, batch - m), rows, depth, first > 0},
            isa);
    }
    for (std::int64_t m = 0; m < batch; ++m) {
      const bool shifted = huge[static_cast<std::size_t>(m)] != 0;
      for (std::int64_t n = 0; n < rows; ++n) {
        const float raw = sums[static_cast<std::size_t>(m * rows + n)];
        const float sum = shifted ? scaled(raw, huge_shift) : raw;
        y(m, begin + n) =
            static_cast<Y>(bias.empty() ? sum : sum + bias[static_cast<std::size_t>(begin + n)]);
      }
    }
  });
}

}  // namespace detail

/// y = x * W^T + bias: x (M, cols) and y (M, rows) of float or a 16-bit float (see ScalarOf) with any
/// strides, bias (rows) of float, or empty. The weights are exact and the activations rounded (see
/// Activations). The result is the same bit for bit on every machine and for every number of threads, and a
/// row of it does not depend on the other rows of x.
///
/// A row of x that holds NaN or infinity gives NaN in all of its outputs. Finite ones of any magnitude give
/// finite outputs where the exact ones fit the type of y, infinity where they do not. Runs of rotated inputs
/// below 2^-100 count as zero, and below 2^-4 in a row that passes 2^55. Throws InvalidArgument for shapes
/// that do not meet.
template <class X, class Y>
void matmul(MatrixView<X> x, const PackedMatrix& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), MatmulOptions options = {}) {
  static_assert(!std::is_const_v<Y>, "higgs::matmul: y is written, so it cannot be const");
  if constexpr (!detail::is_scalar<X> || !detail::is_scalar<Y>) {
    matmul(detail::as_scalars(x), w, detail::as_scalars(y), bias, executor, options);
  } else {
    detail::expect_filled("higgs::matmul", w);
    detail::expect_product("higgs::matmul", x, w.rows(), w.cols(), y, bias.size());
    options.isa = usable_isa(options.isa);
    for (std::int64_t m = 0; m < x.rows; m += detail::batch_block) {
      const std::int64_t count = std::min(detail::batch_block, x.rows - m);
      detail::matmul_block(x.row_range(m, count), w, y.row_range(m, count), bias, executor, options);
    }
  }
}

/// y = x * W^T + bias as above. Sums are float; the result does not depend on the number of threads, nor a
/// row of it on the other rows of x.
template <class X, Codebook Book, class Y>
void matmul(MatrixView<X> x, const QuantizedMatrix<Book>& w, MatrixView<Y> y,
            std::span<const float> bias = {}, Executor& executor = default_executor(), Isa isa = best_isa()) {
  static_assert(!std::is_const_v<Y>, "higgs::matmul: y is written, so it cannot be const");
  if constexpr (!detail::is_scalar<X> || !detail::is_scalar<Y>) {
    matmul(detail::as_scalars(x), w, detail::as_scalars(y), bias, executor, isa);
  } else {
    detail::expect_whole("higgs::matmul", w);
    detail::expect_product("higgs::matmul", x, w.rows(), w.cols(), y, bias.size());
    detail::decode_and_multiply(x, w, y, bias, executor, isa);
  }
}

/// The same for a matrix whose codebook is known only at run time.
template <class X, class Y>
void matmul(MatrixView<X> x, const AnyQuantizedMatrix& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), Isa isa = best_isa()) {
  if constexpr (!detail::is_scalar<X> || !detail::is_scalar<Y>)
    matmul(detail::as_scalars(x), w, detail::as_scalars(y), bias, executor, isa);
  else
    w.visit([&](const auto& matrix) { matmul(x, matrix, y, bias, executor, isa); });
}

/// Says what is wrong with a bias of another type than float.
template <class X, class W, class Y, class Bias, class... Rest>
  requires(
              requires(const W& w) { w.layout; } || requires(const W& w) { w.layout(); }) &&
          requires { typename Bias::value_type; } &&
          (!std::convertible_to<const Bias&, std::span<const float>>)
void matmul(MatrixView<X>, const W&, MatrixView<Y>, const Bias&, Rest&&...) {
  static_assert(std::is_void_v<Bias>, "higgs::matmul: bias must be floats, a std::span<const float>");
}

}  // namespace v0
}  // namespace higgs
