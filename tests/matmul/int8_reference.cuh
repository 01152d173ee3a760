// SPDX-License-Identifier: Apache-2.0
// The int8 product by plain loops, bit for bit: what the kernels must give.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/matmul/int8_launch.cuh>
#include <higgs/matmul/stream_launch.cuh>
#include <higgs/pack/bits.hpp>
#include <higgs/rotate/random_hadamard.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "matrices.hpp"

/// One rotated row of x as int8: inputs in padded groups, scales of segments of 1024 of them.
struct Int8Row {
  std::vector<int> planes[2];  // hi and lo; of one plane all is in the first
  std::vector<float> scales;

  Int8Row(std::vector<float> inputs, int count) {
    const std::size_t size = inputs.size();
    inputs.resize((size + 1023) / 1024 * 1024);
    const float most = count == 1 ? 127.0f : 32639.0f, step = count == 1 ? 1 / 127.0f : 1 / 32639.0f;
    for (std::size_t first = 0; first < inputs.size(); first += 1024) {
      float largest = 0;
      bool finite = true;
      for (std::size_t i = first; i < first + 1024; ++i) {
        finite = finite && std::fabs(inputs[i]) < 0x1p126f;
        largest = std::max(largest, std::fabs(inputs[i]));
      }
      const bool counts = finite && largest >= 0x1p-100f;
      scales.push_back(!finite ? std::numeric_limits<float>::quiet_NaN() : counts ? largest * step : 0.0f);
      const float inverse = counts ? most / largest : 0;
      for (std::size_t i = first; i < first + 1024; ++i) {
        const int q = finite ? static_cast<int>(std::fma(inputs[i], inverse, 0x1.8p23f) - 0x1.8p23f) : 0;
        const int hi = count == 1 ? q : static_cast<int>(std::floor((q + 128) / 256.0));
        planes[0].push_back(hi);
        planes[1].push_back(count == 1 ? 0 : q - 256 * hi);
      }
    }
  }
};

/// A row of x, rotated, in the padded groups of `layout`.
template <class Book, class X>
std::vector<float> padded_rotation(const higgs::QuantizedMatrix<Book>& w,
                                   const higgs::gpu::PackedLayout& layout, std::span<const X> x) {
  std::vector<float> factors, row(static_cast<std::size_t>(w.layout.padded_cols())),
      padded(static_cast<std::size_t>(layout.depth()));
  for (const higgs::Half one : w.input_scales) factors.push_back(static_cast<float>(one));
  higgs::rotate_row(x, std::span<const float>(factors), std::span<float>(row), w.layout.block, w.seed);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(row.size()); ++i)
    padded[static_cast<std::size_t>(i / layout.group * layout.padded_group() + i % layout.group)] =
        row[static_cast<std::size_t>(i)];
  return padded;
}

/// Coordinates of row n of W, in padded groups.
template <class Book>
std::vector<int> padded_coordinates(const higgs::QuantizedMatrix<Book>& w,
                                    const higgs::gpu::PackedLayout& layout, std::int64_t n) {
  const auto group = static_cast<std::size_t>(layout.group);
  const auto each = static_cast<std::size_t>(w.layout.codes_per_group(Book::dim));
  std::vector<higgs::SymbolOf<Book>> codes(static_cast<std::size_t>(w.layout.codes_per_row(Book::dim)));
  higgs::unpack_bits(w.row_codes(n), higgs::code_bits<Book>, 0, std::span<higgs::SymbolOf<Book>>(codes));
  std::vector<int> out(static_cast<std::size_t>(layout.depth()));
  std::vector<typename Book::Element> values(group);
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    higgs::decode_group(
        w.book,
        std::span<const higgs::SymbolOf<Book>>(codes).subspan(static_cast<std::size_t>(g) * each, each),
        std::span<typename Book::Element>(values));
    std::copy(values.begin(), values.end(), out.begin() + g * layout.padded_group());
  }
  return out;
}

