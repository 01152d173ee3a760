// SPDX-License-Identifier: Apache-2.0
// From codes back to weights on the device: for batches so large that a dense product is cheaper.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/codes/window/window.hpp>
#include <higgs/core/code.hpp>
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

/// The basis of dense weights: Rotated for rotated activations, Original for activations as they are.
enum class Basis { Rotated, Original };

/// How a window code reads its table (codes/window/window.hpp).
struct Window {
  int bits = 0;  // bits of the window; 0: a symbol is the index of a point
  std::uint32_t x_taps = 0, y_taps = 0;
};

/// A matrix in canonical layout as kernels see it, of any codebook or window code.
struct CodedMatrix {
  std::int64_t rows = 0;
  std::int64_t groups = 0;               // groups per row
  std::int64_t group = 1;                // inputs per group
  std::int64_t row_bytes = 0;            // bytes of codes per row
  int dim = 1;                           // weights per symbol
  int code_bits = 8;                     // bits per symbol
  Rotation rotation;                     // for the activations
  int exponent = 0;                      // weight = 2^exponent * scale * coordinate
  const std::uint8_t* codes = nullptr;   // (rows, row_bytes)
  const Half* scales = nullptr;          // (rows, groups)
  const std::int16_t* points = nullptr;  // (size, dim)
  Window window;
};

/// Owns a CodedMatrix: codes and scales as files hold them, and a table of points. It takes the bits of the file,
/// where PackedMatrix may take more (see FormatOf), and can be decoded but not multiplied. `C` is a codebook or a
/// WindowCode.
class DeviceCodes {
 public:
  template <Code C>
  explicit DeviceCodes(const QuantizedMatrix<C>& w)
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
             C::dim,
             code_bits<C>,
             {w.cols(), layout.block, signs_.data(), factors_.data(), layout.group, layout.group},
             w.exponent,
             codes_.data(),
             scales_.data(),
             points_.data(),
             window_of(w.book)};
  }
  const CodedMatrix& view() const noexcept { return view_; }

 private:
  template <Codebook C>
  static std::vector<std::int16_t> points_of(const C& book) {
    static_assert(C::size <= 65536, "DeviceCodes: a table of at most 65,536 points");
    std::vector<std::int16_t> points;
    for (std::int64_t i = 0; i < C::size; ++i)
      for (const auto c : book.decode(static_cast<typename C::Index>(i))) points.push_back(c);
    return points;
  }
  template <int K>
  static std::vector<std::int16_t> points_of(const WindowCode<K>& code) {
    std::vector<std::int16_t> points;
    for (const auto& point : code.points()) points.insert(points.end(), point.begin(), point.end());
    return points;
  }
  template <Codebook C>
  static Window window_of(const C&) {
    return {};
  }
  template <int K>
  static Window window_of(const WindowCode<K>&) {
    return {WindowCode<K>::window_bits, WindowCode<K>::x_taps, WindowCode<K>::y_taps};
  }

  DeviceBuffer<std::uint8_t> codes_;
  DeviceBuffer<Half> scales_;
  DeviceBuffer<std::int16_t> points_;
  DeviceBuffer<float> factors_;
  DeviceBuffer<std::uint32_t> signs_;
  CodedMatrix view_;
};

/// out = the weights, rounded once from what dequantize() gives on the host: (rows, padded_cols) in the rotated
/// basis, (rows, cols) in the original one. The latter takes `workspace`: padded_cols floats for each row of a pass,
/// at least 64 rows, from a multiple of 16 bytes on; more rows mean fewer launches. `w` is a PackedView or a
/// CodedMatrix. Formats: those that kernels are compiled for. Throws InvalidArgument for a shape or workspace that
/// does not fit, and for a rotation whose block exceeds shared memory.
template <class Formats = AnyFormat, class Matrix, class Out, class Archs = BuiltFor>
void dequantize_async(const Matrix& w, DenseView<Out> out, Basis basis, const Device& device,
                      cudaStream_t stream, std::span<float> workspace = {});

