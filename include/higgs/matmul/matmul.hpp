// SPDX-License-Identifier: Apache-2.0
// y = x * W^T from packed codes on the CPU; W never becomes a matrix of floats.
//
// - From a TiledMatrix: integer kernels, for engines. Every instruction set gives the same bits (strip_product.hpp).
// - From a QuantizedMatrix as it is, without preparation and for any codebook: a tile of floats at a time.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/convert.hpp>
#include <higgs/core/cpu.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/matmul/activations.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/dense.hpp>
#include <higgs/matmul/strip_product.hpp>
#include <higgs/matmul/tiled_matrix.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {

/// How a product from a TiledMatrix is computed; the defaults are right for most.
struct MatmulOptions {
  Activations activations = Activations::Int16;
  Isa isa = best_isa();  ///< for tests; the result does not depend on it
};

namespace detail {

/// Rows of x that are multiplied with a strip at once: their activations stay in a core's second cache.
inline constexpr std::int64_t batch_block = 192;

/// Strips of one task. Of few rows of x memory is the limit, and a thread reads fastest what lies together: 1 MiB or
/// more, in parts as equal as they can be.
inline std::int64_t strip_grain(const TileLayout& tiles, std::int64_t batch, std::int64_t width) noexcept {
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

/// Row m of x in the rotated basis of W: times the input scales (cols, or none), zeros up to whole blocks, rotated.
template <class X>
void rotate_activations(MatrixView<X> x, std::int64_t m, std::span<const float> input_scales,
                        const CodeLayout& layout, std::optional<std::uint64_t> seed, std::int64_t first_col,
                        std::span<float> row, Isa isa) {
  if (x.col_stride == 1) {
    const std::span<const std::remove_const_t<X>> inputs(x.row(m), static_cast<std::size_t>(x.cols));
    return rotate_row(inputs, input_scales, row, layout.block, seed, first_col, isa);
  }
  for (std::int64_t k = 0; k < x.cols; ++k) row[static_cast<std::size_t>(k)] = static_cast<float>(x(m, k));
  const std::span<float> inputs = row.first(static_cast<std::size_t>(x.cols));
  rotate_row(std::span<const float>(inputs), input_scales, row, layout.block, seed, first_col, isa);
}

/// The product of up to batch_block rows.
template <class X, Scalar Y>
void matmul_block(MatrixView<X> x, const TiledMatrix& w, MatrixView<Y> y, std::span<const float> bias,
                  Executor& executor, const MatmulOptions& options) {
  const CodeLayout& layout = w.layout();
  const TileLayout& tiles = w.tiles();
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

  parallel_for(executor, batch, grain, [&](std::int64_t begin, std::int64_t end) {
    auto* row = reinterpret_cast<float*>(rotated + static_cast<std::size_t>(begin / grain) * floats);
    for (std::int64_t m = begin; m < end; ++m) {
      rotate_activations(x, m, w.input_scales(), layout, w.seed(), w.first_col(), {row, padded}, options.isa);
      quantize_row(row, shape, options.activations, order, panels[m / most], static_cast<int>(m % most),
                   options.isa);
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
      for (std::int64_t m = 0; m < batch; ++m)
        write_outputs(sums + m * strip_rows, unit, added, count, y.row(m) + first * y.col_stride,
                      y.col_stride);
    }
  });
}

}  // namespace detail

/// y = x * W^T + bias: x (M, cols) and y (M, rows) of float, Half or BFloat16 with any strides, bias (rows) or empty.
/// The weights are exact and the activations rounded (see Activations). The result is the same bit for bit on every
/// machine and for every number of threads, and a row of it does not depend on the other rows of x.
template <class X, Scalar Y>
  requires Scalar<std::remove_const_t<X>>
void matmul(MatrixView<X> x, const TiledMatrix& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), MatmulOptions options = {}) {
  detail::expect_filled("higgs::matmul", w);
  detail::expect_product("higgs::matmul", x, w.rows(), w.cols(), y, bias.size());
  options.isa = std::min(options.isa, best_isa());
  for (std::int64_t m = 0; m < x.rows; m += detail::batch_block) {
    const std::int64_t count = std::min(detail::batch_block, x.rows - m);
    detail::matmul_block(x.row_range(m, count), w, y.row_range(m, count), bias, executor, options);
  }
}

/// y = x * W^T + bias: x (M, cols) and y (M, rows) of float, Half or BFloat16 with any strides, bias (rows) or empty.
/// Sums are float; the result does not depend on the number of threads, nor a row of it on the other rows of x.
template <class X, Codebook Book, Scalar Y>
  requires Scalar<std::remove_const_t<X>>
void matmul(MatrixView<X> x, const QuantizedMatrix<Book>& w, MatrixView<Y> y,
            std::span<const float> bias = {}, Executor& executor = default_executor(), Isa isa = best_isa()) {
  detail::expect_whole("higgs::matmul", w);
  detail::expect_product("higgs::matmul", x, w.rows(), w.cols(), y, bias.size());
  const std::int64_t batch = x.rows, padded = w.layout.padded_cols(), group = w.layout.group;

  std::vector<float> input_scales(w.input_scales.size());  // (cols) or empty
  to_floats(w.input_scales.data(), std::ssize(w.input_scales), input_scales.data(), isa);
  std::vector<float> rotated(static_cast<std::size_t>(batch * padded));  // (M, padded)
  parallel_for(executor, batch, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t m = begin; m < end; ++m)
      detail::rotate_activations(x, m, input_scales, w.layout, w.seed, 0,
                                 {rotated.data() + m * padded, static_cast<std::size_t>(padded)}, isa);
  });

  const PointTable<Book> points(w.book);
  const std::int64_t tile_rows = batch > 8 ? 64 : 16;
  const std::int64_t tile_groups = std::max<std::int64_t>(1, detail::tile_depth / group);
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
      for (std::int64_t m = 0; m < batch; m += detail::tile_batch)
        detail::tile_product<float>(
            {rotated.data() + m * padded + first * group, padded, tile.data(), depth, sums.data() + m * rows,
             rows, std::min(detail::tile_batch, batch - m), rows, depth, first > 0},
            isa);
    }
    for (std::int64_t m = 0; m < batch; ++m)
      for (std::int64_t n = 0; n < rows; ++n) {
        const float sum = sums[static_cast<std::size_t>(m * rows + n)];
        y(m, begin + n) =
            static_cast<Y>(bias.empty() ? sum : sum + bias[static_cast<std::size_t>(begin + n)]);
      }
  });
}

/// The same for a matrix whose codebook is known only at run time.
template <class X, Scalar Y>
  requires Scalar<std::remove_const_t<X>>
void matmul(MatrixView<X> x, const AnyQuantizedMatrix& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), Isa isa = best_isa()) {
  w.visit([&](const auto& matrix) { matmul(x, matrix, y, bias, executor, isa); });
}

}  // namespace v0
}  // namespace higgs
