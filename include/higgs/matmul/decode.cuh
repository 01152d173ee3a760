// SPDX-License-Identifier: Apache-2.0
// From codes back to weights on the device, for batches so large that a dense product is cheaper, and for
// codebooks that have no kernels of their own.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Which weights a dense matrix holds: those that meet rotated activations, or those that were quantized.
enum class Basis { Rotated, Original };

/// What kernels see of a quantized matrix in interchange order, of any codebook.
struct CodedMatrix {
  std::int64_t rows = 0;
  std::int64_t groups = 0;     // of a row
  std::int64_t group = 1;      // inputs of a group
  std::int64_t row_bytes = 0;  // of codes
  int dim = 1, code_bits = 8;
  Rotation rotation;  // of the activations that meet it
  int exponent = 0;   // weight = 2^exponent * scale * coordinate
  const std::uint8_t* codes = nullptr;
  const Half* scales = nullptr;          // (rows, groups)
  const std::int16_t* points = nullptr;  // (size, dim)
};

/// Owns a CodedMatrix: a table of points, codes and scales as files hold them.
class DeviceCodes {
 public:
  template <Codebook Book>
  explicit DeviceCodes(const QuantizedMatrix<Book>& w)
      : codes_(w.codes), scales_(w.scales), points_(std::span<const std::int16_t>(points_of(w.book))) {
    std::vector<float> factors;
    for (const Half scale : w.input_scales) factors.push_back(static_cast<float>(scale));
    factors_ = DeviceBuffer<float>(std::span<const float>(factors));
    if (w.seed)
      signs_ = DeviceBuffer<std::uint32_t>(std::span<const std::uint32_t>(sign_words(*w.seed, w.cols())));
    const CodeLayout& layout = w.layout;
    view_ = {w.rows(),
             layout.groups(),
             layout.group,
             w.row_bytes(),
             Book::dim,
             code_bits<Book>,
             {w.cols(), layout.block, signs_.data(), factors_.data(), layout.group, layout.group},
             w.exponent,
             codes_.data(),
             scales_.data(),
             points_.data()};
  }
  const CodedMatrix& view() const noexcept { return view_; }

 private:
  template <Codebook Book>
  static std::vector<std::int16_t> points_of(const Book& book) {
    static_assert(Book::size <= 65536, "DeviceCodes: a table of at most 65,536 points");
    std::vector<std::int16_t> points;
    for (std::int64_t i = 0; i < Book::size; ++i)
      for (const auto c : book.decode(static_cast<typename Book::Index>(i))) points.push_back(c);
    return points;
  }

  DeviceBuffer<std::uint8_t> codes_;
  DeviceBuffer<Half> scales_;
  DeviceBuffer<std::int16_t> points_;
  DeviceBuffer<float> factors_;
  DeviceBuffer<std::uint32_t> signs_;
  CodedMatrix view_;
};

namespace detail {

/// One warp for each slab of rows [first_row, first_row + out.rows), first_row a multiple of 64.
template <int Bits, class Out>
__global__ void __launch_bounds__(128)
    decode_kernel(PackedView w, std::int64_t first_row, DenseView<Out> out, float unit) {
  constexpr int width = weights_per_byte(Bits);
  const PackedLayout& order = w.order;
  const std::int64_t warp = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const std::int64_t row_slab = first_row / slab + warp / order.slabs(), s0 = warp % order.slabs();
  if (row_slab * slab >= first_row + out.rows) return;
  const std::int64_t group = s0 * slab / order.padded_group(), inside = s0 * slab % order.padded_group();
  uint4 loads[Bits];
  HIGGS_UNROLL
  for (int i = 0; i < Bits; ++i) loads[i] = w.tiles[((row_slab * order.slabs() + s0) * Bits + i) * 32 + lane];
  const Half* scales = w.scales + (row_slab * order.groups + group) * slab + g * 8;
  HIGGS_UNROLL
  for (int tile = 0; tile < 16; ++tile) {
    const int i = tile / 4, s = tile % 4;
    HIGGS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = row_slab * slab + 16 * i + 8 * half + g - first_row;
      const float scale = to_float(scales[2 * i + half]) * unit;
      HIGGS_UNROLL
      for (int k = 0; k < 4; ++k) {  // byte j, place k % width in it
        const int j = width == 1 ? 4 * half + k : width == 2 ? half + 2 * (k / 2) : half;
        const std::uint32_t byte = tile_byte<Bits>(loads, i, s, j);
        const std::int64_t at = inside + 16 * s + 4 * t + k;
        if (row < out.rows && at < order.group)
          out.row(row)[group * order.group + at] =
              from_float<Out>(static_cast<float>(w.table[byte * width + k % width]) * scale);
      }
    }
  }
}

