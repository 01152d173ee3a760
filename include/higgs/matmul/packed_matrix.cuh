// SPDX-License-Identifier: Apache-2.0
// A quantized matrix on the device, in tile order. Kernels know its bits, not its codebook.
#pragma once

#include <higgs/codes/e8/e8.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/shard.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// What kernels see of a quantized matrix.
struct PackedView {
  PackedLayout order;
  Rotation rotation;             // of the activations that meet it
  int exponent = 0;              // weight = 2^exponent * scale * coordinate
  const uint4* tiles = nullptr;  // (row_slabs, slabs, loads_per_slab, 32)
  const Half* scales = nullptr;  // (row_slabs, groups, 64)
  const std::int16_t* table =
      nullptr;  // (256, weights_per_byte): the coordinates that a byte of the tiles names
};

/// The coordinates that each byte of a matrix in tile order names: (256, weights_per_byte).
template <Codebook Book>
std::vector<std::int16_t> byte_table(const Book& book) {
  constexpr int bits = code_bits<Book> / Book::dim, width = weights_per_byte(bits);
  std::vector<std::int16_t> table;
  for (unsigned byte = 0; byte < 256; ++byte)
    for (int w = 0; w < width; ++w) {
      const unsigned code = byte >> w / Book::dim * code_bits<Book> & ((1u << code_bits<Book>)-1u);
      const bool exists = code < static_cast<unsigned>(Book::size);
      table.push_back(exists ? book.decode(static_cast<typename Book::Index>(
                                   code))[static_cast<std::size_t>(w % Book::dim)]
                             : std::int16_t{0});
    }
  return table;
}

/// The same for E8Codebook: the magnitudes of each pattern. From 128 on the last one is negated, for the sign
/// that is odd there.
inline std::vector<std::int16_t> byte_table(const E8Codebook&) {
  std::vector<std::int16_t> table;
  for (unsigned number = 0; number < 256; ++number)
    for (unsigned d = 0; d < 8; ++d) {
      const std::uint8_t magnitude =
          higgs::detail::e8_levels[higgs::detail::e8_patterns[number] >> 4 * d & 15u];
      table.push_back(static_cast<std::int16_t>(number >= 128 && d == 7 ? -magnitude : magnitude));
    }
  return table;
}

/// The bits by which kernels know the tiles of a codebook; 0 if it has none.
template <Codebook Book>
inline constexpr int tile_bits = std::is_same_v<Book, E8Codebook>             ? e8_tiles
                                 : has_tile_order(Book::dim, code_bits<Book>) ? code_bits<Book> / Book::dim
                                                                              : 0;

/// Owns a PackedView. Made once at load; interchange order is not kept.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// Copies `w` to the device and repacks it there; returns when that is done.
  template <Codebook Book, class Archs = BuiltFor>
  explicit PackedMatrix(const QuantizedMatrix<Book>& w, cudaStream_t stream = nullptr)
      : PackedMatrix(w, byte_table(w.book), stream, Archs{}) {
    static_assert(
        tile_bits<Book> != 0,
        "PackedMatrix: 2, 3, 4 or 8 whole bits for a weight, at most a byte for a code, or E8Codebook");
  }
  /// The same for a part of `w`.
  template <Codebook Book, class Archs = BuiltFor>
  PackedMatrix(const QuantizedMatrix<Book>& w, const Shard& part, cudaStream_t stream = nullptr)
      : PackedMatrix(ShardedMatrix<Book>(w, part).matrix, byte_table(w.book), stream, Archs{},
                     part.first_col) {}
  /// The same for a codebook known at run time; throws InvalidArgument for one that has no tile order.
  template <class Archs = BuiltFor>
  explicit PackedMatrix(const AnyQuantizedMatrix& w, cudaStream_t stream = nullptr)
      : PackedMatrix(w.visit([&]<class Book>(const QuantizedMatrix<Book>& matrix) {
          if constexpr (tile_bits<Book> != 0)
            return PackedMatrix(matrix, stream);
          else
            return throw_no_tile_order(Book::name());
        })) {}
  template <class Archs = BuiltFor>
  PackedMatrix(const AnyQuantizedMatrix& w, const Shard& part, cudaStream_t stream = nullptr)
      : PackedMatrix(w.visit([&]<class Book>(const QuantizedMatrix<Book>& matrix) {
          if constexpr (tile_bits<Book> != 0)
            return PackedMatrix(matrix, part, stream);
          else
            return throw_no_tile_order(Book::name());
        })) {}

  const PackedView& view() const noexcept { return view_; }
  std::int64_t rows() const noexcept { return view_.order.rows; }
  std::int64_t cols() const noexcept { return view_.rotation.cols; }
  /// Device memory it holds.
  std::size_t size_bytes() const noexcept {
    return tiles_.size_bytes() + scales_.size_bytes() + table_.size_bytes() + signs_.size_bytes() +
           factors_.size_bytes();
  }

 private:
  template <class Matrix, class Archs>
  PackedMatrix(const Matrix& w, const std::vector<std::int16_t>& table, cudaStream_t stream, Archs,
               std::int64_t first_col = 0)
      : table_(std::span(table)), factors_(std::span<const float>(floats_of(w.input_scales))) {
    using Book = typename Matrix::CodebookType;
    view_.order = {tile_bits<Book>, Book::dim, w.rows(), w.layout.groups(), w.layout.group};
    tiles_ = DeviceBuffer<uint4>(static_cast<std::size_t>(view_.order.code_loads()));
    scales_ = DeviceBuffer<Half>(static_cast<std::size_t>(view_.order.scale_count()));
    if (w.seed)
      signs_ = DeviceBuffer<std::uint32_t>(
          std::span<const std::uint32_t>(sign_words(*w.seed, w.cols(), first_col)));
    view_.rotation = {w.cols(),        w.layout.block, signs_.data(),
                      factors_.data(), w.layout.group, view_.order.padded_group()};
    view_.exponent = w.exponent;
    view_.tiles = tiles_.data();
    view_.scales = scales_.data();
    view_.table = table_.data();
    const DeviceBuffer<std::uint8_t> codes(w.codes);
    const DeviceBuffer<Half> scales(w.scales);
    repack_async<Archs>(view_.order, codes.data(), scales.data(), tiles_.data(), scales_.data(), stream);
    check(cudaStreamSynchronize(stream), "higgs::gpu::PackedMatrix");
  }

  [[noreturn]] static PackedMatrix throw_no_tile_order(const std::string& codebook) {
    throw InvalidArgument(
        "higgs::gpu::PackedMatrix: codes of " + codebook +
        " have no tile order: 2, 3, 4 or 8 whole bits for a weight, at most a byte for a code, or e8");
  }

  static std::vector<float> floats_of(std::span<const Half> halves) {
    std::vector<float> out;
    for (const Half half : halves) out.push_back(static_cast<float>(half));
    return out;
  }

  DeviceBuffer<uint4> tiles_;
  DeviceBuffer<Half> scales_;
  DeviceBuffer<std::int16_t> table_;
  DeviceBuffer<float> factors_;
  DeviceBuffer<std::uint32_t> signs_;
  PackedView view_;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
