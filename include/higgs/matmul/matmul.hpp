// SPDX-License-Identifier: Apache-2.0
// y = x * W^T from codes on the CPU; W never becomes a matrix of floats.
//
//     const higgs::PackedMatrix packed(quantized);           // once, at load
//     higgs::matmul(x, packed, y);                           // MatrixViews of float or a 16-bit float
//
// - From a PackedMatrix: integer kernels, for engines. Every instruction set gives the same bits (cpu/portable/panel_product.hpp).
// - From a QuantizedMatrix as it is, without preparation and for any code: a block of floats at a time.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/core/scratch.hpp>
#include <higgs/cpu/convert.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/matmul/decode.hpp>
#include <higgs/matmul/dense.hpp>
#include <higgs/matmul/packed_format.hpp>
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

/// Choices of a product from a PackedMatrix; the defaults are right for most.
struct MatmulOptions {
  Activations activations = Activations::Int16;
  Isa isa = best_isa();  ///< for tests; the result does not depend on it
};

/// y = x * W^T + bias: x (M, cols) and y (M, rows) of float or a 16-bit float (see ScalarOf) with any strides, bias
/// (rows) of float, or empty. The weights are exact and the activations rounded (see Activations). The result is the
/// same bit for bit on every machine and for every number of threads, and a row of y depends on its row of x alone.
///
/// A row of x that holds NaN or infinity gives NaN in all of its outputs. Finite inputs of any magnitude give finite
/// outputs where the exact outputs fit the type of y, and infinity where they do not. Activation groups of rotated
/// inputs below 2^-100 count as zero, and below 2^-4 in a row with an input above 2^55. Throws InvalidArgument for
/// shapes that do not fit.
template <class X, class Y>
void matmul(MatrixView<X> x, const PackedMatrix& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), MatmulOptions options = {});

/// One of several products of the same x: y (M, rows) and bias as of matmul().
template <Scalar Y>
struct Product {
  const PackedMatrix* w;          ///< not null
  MatrixView<Y> y;                ///< (M, rows of w)
  std::span<const float> bias{};  ///< (rows of w), or empty
};

/// The products of x (M, cols) with matrices of that many columns, each with the bits of a call of its own. Neighbours that
/// read the same integers (seed, block, input scales and columns, layouts of codes that agree) share them: x is rotated
/// and rounded once, and the threads share the panels of all. For queries, keys and values; for a gate and what it
/// multiplies. Throws as matmul() does.
template <class X, Scalar Y>
void matmul(MatrixView<X> x, std::span<const Product<Y>> products, Executor& executor = default_executor(),
            MatmulOptions options = {});

/// y = x * W^T + bias as above, with float sums. The result does not depend on the number of threads, and a row of y
/// depends on its row of x alone.
template <class X, Code C, class Y>
void matmul(MatrixView<X> x, const QuantizedMatrix<C>& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), Isa isa = best_isa());

/// The same for a matrix whose code is known only at run time.
template <class X, class Y>
void matmul(MatrixView<X> x, const AnyQuantizedMatrix& w, MatrixView<Y> y, std::span<const float> bias = {},
            Executor& executor = default_executor(), Isa isa = best_isa());

// Implementation.

