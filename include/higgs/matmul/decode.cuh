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
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
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
  int device = -1;  // Device::id of the device whose memory it is in; -1: not known
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
    check(cudaGetDevice(&view_.device), "higgs::gpu::DeviceCodes");
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
/// CodedMatrix. Formats: those that kernels are compiled for. Throws InvalidArgument for a shape or workspace that does not
/// fit, for memory that is not aligned, shared by `out` and `workspace`, or of another device than `device`, for a rotation
/// whose block exceeds shared memory, and for a PackedView on a device with less than 66 KiB of shared memory per block.
/// Where rows of `out` begin at multiples of 16 bytes and groups are whole warp tiles, weights are written 16 bytes at a
/// time.
template <class Formats = AnyFormat, class Matrix, class Out, class Archs = BuiltFor>
void dequantize_async(const Matrix& w, DenseView<Out> out, Basis basis, const Device& device,
                      cudaStream_t stream, std::span<float> workspace = {});

namespace detail {

/// Where warps keep the coordinates of a warp tile, as fp16, between the operands of mma and whole rows: in the second
/// halves of the lines of LookupTable, a row in each, four warps with 64 lines each. Swizzled: pieces of 16 bytes are
/// permuted by the row, so that neither the stores of operands nor the loads of rows meet in a bank.
struct DecodedTile {
  std::uint32_t begin;  // shared address of the warp's first row

  explicit __device__ DecodedTile(int warp)
      : begin(static_cast<std::uint32_t>(LookupTable::rest + warp * warp_tile * LookupTable::line_bytes)) {}
  /// The address of input `input` of a row, a multiple of 4.
  __device__ std::uint32_t at(int row, int input) const {
    const int piece = input / 8 ^ (row % 4 * 2 + row / 4 % 2);
    return begin + static_cast<std::uint32_t>(row * LookupTable::line_bytes + piece * 16 + input % 8 * 2);
  }
};

/// Writes all coordinates of the warp's tile to `to`. The -0 of decoders that apply signs becomes 0, as on the host.
template <class Format, int Row = 0, int Step = 0>
__device__ inline void decode_tile(const DecodedTile& to, const ReadyOf<Format>& ready,
                                   const LaneOf<Format>& facts) {
  using Activations = typename Format::Activations;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::uint32_t a[Activations::k_tiles][4];
  Format::template decode<Half, Row, Step>(a, ready, facts);
  constexpr std::uint32_t ones = Half(1.0f).bits * 0x10001u;
  HIGGS_UNROLL for (int k = 0; k < Activations::k_tiles; ++k) HIGGS_UNROLL
    for (int half = 0; half < 2; ++half)
      store_shared_64(to.at(16 * Row + 8 * half + lane / 4, Activations::first_input(lane, Step, k)),
                      uint2{fma_pair<Half>(a[k][half], ones, 0), fma_pair<Half>(a[k][half + 2], ones, 0)});
  if constexpr (Step + 1 < Activations::steps)
    decode_tile<Format, Row, Step + 1>(to, ready, facts);
  else if constexpr (Row < 3)
    decode_tile<Format, Row + 1, 0>(to, ready, facts);
}

/// 16 bytes of neighbouring weights.
template <class Out>
struct Piece {
  static constexpr int size = 16 / static_cast<int>(sizeof(Out));
  uint4 bytes;

