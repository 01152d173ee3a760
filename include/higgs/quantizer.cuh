// SPDX-License-Identifier: Apache-2.0
// Rotate, scale, encode and pack rows on the device: the same codes and scales as quantizer.hpp, bit for bit.
#pragma once

#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/scale_format.hpp>
#include <higgs/encode/nearest.cuh>
#include <higgs/encode/nearest.hpp>
#include <higgs/gpu/instructions.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/scale/input_scale.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

namespace detail {

/// The sum of `each` over 16 lanes as strided_dot folds it: halves together.
__device__ inline double fold_16(double each) {
  for (int by = 8; by > 0; by /= 2)
    each += __shfl_down_sync(0xffffffffu, each, static_cast<unsigned>(by), 16);
  return __shfl_sync(0xffffffffu, each, 0, 16);
}

/// out = w times 2^-exponent, in two steps, times the factors of the columns; zeros beyond them.
template <class T>
__global__ void load_rows_kernel(DeviceMatrixView<const T> w, DeviceMatrixView<float> out,
                                 const float* factors, float half, float rest) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, row = i / out.cols,
                     col = i % out.cols;
  if (row >= out.rows) return;
  float value = 0;
  if (col < w.cols) {
    value = to_float(w.row(row)[col]) * half * rest;
    if (factors != nullptr) value *= factors[col];
  }
  out.row(row)[col] = value;
}

/// The constants of a codebook's search.
struct SearchScale {
  double step;
  int fraction_bits;
  float limit;  // fixed_limit
};

/// Half a warp for each group: scale, encode, refit. `space` is where the search's words lie, if they fit into
/// shared memory.
template <class Search, bool InShared, class Index>
__global__ void __launch_bounds__(128)
    encode_groups_kernel(DeviceMatrixView<const float> x, std::int64_t group, const std::uint32_t* words,
                         int word_count, Search search, SearchScale scale, Index* codes, Half* scales,
                         double2* errors) {
  constexpr int dim = Search::dim, batch = Search::batch;
  extern __shared__ __align__(16) std::uint32_t search_space[];
  if constexpr (InShared) {
    for (int i = static_cast<int>(threadIdx.x); i < word_count; i += static_cast<int>(blockDim.x))
      search_space[i] = words[i];
    __syncthreads();
    words = search_space;
  }
  const std::int64_t groups = x.cols / group, count = x.rows * groups;
  const std::int64_t mine = std::int64_t{blockIdx.x} * 8 + threadIdx.x / 16;
  const bool active = mine < count;  // the others stay for the shuffles
  const std::int64_t item = active ? mine : 0, inputs = active ? group : 0;
  const int lane = static_cast<int>(threadIdx.x) % 16;
  const float* in = x.row(item / groups) + item % groups * group;
  const std::int64_t each = ceil_div(inputs, dim);
  Index* out = codes + item * ceil_div(group, dim);

  double sum = 0;  // products of floats are exact in double, so fusing changes nothing
  for (std::int64_t i = lane; i < inputs; i += 16) sum = fma(double{in[i]}, double{in[i]}, sum);
  const double norm = fold_16(sum);
  const double units =
      static_cast<double>(1 << scale.fraction_bits) / (sqrt(norm / static_cast<double>(group)) * scale.step);
  const float factor = units < 3e38 ? static_cast<float>(units) : 0.0f;

  for (std::int64_t first = lane; first < each; first += 16 * batch) {
    float y[batch][dim];
    std::uint32_t code[batch] = {};
    HIGGS_UNROLL
    for (int b = 0; b < batch; ++b) HIGGS_UNROLL
    for (int d = 0; d < dim; ++d) {
      const std::int64_t i = (first + 16 * b) * dim + d;
      const float scaled = i < group ? in[i] * factor : 0.0f;
      y[b][d] = rintf(fminf(fmaxf(scaled, -scale.limit), scale.limit));
    }
    search.find(words, y, code);
    HIGGS_UNROLL
    for (int b = 0; b < batch; ++b)
      if (first + 16 * b < each) out[first + 16 * b] = static_cast<Index>(code[b]);
  }
  __syncwarp();

  double product = 0, squares = 0;
  for (std::int64_t i = lane; i < inputs; i += 16) {
    const double q = search.coordinate(words, out[i / dim], static_cast<int>(i % dim));
    product = fma(double{in[i]}, q, product);
    squares = fma(q, q, squares);
  }
  product = fold_16(product);
  squares = fold_16(squares);
  if (lane != 0 || !active) return;
  Half fitted = Half::from_bits(0);
  if (squares > 0 && product > 0)
    fitted = from_float<Half>(static_cast<float>(fmin(product / squares, 65504.0)));
  const double s = to_float(fitted);
  scales[item] = fitted;
  if (errors != nullptr)
    errors[item] = double2{fmax(fma(s, fma(s, squares, -2.0 * product), norm), 0.0), norm};
}

/// One thread for each byte of interchange order.
template <class Index>
__global__ void pack_bits_kernel(const Index* codes, std::int64_t rows, std::int64_t codes_per_row, int bits,
                                 std::int64_t row_bytes, std::uint8_t* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x, row = i / row_bytes;
  if (row >= rows) return;
  const std::int64_t begin = i % row_bytes * 8, first = begin / bits;
  std::uint32_t byte = 0;
  for (std::int64_t code = first; code < codes_per_row && code * bits < begin + 8; ++code) {
    const std::uint32_t value = codes[row * codes_per_row + code];
    const auto shift = static_cast<int>(code * bits - begin);
    byte |= shift >= 0 ? value << shift : value >> -shift;
  }
  out[i] = static_cast<std::uint8_t>(byte);
}

}  // namespace detail