namespace detail {

/// Rows of x that are multiplied with a weight panel at once: their integers fit a core's second cache.
inline constexpr std::int64_t batch_block = 192;

/// Weight panels of one task, of `panels` that take `bytes`. For few rows of x memory is the limit, and a thread reads
/// contiguous bytes fastest: 1 MiB or more, in tasks of nearly equal size.
inline std::int64_t panel_grain(std::int64_t panels, std::int64_t bytes, std::int64_t batch,
                                std::int64_t width) noexcept {
  constexpr std::int64_t contiguous = 1 << 20;  // bytes
  if (batch >= min_panel_rows) return 1;
  const std::int64_t rounds = bytes / (contiguous * width);  // tasks of each thread
  const std::int64_t tasks = std::max<std::int64_t>(1, rounds) * width;
  return std::max<std::int64_t>(1, (panels + tasks - 1) / tasks);
}

/// y[n * stride] = sums[n] * output_scale + bias[n]; output_scale is a power of two, `bias` may be null.
template <Scalar Y>
void write_outputs(const float* sums, float output_scale, const float* bias, std::int64_t count, Y* y,
                   std::int64_t stride) noexcept {
  if (bias == nullptr && stride == 1) {
    for (std::int64_t n = 0; n < count; ++n) y[n] = static_cast<Y>(sums[n] * output_scale);
  } else {
    for (std::int64_t n = 0; n < count; ++n)
      y[n * stride] =
          static_cast<Y>(bias != nullptr ? sums[n] * output_scale + bias[n] : sums[n] * output_scale);
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

/// Whether all activation scales of row `at` are numbers up to `most`.
inline bool scales_are_at_most(const cpu::ActivationPanel& panel, const cpu::ActivationShape& shape, int at,
                               float most) noexcept {
  bool all = true;
  for (std::int64_t i = 0; i < shape.x_groups(); ++i) all &= panel.scales[i * panel.rows + at] <= most;
  return all;
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

/// The products of up to batch_block rows, which become rows of y from `first_row` on. All matrices read the activations
/// of the first.
template <class X, Scalar Y>
void matmul_block(MatrixView<X> x, std::span<const Product<Y>> products, std::int64_t first_row,
                  Executor& executor, const MatmulOptions& options);

/// Whether the integers that `rows` rows of x become for one matrix are those for the other.
inline bool reads_same_activations(const PackedMatrix& a, const PackedMatrix& b, std::int64_t rows,
                                   const MatmulOptions& options) noexcept {
  const PanelKernel &kernel_a = a.format().kernel(options.isa, rows),
                    &kernel_b = b.format().kernel(options.isa, rows);
  return a.cols() == b.cols() && a.layout().block == b.layout().block && a.seed() == b.seed() &&
         a.first_col() == b.first_col() && kernel_a.order == kernel_b.order &&
         std::ranges::equal(kernel_a.max_rows, kernel_b.max_rows) &&
         kernel_a.shape(a.packed(), a.format(), options.activations) ==
             kernel_b.shape(b.packed(), b.format(), options.activations) &&
         std::ranges::equal(a.input_scales(), b.input_scales());
}

/// The product from a matrix as it is.
template <class X, Code C, Scalar Y>
void decode_and_multiply(MatrixView<X> x, const QuantizedMatrix<C>& w, MatrixView<Y> y,
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

  const GroupDecoder<C> decoder(w.book);
  const std::int64_t tile_rows = batch > 8 ? 64 : 16;
  const std::int64_t tile_groups = std::max<std::int64_t>(1, dense_depth / group);
  parallel_for(executor, w.rows(), tile_rows, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t rows = end - begin;
    std::vector<float> tile(static_cast<std::size_t>(rows * tile_groups * group));  // (rows, depth)
    std::vector<float> sums(static_cast<std::size_t>(batch * rows));                // (M, rows)
    std::vector<SymbolOf<C>> symbols;
    for (std::int64_t first = 0; first < w.layout.groups(); first += tile_groups) {
      const std::int64_t count = std::min(tile_groups, w.layout.groups() - first), depth = count * group;
      for (std::int64_t n = 0; n < rows; ++n)
        decode_groups(w, decoder, begin + n, first, count,
                      std::span<float>(tile.data() + n * depth, static_cast<std::size_t>(depth)), symbols);
      for (std::int64_t m = 0; m < batch; m += dense_batch)
        multiply_dense(cpu::DenseProduct<float>{rotated.data() + m * padded + first * group, padded,
                                                tile.data(), depth, sums.data() + m * rows, rows,
                                                std::min(dense_batch, batch - m), rows, depth, first > 0},
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

#if HIGGS_DEFINITIONS

/// Rows of x as integers for one kernel: panels of at most `most` rows, in memory that the thread reuses.
class ActivationPanels {
 public:
  ActivationPanels(const cpu::ActivationShape& shape, const PanelKernel& kernel, int batch,
                   std::int64_t row_floats, std::int64_t tasks)
      : most_(kernel.max_rows[shape.planes - 1]),
        count_((batch + most_ - 1) / most_),
        bytes_(cpu::ActivationPanel::bytes(shape, kernel.order, most_)),
        floats_((static_cast<std::size_t>(row_floats) * sizeof(float) + 63) / 64 * 64),
        scratch_(static_cast<std::size_t>(count_) * bytes_ + static_cast<std::size_t>(tasks) * floats_) {
    for (int i = 0; i < count_; ++i)
      new (panels() + i) cpu::ActivationPanel(shape, kernel.order, std::min(most_, batch - i * most_),
                                              scratch_.data() + static_cast<std::size_t>(i) * bytes_);
  }
  const cpu::ActivationPanel* panels() const noexcept {
    return reinterpret_cast<const cpu::ActivationPanel*>(memory_);
  }
  int count() const noexcept { return count_; }
  /// The panel of row m, and the row's number in it.
  const cpu::ActivationPanel& panel_of(std::int64_t m) const noexcept { return panels()[m / most_]; }
  int row_of(std::int64_t m) const noexcept { return static_cast<int>(m % most_); }
  /// Room for one rotated row (row_floats), for each task.
  float* floats_of_task(std::int64_t task) const noexcept {
    return reinterpret_cast<float*>(scratch_.data() + static_cast<std::size_t>(count_) * bytes_ +
                                    static_cast<std::size_t>(task) * floats_);
  }

 private:
  static constexpr std::size_t most_panels = batch_block / min_panel_rows;
  cpu::ActivationPanel* panels() noexcept { return reinterpret_cast<cpu::ActivationPanel*>(memory_); }

  alignas(cpu::ActivationPanel) std::byte memory_[most_panels * sizeof(cpu::ActivationPanel)];
  int most_, count_;
  std::size_t bytes_, floats_;
  Scratch scratch_;
};

/// Panel `number` of the weights of one product, times the activations; sums: (rows of x, panel_rows). huge[m]: whether
/// row m was multiplied by 2^-huge_shift.
template <Scalar Y>
void multiply_panel(const Product<Y>& product, std::int64_t number, const PanelKernel& kernel,
                    const cpu::ActivationShape& shape, const ActivationPanels& panels,
                    const std::uint8_t* huge, std::int64_t batch, std::int64_t first_row,
                    float* sums) noexcept {
  const PackedMatrix& w = *product.w;
  std::fill(sums, sums + batch * panel_rows, 0.0f);
  kernel.product(w.packed(), w.tables(), shape, w.bytes().data() + number * w.packed().panel_bytes(),
                 panels.panels(), panels.count(), sums);
  const float output_scale = std::ldexp(1.0f, w.exponent());
  const std::int64_t first = number * panel_rows, count = std::min(panel_rows, w.rows() - first);
  const float* added = product.bias.empty() ? nullptr : product.bias.data() + first;
  for (std::int64_t m = 0; m < batch; ++m) {
    float* const row = sums + m * panel_rows;
    float factor = output_scale;
    if (huge[m] != 0) [[unlikely]] {
      for (std::int64_t n = 0; n < count; ++n) row[n] = scaled(row[n], w.exponent() + huge_shift);
      factor = 1;
    }
    const MatrixView<Y>& y = product.y;
    write_outputs(row, factor, added, count, y.row(first_row + m) + first * y.col_stride, y.col_stride);
  }
}

template <class X, Scalar Y>
void matmul_block(MatrixView<X> x, std::span<const Product<Y>> products, std::int64_t first_row,
                  Executor& executor, const MatmulOptions& options) {
  const PackedMatrix& w = *products.front().w;
  const CodeLayout& layout = w.layout();
  const PanelKernel& kernel = w.format().kernel(options.isa, x.rows);
  const cpu::ActivationShape shape = kernel.shape(w.packed(), w.format(), options.activations);
  const int batch = static_cast<int>(x.rows);
  const auto padded = static_cast<std::size_t>(layout.padded_cols());
  // Rows that one task prepares, one after the other in the same floats.
  const std::int64_t grain = std::max<std::int64_t>(2, (batch + 31) / 32),
                     tasks = (batch + grain - 1) / grain;
  const ActivationPanels panels(shape, kernel, batch, layout.padded_cols(), tasks);

  std::uint8_t huge[batch_block];  // whether a row was multiplied by 2^-huge_shift
  parallel_for(executor, batch, grain, [&](std::int64_t begin, std::int64_t end) {
    float* const row = panels.floats_of_task(begin / grain);
    for (std::int64_t m = begin; m < end; ++m) {
      const cpu::ActivationPanel& panel = panels.panel_of(m);
      const int at = panels.row_of(m);
      const auto prepare = [&](float factor) {
        rotate_activations(x, m, factor, w.input_scales(), layout, w.seed(), w.first_col(), {row, padded},
                           options.isa);
        kernel.quantize_row(row, shape, options.activations, kernel.order, panel, at);
      };
      prepare(1);
      huge[m] =
          !scales_are_at_most(panel, shape, at, huge_input / cpu::activation_limit(options.activations));
      if (huge[m] != 0) [[unlikely]]
        prepare(huge_factor);
    }
  });

  std::int64_t all_panels = 0, all_bytes = 0;
  for (const Product<Y>& product : products) {
    all_panels += product.w->packed().panels();
    all_bytes += product.w->packed().panels() * product.w->packed().panel_bytes();
  }
  const std::int64_t panel_count = panel_grain(all_panels, all_bytes, batch, executor.width());
  parallel_for(executor, all_panels, panel_count, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) float sums[batch_block * panel_rows];
    std::int64_t first = 0;  // number of the product's first panel among all
    for (const Product<Y>& product : products) {
      const PackedMatrix& each = *product.w;
      const PanelKernel& multiply = each.format().kernel(options.isa, batch);
      const std::int64_t after = first + each.packed().panels();
      for (std::int64_t i = std::max(begin, first); i < std::min(end, after); ++i)
        multiply_panel(product, i - first, multiply, shape, panels, huge, batch, first_row, sums);
      first = after;
    }
  });
}

#endif

}  // namespace detail

template <class X, class Y>
void matmul(MatrixView<X> x, const PackedMatrix& w, MatrixView<Y> y, std::span<const float> bias,
            Executor& executor, MatmulOptions options) {
  static_assert(!std::is_const_v<Y>, "higgs::matmul: y is written, so it cannot be const");
  if constexpr (!detail::is_scalar<X> || !detail::is_scalar<Y>) {
    matmul(detail::as_scalars(x), w, detail::as_scalars(y), bias, executor, options);
  } else {
    const Product<Y> product{&w, y, bias};
    matmul(x, std::span<const Product<Y>>(&product, 1), executor, options);
  }
}

template <class X, Scalar Y>
void matmul(MatrixView<X> x, std::span<const Product<Y>> products, Executor& executor,
            MatmulOptions options) {
  if constexpr (!detail::is_scalar<X>) {
    matmul(detail::as_scalars(x), products, executor, options);
  } else {
    for (const Product<Y>& product : products) {
      expects(product.w != nullptr, "higgs::matmul: w of a product is null");
      detail::expect_filled("higgs::matmul", *product.w);
      detail::expect_product("higgs::matmul", x, product.w->rows(), product.w->cols(), product.y,
                             product.bias.size());
    }
    options.isa = usable_isa(options.isa);
    for (std::int64_t m = 0; m < x.rows; m += detail::batch_block) {
      const std::int64_t count = std::min(detail::batch_block, x.rows - m);
      const MatrixView<const X> rows(x.row_range(m, count));
      for (std::size_t first = 0, after = 0; first < products.size(); first = after) {
        while (after < products.size() &&
               (after == first ||
                detail::reads_same_activations(*products[first].w, *products[after].w, count, options)))
          ++after;
        detail::matmul_block(rows, products.subspan(first, after - first), m, executor, options);
      }
    }
  }
}

template <class X, Code C, class Y>
void matmul(MatrixView<X> x, const QuantizedMatrix<C>& w, MatrixView<Y> y, std::span<const float> bias,
            Executor& executor, Isa isa) {
  static_assert(!std::is_const_v<Y>, "higgs::matmul: y is written, so it cannot be const");
  if constexpr (!detail::is_scalar<X> || !detail::is_scalar<Y>) {
    matmul(detail::as_scalars(x), w, detail::as_scalars(y), bias, executor, isa);
  } else {
    detail::expect_whole("higgs::matmul", w);
    detail::expect_product("higgs::matmul", x, w.rows(), w.cols(), y, bias.size());
    detail::decode_and_multiply(x, w, y, bias, executor, isa);
  }
}

template <class X, class Y>
void matmul(MatrixView<X> x, const AnyQuantizedMatrix& w, MatrixView<Y> y, std::span<const float> bias,
            Executor& executor, Isa isa) {
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