/// The same for E8's tiles: 16 codes a lane, 8 neighbours each.
template <class Out>
__global__ void __launch_bounds__(128)
    decode_e8_kernel(PackedView w, std::int64_t first_row, DenseView<Out> out, float unit) {
  const PackedLayout& order = w.order;
  const std::int64_t warp = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const std::int64_t row_slab = first_row / slab + warp / order.slabs(), s0 = warp % order.slabs();
  if (row_slab * slab >= first_row + out.rows) return;
  const std::int64_t group = s0 * slab / order.padded_group(), inside = s0 * slab % order.padded_group();
  const uint4* from = w.tiles + (row_slab * order.slabs() + s0) * 64 + lane;
  const uint4 patterns = from[0], all_signs = from[32];
  const Half* scales = w.scales + (row_slab * order.groups + group) * slab + g * 8;
  HIGGS_UNROLL
  for (int code = 0; code < 16; ++code) {
    const int i = code / 4, z = code % 4;
    const std::int64_t row = row_slab * slab + 16 * i + z % 2 * 8 + g - first_row;
    const std::int64_t at = inside + z / 2 * 32 + 8 * t;
    const float scale = to_float(scales[2 * i + z % 2]) * unit;
    const std::uint32_t word = word_of(all_signs, i), signs = word ^ __funnelshift_l(word, word, 4);
    const int shift = (word >> z & 1u) != 0 ? -higgs::detail::e8_shift : higgs::detail::e8_shift;
    const std::int16_t* magnitudes = w.table + (word_of(patterns, i) >> 8 * z & 255u) * 8;
    HIGGS_UNROLL
    for (int d = 0; d < 8; ++d) {
      const int own = t >= 2 ? d ^ 4 : d, j = own / 2 + own % 2 * 4;  // the bit that is its sign
      const int magnitude = magnitudes[d];
      const int value = ((signs >> (z + 4 * j) & 1u) != 0 ? -magnitude : magnitude) + shift;
      if (row < out.rows && at + d < order.group)
        out.row(row)[group * order.group + at + d] = from_float<Out>(static_cast<float>(value) * scale);
    }
  }
}

template <class Out, class Archs>
void decode_rows_async(const PackedView& w, std::int64_t first_row, DenseView<Out> out,
                       cudaStream_t stream) {
  const std::int64_t warps = ceil_div(out.rows, slab) * w.order.slabs();
  const auto go = [&](auto kernel) {
    launch(kernel, dim3(static_cast<unsigned>(ceil_div(warps, 4))), 128, 0, stream, w, first_row, out,
           std::ldexp(1.0f, w.exponent));
  };
  switch (w.order.bits) {
    case 2:
      return go(decode_kernel<2, Out>);
    case 3:
      return go(decode_kernel<3, Out>);
    case 4:
      return go(decode_kernel<4, Out>);
    case e8_tiles:
      return go(decode_e8_kernel<Out>);
    default:
      return go(decode_kernel<8, Out>);
  }
}