  __device__ static Piece of(const DecodedTile& tile, int row, int input, float scale) {
    if constexpr (std::is_same_v<Out, float>) {
      const uint2 words = load_shared_64<0>(tile.at(row, input));
      const float2 low = to_floats<Half>(words.x), high = to_floats<Half>(words.y);
      return {{__float_as_uint(low.x * scale), __float_as_uint(low.y * scale),
               __float_as_uint(high.x * scale), __float_as_uint(high.y * scale)}};
    } else {
      const uint4 words = load_shared_128(tile.at(row, input));
      const auto pair = [&](std::uint32_t word) {
        const float2 two = to_floats<Half>(word);
        return round_pair<Out>(two.x * scale, two.y * scale);
      };
      return {{pair(words.x), pair(words.y), pair(words.z), pair(words.w)}};
    }
  }
  __device__ Out operator[](int i) const {
    if constexpr (std::is_same_v<Out, float>)
      return __uint_as_float(word_of(bytes, i));
    else
      return Out::from_bits(static_cast<std::uint16_t>(word_of(bytes, i / 2) >> i % 2 * 16));
  }
};

/// Writes the rows of a warp tile in pieces of 16 bytes, neighbouring lanes along a row. `to`: where row 0, input 0 of the
/// warp tile belongs. Rows beyond `rows` and inputs beyond `cols` are padding. `whole`: each piece is aligned and has no
/// padding.
template <class Out>
__device__ inline void store_rows(Out* to, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                                  bool whole, const DecodedTile& tile, const Half* scales,
                                  float output_scale) {
  constexpr int size = Piece<Out>::size, lanes = warp_tile / size, at_once = 32 / lanes;  // lanes and rows
  const int lane = static_cast<int>(threadIdx.x) % 32, first = lane / lanes, input = lane % lanes * size;
  uint4 of_rows[8 / at_once];  // [i]: of rows first + at_once * i + 8 r, r = 0 ... 7
  HIGGS_UNROLL for (int i = 0; i < 8 / at_once; ++i)
    of_rows[i] = load_128(scales + (first + at_once * i) * 8);
  Out* at = to + first * stride + input;
  HIGGS_UNROLL for (int turn = 0; turn < warp_tile / at_once; ++turn, at += at_once * stride) {
    const int row = first + at_once * turn, r = turn * at_once / 8;
    if (row >= rows) return;
    const float2 two = to_floats<Half>(word_of(of_rows[turn % (8 / at_once)], r / 2));
    const auto piece = Piece<Out>::of(tile, row, input, (r % 2 == 0 ? two.x : two.y) * output_scale);
    if (whole) {
      *reinterpret_cast<uint4*>(at) = piece.bytes;
    } else {
      HIGGS_UNROLL for (int i = 0; i < size; ++i)
        if (input + i < cols) at[i] = piece[i];
    }
  }
}

/// Rows [first_row, first_row + out.rows), first_row a multiple of 64. Warps take turns over the warp tiles. The codes of
/// a warp's next one are on their way while it writes rows. `whole`: see store_rows.
template <class Format, class Out>
__global__ void __launch_bounds__(128, 3)
    decode_kernel(PackedView w, std::int64_t first_row, DenseView<Out> out, float output_scale, bool whole) {
  const PackedLayout& layout = w.layout;
  const std::int64_t cols = layout.warp_tile_cols(), tiles = ceil_div(out.rows, warp_tile) * cols;
  const std::int64_t step = std::int64_t{gridDim.x} * 4;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const LaneOf<Format> facts = Format::table_offset(lane);
  const DecodedTile decoded(warp);
  uint4 loads[Format::loads];
  TailOf<Format> tail;
  const auto load = [&](std::int64_t tile) {
    const uint4* from = w.codes + (first_row / warp_tile * cols + tile) * tile_units<Format> + lane;
    HIGGS_UNROLL for (int i = 0; i < Format::loads; ++i)
      loads[i] = from[32 * i];
    tail = load_tail<Format>(from, facts, [](const uint2* pair) { return *pair; });
  };
  std::int64_t tile = std::int64_t{blockIdx.x} * 4 + warp;
  if (tile < tiles) load(tile);
  Format::template fill_table<Half>(w.table);
  __syncthreads();
  for (; tile < tiles; tile += step) {
    decode_tile<Format>(decoded, prepared<Format>(loads, tail, facts), facts);
    if (tile + step < tiles) load(tile + step);
    __syncwarp();
    const std::int64_t row = tile / cols * warp_tile, k = tile % cols * warp_tile;
    const std::int64_t group = k / layout.padded_group(), within = k % layout.padded_group();
    store_rows(out.row(row) + group * layout.group + within, out.row_stride, out.rows - row,
               layout.group - within, whole, decoded,
               w.scales + ((first_row + row) / warp_tile * layout.groups + group) * warp_tile, output_scale);
    __syncwarp();
  }
}

template <class Formats, class Out, class Archs>
void decode_rows_async(const PackedView& w, std::int64_t first_row, DenseView<Out> out, const Device& device,
                       cudaStream_t stream) {
  expects(device.shared_bytes >= LookupTable::end, [&] {
    return higgs::detail::sentence("higgs::gpu::dequantize_async: a block of the device may have ",
                                   device.shared_bytes, " bytes of shared memory, and needs ",
                                   LookupTable::end);
  });
  const std::int64_t tiles = ceil_div(out.rows, warp_tile) * w.layout.warp_tile_cols();
  const std::int64_t resident =
      std::int64_t{device.multiprocessors} * (device.shared_bytes / LookupTable::end);
  const std::int64_t blocks =
      std::clamp<std::int64_t>(ceil_div(tiles, 4), 1, std::max<std::int64_t>(resident, 1));
  const bool whole = w.layout.group % warp_tile == 0 && out.row_stride * sizeof(Out) % 16 == 0 &&
                     reinterpret_cast<std::uintptr_t>(out.data) % 16 == 0;
  with_format("higgs::gpu::dequantize_async", w.layout, Formats{}, [&]<class Format>(Format) {
    launch(decode_kernel<Format, Out>, dim3(static_cast<unsigned>(blocks)), 128,
           static_cast<std::size_t>(LookupTable::end), stream, w, first_row, out,
           std::ldexp(1.0f, w.exponent), whole);
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
void decode_rows_async(const CodedMatrix& w, std::int64_t first_row, DenseView<Out> out, const Device&,
                       cudaStream_t stream) {
  const std::int64_t codes = out.rows * w.groups * ceil_div(w.group, w.dim);
  launch(decode_codes_kernel<Out>, dim3(static_cast<unsigned>(ceil_div(codes, 128))), 128, 0, stream, w,
         first_row, out, std::ldexp(1.0f, w.exponent));
}

/// Throws InvalidArgument unless `w` is in the memory of `device`.
inline void check_device(const char* function, const CodedMatrix& w, const Device& device) {
  check_memory(function, w.device, device);
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
  constexpr const char* function = "higgs::gpu::dequantize_async";
  detail::check_device(function, w, device);
  detail::expect_aligned(function, "out", out.data, sizeof(Out));
  detail::expect_aligned(function, "the workspace", workspace.data(), 16);
  detail::expect_apart(function, "the workspace",
                       detail::ByteRows(workspace.data(), static_cast<std::int64_t>(workspace.size_bytes())),
                       "out", detail::ByteRows(out));
  if (basis == Basis::Rotated)
    return detail::decode_rows_async<Formats, Out, Archs>(w, 0, out, device, stream);
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
    detail::decode_rows_async<Formats, float, Archs>(w, row, rotated, device, stream);
    rotate_async<float, Out, Archs>(
        inverse, rotated, DenseView<Out>(out.row(row), rows, out.cols, out.row_stride), device, stream);
  }
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