/// y(m, n) before bias and residual: Stream-K ranges one after the other, in each the warps of other inputs, in these runs
/// of warp tiles with a common group and segment.
inline float int8_sum(const Int8Row& x, int planes, const std::vector<int>& w,
                      const std::vector<float>& scales, const higgs::gpu::PackedLayout& layout,
                      const higgs::gpu::MatmulPlan& plan, std::int64_t n) {
  const int cols = static_cast<int>(layout.warp_tile_cols()), k_warps = 4 / plan.row_warps;
  const auto group_cols = static_cast<int>(layout.padded_group() / 64);
  const higgs::gpu::detail::StreamSplit split{
      static_cast<int>(higgs::gpu::ceil_div(layout.warp_tile_rows(), plan.row_warps)), cols,
      static_cast<int>(plan.grid)};
  const int block = static_cast<int>(n / 64 / plan.row_warps);
  float y = -0.0f;
  for (int owner = split.first_owner(block); owner <= split.last_owner(block); ++owner) {
    const int begin = std::max(split.begin(owner) - block * cols, 0),
              end = std::min(split.begin(owner + 1) - block * cols, cols);
    float of_planes[2] = {};
    for (int plane = 0; plane < planes; ++plane)
      for (int k = 0; k < k_warps; ++k) {
        float sum = 0;
        for (int tile = begin; tile < end;) {
          const int run = std::min({end, (tile / group_cols + 1) * group_cols, (tile / 16 + 1) * 16});
          const float scale =
              x.scales[static_cast<std::size_t>(tile / 16)] * (planes == 2 && plane == 0 ? 256 : 1);
          const float by = scales[static_cast<std::size_t>(tile / group_cols)] * scale;
          int integers = 0, tiles = 0;
          for (; tile < run; ++tile)
            if (tile % k_warps == k) {
              ++tiles;
              for (std::size_t i = static_cast<std::size_t>(tile) * 64;
                   i < static_cast<std::size_t>(tile) * 64 + 64; ++i)
                integers += w[i] * x.planes[plane][i];
            }
          if (tiles > 0) sum = std::fma(static_cast<float>(integers), by, sum);
        }
        of_planes[plane] += sum;
      }
    y += planes == 2 ? of_planes[0] + of_planes[1] : of_planes[0];
  }
  return y;
}

/// y = x W^T + bias + residual as the int8 kernel computes it under `plan`.
template <class Book, class X>
std::vector<float> int8_reference(const higgs::QuantizedMatrix<Book>& w,
                                  const higgs::gpu::PackedLayout& layout, const Normals<X>& x,
                                  const higgs::gpu::MatmulPlan& plan, const std::vector<float>& bias = {},
                                  const std::vector<float>& residual = {}) {
  std::vector<Int8Row> rows;
  for (std::int64_t m = 0; m < x.view.rows; ++m)
    rows.emplace_back(
        padded_rotation(w, layout,
                        std::span<const X>(x.data).subspan(static_cast<std::size_t>(m * x.view.cols),
                                                           static_cast<std::size_t>(x.view.cols))),
        plan.int8_planes);
  std::vector<float> y(static_cast<std::size_t>(x.view.rows * w.rows()));
  for (std::int64_t n = 0; n < w.rows(); ++n) {
    const std::vector<int> coordinates = padded_coordinates(w, layout, n);
    std::vector<float> scales;
    for (const higgs::Half one : w.row_scales(n)) scales.push_back(static_cast<float>(one));
    for (std::int64_t m = 0; m < x.view.rows; ++m) {
      const auto at = static_cast<std::size_t>(m * w.rows() + n);
      y[at] = int8_sum(rows[static_cast<std::size_t>(m)], plan.int8_planes, coordinates, scales, layout, plan,
                       n) *
              std::ldexp(1.0f, w.exponent);
      if (!bias.empty()) y[at] += bias[static_cast<std::size_t>(n)];
      if (!residual.empty()) y[at] += residual[at];
    }
  }
  return y;
}