namespace detail {

/// One warp per warp tile of rows [first_row, first_row + out.rows), first_row a multiple of 64.
template <class Format, class Out>
__global__ void __launch_bounds__(128)
    decode_kernel(PackedView w, std::int64_t first_row, DenseView<Out> out, float output_scale) {
  const PackedLayout& layout = w.layout;
  const std::int64_t warp = std::int64_t{blockIdx.x} * 4 + threadIdx.x / 32, cols = layout.warp_tile_cols();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t tile_row = first_row / warp_tile + warp / cols, tile_col = warp % cols;
  if (tile_row * warp_tile >= first_row + out.rows) return;
  uint4 loads[Format::loads];
  const uint4* from = w.codes + (tile_row * cols + tile_col) * tile_units<Format> + lane;
  HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i)
    loads[i] = from[32 * i];
  const LaneOf<Format> facts = Format::table_offset(lane);
  const auto tail = load_tail<Format>(from, facts, [](const uint2* pair) { return *pair; });
  const auto& ready = prepared<Format>(loads, tail, facts);
  const std::int64_t group = tile_col * warp_tile / layout.padded_group();
  const std::int64_t within = tile_col * warp_tile % layout.padded_group();
  const uint4 halves =
      load_128(w.scales + (tile_row * layout.groups + group) * warp_tile + lane / 4 * 8);  // rows 8 apart
  float scales[8];
  HIGGS_UNROLL for (int i = 0; i < 4; ++i) {
    const float2 two = to_floats<Half>(word_of(halves, i));
    scales[2 * i] = two.x * output_scale;
    scales[2 * i + 1] = two.y * output_scale;
  }
  Format::for_each_weight(ready, lane, w.table, [&](int r, int k, int coordinate) {
    const std::int64_t row = tile_row * warp_tile + 8 * r + lane / 4 - first_row, col = within + k;
    if (row < out.rows && col < layout.group)
      out.row(row)[group * layout.group + col] = from_float<Out>(static_cast<float>(coordinate) * scales[r]);
  });
}

template <class Formats, class Out, class Archs>
void decode_rows_async(const PackedView& w, std::int64_t first_row, DenseView<Out> out, cudaStream_t stream) {
  const std::int64_t warps = ceil_div(out.rows, warp_tile) * w.layout.warp_tile_cols();
  with_format("higgs::gpu::dequantize_async", w.layout, Formats{}, [&]<class Format>(Format) {
    launch(decode_kernel<Format, Out>, dim3(static_cast<unsigned>(ceil_div(warps, 4))), 128, 0, stream, w,
           first_row, out, std::ldexp(1.0f, w.exponent));
  });
}

/// Bits [begin, end) of a row, at most 57.
__device__ inline std::uint64_t bits_of_row(const std::uint8_t* row, std::int64_t begin, std::int64_t end) {
  std::uint64_t bytes = 0;
  for (std::int64_t i = begin / 8; i * 8 < end; ++i)
    bytes |= static_cast<std::uint64_t>(row[i]) << (i - begin / 8) * 8;
  return bytes >> begin % 8 & ((std::uint64_t{1} << (end - begin)) - 1);
}

/// The point that symbol `number` of a group stands for, and which of its coordinates are negated. `first`: the first bit
/// of the group.
struct SignedPoint {
  std::uint32_t index = 0, negated = 0;
};
__device__ inline SignedPoint read_point(const CodedMatrix& w, const std::uint8_t* row, std::int64_t first,
                                         std::int64_t number) {
  constexpr int memory = WindowCode<8>::memory;  // the same for every window code
  const std::int64_t begin = number * w.code_bits, end = begin + w.code_bits;
  if (w.window.bits == 0)
    return {static_cast<std::uint32_t>(bits_of_row(row, first + begin, first + end)), 0};
  // The stream up to this symbol, its last bit on top; zeros before the group.
  const std::int64_t back = max(memory * w.code_bits + 1, w.window.bits),
                     from = max(end - back, std::int64_t{0});
  const std::uint64_t stream = bits_of_row(row, first + from, first + end) << (back - (end - from));
  std::uint32_t signs = 0;
  for (int d = 1; d <= memory; ++d)
    signs |= static_cast<std::uint32_t>(stream >> (back - 1 - d * w.code_bits) & 1u) << (d - 1);
  return {static_cast<std::uint32_t>(stream >> (back - w.window.bits)),
          (static_cast<std::uint32_t>(__popc(signs & w.window.x_taps)) & 1u) |
              (static_cast<std::uint32_t>(__popc(signs & w.window.y_taps)) & 1u) << 1};
}