/// One thread for each code of rows [first_row, first_row + out.rows).
template <class Out>
__global__ void __launch_bounds__(128)
    decode_codes_kernel(CodedMatrix w, std::int64_t first_row, DenseView<Out> out, float unit) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t each = ceil_div(w.group, w.dim), row = thread / (w.groups * each);
  if (row >= out.rows) return;
  const std::int64_t code = thread % (w.groups * each), group = code / each, inside = code % each * w.dim;
  const std::int64_t bit = code * w.code_bits;
  const std::uint8_t* from = w.codes + (first_row + row) * w.row_bytes;
  std::uint32_t bytes = 0;  // a code of up to 16 bits touches three
  for (std::int64_t i = 0; i < 3; ++i)
    if (bit / 8 + i < w.row_bytes) bytes |= static_cast<std::uint32_t>(from[bit / 8 + i]) << 8 * i;
  const std::int16_t* point =
      w.points + static_cast<std::int64_t>(bytes >> bit % 8 & ((1u << w.code_bits) - 1u)) * w.dim;
  const float scale = to_float(w.scales[(first_row + row) * w.groups + group]) * unit;
  for (int d = 0; d < w.dim && inside + d < w.group; ++d)
    out.row(row)[group * w.group + inside + d] = from_float<Out>(static_cast<float>(point[d]) * scale);
}

template <class Out, class Archs>
void decode_rows_async(const CodedMatrix& w, std::int64_t first_row, DenseView<Out> out,
                       cudaStream_t stream) {
  const std::int64_t codes = out.rows * w.groups * ceil_div(w.group, w.dim);
  launch(decode_codes_kernel<Out>, dim3(static_cast<unsigned>(ceil_div(codes, 128))), 128, 0, stream, w,
         first_row, out, std::ldexp(1.0f, w.exponent));
}

inline std::int64_t rows_of(const PackedView& w) { return w.order.rows; }
inline std::int64_t rows_of(const CodedMatrix& w) { return w.rows; }

}  // namespace detail

/// out = the weights, rounded once from what dequantize() gives on the host: in the rotated basis (rows,
/// padded_cols), in the original one (rows, cols). The latter takes `workspace`: padded_cols floats for each
/// row of a pass, at least 64 rows and from a multiple of 16 bytes; the more, the fewer launches. `w` is a
/// PackedView or a CodedMatrix.
template <class Matrix, class Out, class Archs = BuiltFor>
void dequantize_async(const Matrix& w, DenseView<Out> out, Basis basis, const Device& device,
                      cudaStream_t stream, std::span<float> workspace = {}) {
  const std::int64_t padded = w.rotation.padded_cols();
  const std::int64_t cols = basis == Basis::Rotated ? padded : w.rotation.cols;
  expects(out.rows == detail::rows_of(w) && out.cols == cols, [&] {
    return "higgs::gpu::dequantize_async: out is " + higgs::detail::shape_text(out.rows, out.cols) +
           ", but w in this basis is " + higgs::detail::shape_text(detail::rows_of(w), cols);
  });
  if (basis == Basis::Rotated) return detail::decode_rows_async<Out, Archs>(w, 0, out, stream);
  Rotation inverse = w.rotation;
  inverse.inverse = true;
  inverse.group = inverse.padded_group = w.rotation.block;
  expects(rotate_scratch(inverse, 1, device) == 0,
          "higgs::gpu::dequantize_async: the block exceeds shared memory");
  const std::int64_t pass = static_cast<std::int64_t>(workspace.size()) / padded / slab * slab;
  expects(pass > 0, "higgs::gpu::dequantize_async: workspace must hold 64 rows of padded_cols floats");
  for (std::int64_t row = 0; row < out.rows; row += pass) {
    const std::int64_t rows = std::min(pass, out.rows - row);
    const DenseView<float> rotated(workspace.data(), rows, padded);
    detail::decode_rows_async<float, Archs>(w, row, rotated, stream);
    rotate_async<float, Out, Archs>(inverse, rotated,
                                    DenseView<Out>(out.row(row), rows, out.cols, out.row_stride),
                                    device, stream);
  }
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