/// Quantizes rows on the device as RowQuantizer does on the host. Made once for a matrix; holds the
/// search's constants, the signs and the factors of the columns.
template <Codebook Book>
class DeviceRowQuantizer {
  using Search = typename DeviceSearchOf<Book>::Type;
  using Index = typename Book::Index;

 public:
  /// Arguments as RowQuantizer's; scales are fp16, without a search for better ones.
  DeviceRowQuantizer(const Book& book, const CodeLayout& layout, std::optional<std::uint64_t> seed,
                     int exponent, std::span<const Half> input_scales = {})
      : step_(book.step()),
        layout_(layout),
        exponent_(exponent),
        words_(std::span<const std::uint32_t>(Search::words(book))) {
    expects(std::ssize(input_scales) == (layout.input_scales ? layout.cols : 0),
            "higgs::gpu::DeviceRowQuantizer: input_scales must hold cols values if the layout has them, else "
            "none");
    expects(layout.scale_format == ScaleFormat::Fp16, "higgs::gpu::DeviceRowQuantizer: scales must be fp16");
    if (seed)
      signs_ = DeviceBuffer<std::uint32_t>(
          std::span<const std::uint32_t>(sign_words(*seed, layout.padded_cols())));
    std::vector<float> factors;
    for (const Half scale : input_scales) factors.push_back(input_factor(scale));
    factors_ = DeviceBuffer<float>(std::span<const float>(factors));
  }

  /// Bytes of workspace for `rows` rows at a time: rotated floats, and their codes.
  std::size_t workspace_size(std::int64_t rows, const Device& device) const {
    constexpr auto code_bytes = static_cast<std::int64_t>(sizeof(Index));
    return static_cast<std::size_t>(
               rows * (layout_.padded_cols() * 4 + layout_.codes_per_row(Book::dim) * code_bytes) +
               4 * rotate_scratch(rotation(), rows, device)) +
           32;
  }

  /// codes (n, row_bytes) and scales (n, groups) of the rows of `w` (n, cols), which must be finite. `errors`
  /// (n, groups), if given, receives each group's squared error and squared norm; their ratio, summed, is
  /// t^2.
  template <class T, class Archs = BuiltFor>
  void quantize_rows_async(DeviceMatrixView<const T> w, std::uint8_t* codes, Half* scales,
                           std::span<std::byte> workspace, const Device& device, cudaStream_t stream,
                           double2* errors = nullptr) const {
    expects(w.cols == layout_.cols, "higgs::gpu::DeviceRowQuantizer: w must have the layout's columns");
    expects(
        workspace.size() >= workspace_size(w.rows, device) &&
            reinterpret_cast<std::uintptr_t>(workspace.data()) % 16 == 0,
        "higgs::gpu::DeviceRowQuantizer: workspace must hold workspace_size() bytes from a multiple of 16");
    const std::int64_t padded = layout_.padded_cols(), per_row = layout_.codes_per_row(Book::dim);
    const DeviceMatrixView<float> rows(reinterpret_cast<float*>(workspace.data()), w.rows, padded);
    float* scratch = rows.data + ceil_div(w.rows * padded, 4) * 4;
    auto* plain = reinterpret_cast<Index*>(scratch + rotate_scratch(rotation(), w.rows, device));
    const auto blocks = [](std::int64_t threads) {
      return dim3(static_cast<unsigned>(ceil_div(threads, 128)));
    };
    launch(detail::load_rows_kernel<T>, blocks(w.rows * padded), 128, 0, stream, w, rows, factors_.data(),
           std::ldexp(1.0f, -(exponent_ / 2)), std::ldexp(1.0f, exponent_ / 2 - exponent_));
    rotate_async<float, float, Archs>(rotation(), DeviceMatrixView<const float>(rows), rows, device, stream,
                                      scratch);
    const detail::SearchScale scale{step_, fraction_bits<Book>, static_cast<float>(fixed_limit<Book>)};
    const auto encode = [&](auto kernel, std::size_t shared) {
      launch(kernel, blocks(w.rows * layout_.groups() * 16), 128, shared, stream,
             DeviceMatrixView<const float>(rows), layout_.group, words_.data(),
             static_cast<int>(words_.size()), Search{DeviceSearchOf<Book>::size}, scale, plain, scales,
             errors);
    };
    constexpr bool in_shared = DeviceSearchOf<Book>::in_shared;
    encode(detail::encode_groups_kernel<Search, in_shared, Index>, in_shared ? words_.size_bytes() : 0);
    const std::int64_t row_bytes = layout_.row_bytes(Book::dim, code_bits<Book>);
    launch(detail::pack_bits_kernel<Index>, blocks(w.rows * row_bytes), 128, 0, stream, plain, w.rows,
           per_row, code_bits<Book>, row_bytes, codes);
  }

 private:
  Rotation rotation() const {
    const std::int64_t padded = layout_.padded_cols();
    return {padded, layout_.block, signs_.data(), nullptr, padded, padded};
  }

  double step_;
  CodeLayout layout_;
  int exponent_;
  DeviceBuffer<std::uint32_t> words_;
  DeviceBuffer<std::uint32_t> signs_;
  DeviceBuffer<float> factors_;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