/// One thread per symbol of rows [first_row, first_row + out.rows).
template <class Out>
__global__ void __launch_bounds__(128)
    decode_codes_kernel(CodedMatrix w, std::int64_t first_row, DenseView<Out> out, float output_scale) {
  const std::int64_t thread = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const std::int64_t each = ceil_div(w.group, w.dim), row = thread / (w.groups * each);
  if (row >= out.rows) return;
  const std::int64_t code = thread % (w.groups * each), group = code / each, inside = code % each * w.dim;
  const SignedPoint at =
      read_point(w, w.codes + (first_row + row) * w.row_bytes, group * each * w.code_bits, code % each);
  const std::int16_t* point = w.points + static_cast<std::int64_t>(at.index) * w.dim;
  const float scale = to_float(w.scales[(first_row + row) * w.groups + group]) * output_scale;
  for (int d = 0; d < w.dim && inside + d < w.group; ++d) {
    const int coordinate = (at.negated >> d & 1u) != 0 ? -point[d] : point[d];
    out.row(row)[group * w.group + inside + d] = from_float<Out>(static_cast<float>(coordinate) * scale);
  }
}

template <class Formats, class Out, class Archs>
void decode_rows_async(const CodedMatrix& w, std::int64_t first_row, DenseView<Out> out,
                       cudaStream_t stream) {
  const std::int64_t codes = out.rows * w.groups * ceil_div(w.group, w.dim);
  launch(decode_codes_kernel<Out>, dim3(static_cast<unsigned>(ceil_div(codes, 128))), 128, 0, stream, w,
         first_row, out, std::ldexp(1.0f, w.exponent));
}

inline std::int64_t rows_of(const PackedView& w) { return w.layout.rows; }
inline std::int64_t rows_of(const CodedMatrix& w) { return w.rows; }

}  // namespace detail

template <class Formats, class Matrix, class Out, class Archs>
void dequantize_async(const Matrix& w, DenseView<Out> out, Basis basis, const Device& device,
                      cudaStream_t stream, std::span<float> workspace) {
  const std::int64_t padded = w.rotation.padded_cols();
  const std::int64_t cols = basis == Basis::Rotated ? padded : w.rotation.cols;
  expects(out.rows == detail::rows_of(w) && out.cols == cols, [&] {
    return "higgs::gpu::dequantize_async: out is " + higgs::detail::shape_text(out.rows, out.cols) +
           ", but w in this basis is " + higgs::detail::shape_text(detail::rows_of(w), cols);
  });
  if (basis == Basis::Rotated) return detail::decode_rows_async<Formats, Out, Archs>(w, 0, out, stream);
  Rotation inverse = w.rotation;
  inverse.inverse = true;
  inverse.group = inverse.padded_group = w.rotation.block;
  expects(rotate_scratch(inverse, 1, device) == 0,
          "higgs::gpu::dequantize_async: the block exceeds shared memory");
  const std::int64_t pass = static_cast<std::int64_t>(workspace.size()) / padded / warp_tile * warp_tile;
  expects(pass > 0, "higgs::gpu::dequantize_async: workspace must hold 64 rows of padded_cols floats");
  for (std::int64_t row = 0; row < out.rows; row += pass) {
    const std::int64_t rows = std::min(pass, out.rows - row);
    const DenseView<float> rotated(workspace.data(), rows, padded);
    detail::decode_rows_async<Formats, float, Archs>(w, row, rotated, stream);
    rotate_async<float, Out, Archs>(
        inverse, rotated, DenseView<Out>(out.row(row), rows, out.cols, out.row_stride), device, stream);
  }
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
