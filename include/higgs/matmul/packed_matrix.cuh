// SPDX-License-Identifier: Apache-2.0
// A quantized matrix on the device, packed for tensor cores. Kernels know its format, not its code.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/pack/bits.hpp>
#include <higgs/pack/fragment_decoder.cuh>
#include <higgs/pack/packed_layout.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/store/quantized_matrix.hpp>
#include <higgs/store/shard.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// A packed matrix as kernels see it.
struct PackedView {
  PackedLayout layout;
  Rotation rotation;                    // for the activations
  int exponent = 0;                     // weight = 2^exponent * scale * coordinate
  int device = -1;                      // Device::id of the device whose memory it is in; -1: not known
  const uint4* codes = nullptr;         // (warp_tile_rows, warp_tile_cols, loads * 32 + tail_units)
  const Half* scales = nullptr;         // (warp_tile_rows, groups, 64)
  const std::int16_t* table = nullptr;  // (table_size of the format): its lookup table
  bool int8_table = false;              // whether all coordinates of the table fit int8
};

namespace detail {

/// Throws InvalidArgument unless `w`, in the memory of device `owner`, is in that of `device`; -1: not known.
inline void check_memory(const char* function, int owner, const Device& device) {
  expects(owner < 0 || device.id < 0 || owner == device.id, [&] {
    return higgs::detail::sentence(function, ": w is in the memory of device ", owner,
                                   ", but the call is for device ", device.id);
  });
}

/// Throws InvalidArgument unless `w` is in the memory of `device`, whose kernels find their lookup table where they are
/// compiled for.
inline void check_device(const char* function, const PackedView& w, const Device& device) {
  check_memory(function, w.device, device);
  expects(device.reserved_shared_bytes <= LookupTable::begin, [&] {
    return higgs::detail::sentence(function, ": CUDA keeps the first ", device.reserved_shared_bytes,
                                   " bytes of each block's shared memory on this device, but at most ",
                                   LookupTable::begin, " are possible: there the lookup table begins");
  });
}

}  // namespace detail

/// Owns a PackedView. Made once at load; the canonical layout is not kept.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// Copies `w` to the current device and packs it there, in the format that FormatOf<C> names, all on `stream`. Returns
  /// when that is done, so products on any stream may follow.
  template <Code C, class Archs = BuiltFor>
  explicit PackedMatrix(const QuantizedMatrix<C>& w, cudaStream_t stream = nullptr)
      : PackedMatrix(w, w.book, stream, Archs{}) {}
  /// The same for a part of `w`.
  template <Code C, class Archs = BuiltFor>
  PackedMatrix(const QuantizedMatrix<C>& w, const Shard& part, cudaStream_t stream = nullptr)
      : PackedMatrix(ShardedMatrix<C>(w, part).matrix, w.book, stream, Archs{}, part.first_col) {}
  /// The same for a code known at run time.
  template <class Archs = BuiltFor>
  explicit PackedMatrix(const AnyQuantizedMatrix& w, cudaStream_t stream = nullptr)
      : PackedMatrix(w.visit([&](const auto& matrix) { return PackedMatrix(matrix, stream); })) {}
  template <class Archs = BuiltFor>
  PackedMatrix(const AnyQuantizedMatrix& w, const Shard& part, cudaStream_t stream = nullptr)
      : PackedMatrix(w.visit([&](const auto& matrix) { return PackedMatrix(matrix, part, stream); })) {}

  /// The matrix for kernels; valid as long as this object.
  const PackedView& view() const noexcept { return view_; }
  /// Outputs.
  std::int64_t rows() const noexcept { return view_.layout.rows; }
  /// Inputs.
  std::int64_t cols() const noexcept { return view_.rotation.cols; }
  /// Device memory it holds.
  std::size_t size_bytes() const noexcept {
    return codes_.size_bytes() + scales_.size_bytes() + table_.size_bytes() + signs_.size_bytes() +
           factors_.size_bytes();
  }

 private:
  template <class C, class Archs>
  PackedMatrix(const QuantizedMatrix<C>& w, const C& code, cudaStream_t stream, Archs,
               std::int64_t first_col = 0)
      : factors_(std::span<const float>(floats_of(w.input_scales)), stream) {
    using Format = typename FormatOf<C>::type;
    const std::vector<std::int16_t> table = device_table(code);
    table_ = DeviceBuffer<std::int16_t>(std::span<const std::int16_t>(table), stream);
    view_.int8_table = std::all_of(table.begin(), table.end(), [](std::int16_t coordinate) {
      return coordinate == static_cast<std::int8_t>(coordinate);
    });
    const CodeLayout& layout = w.layout;
    DeviceBuffer<std::uint8_t> codes;  // in canonical layout
    if constexpr (FormatOf<C>::stores_coordinates) {
      view_.layout = packed_layout<Format>(1, 8, w.rows(), layout.groups(), layout.group);
      codes = DeviceBuffer<std::uint8_t>(std::span<const std::uint8_t>(coordinates_of(w, code)), stream);
    } else {
      view_.layout = packed_layout<Format>(C::dim, code_bits<C>, w.rows(), layout.groups(), layout.group);
      codes = DeviceBuffer<std::uint8_t>(w.codes, stream);
    }
    codes_ = DeviceBuffer<uint4>(static_cast<std::size_t>(view_.layout.load_count()));
    scales_ = DeviceBuffer<Half>(static_cast<std::size_t>(view_.layout.scale_count()));
    if (w.seed)
      signs_ = DeviceBuffer<std::uint32_t>(
          std::span<const std::uint32_t>(sign_words(*w.seed, w.cols(), first_col)), stream);
    view_.rotation = {w.cols(),        layout.block, signs_.data(),
                      factors_.data(), layout.group, view_.layout.padded_group()};
    view_.exponent = w.exponent;
    view_.codes = codes_.data();
    view_.scales = scales_.data();
    view_.table = table_.data();
    check(cudaGetDevice(&view_.device), "higgs::gpu::PackedMatrix");
    const DeviceBuffer<Half> scales(w.scales, stream);
    repack_async<Format, Archs>(view_.layout, codes.data(), scales.data(), codes_.data(), scales_.data(),
                                stream);
    check(cudaStreamSynchronize(stream), "higgs::gpu::PackedMatrix");
  }

  /// All coordinates of a matrix, in two's complement. (rows, padded_cols)
  template <class C>
  static std::vector<std::uint8_t> coordinates_of(const QuantizedMatrix<C>& w, const C& code) {
    using Symbol = SymbolOf<C>;
    const auto each = static_cast<std::size_t>(w.layout.codes_per_group(C::dim));
    std::vector<Symbol> symbols(static_cast<std::size_t>(w.layout.codes_per_row(C::dim)));
    std::vector<typename C::Element> values(static_cast<std::size_t>(w.layout.group));
    std::vector<std::uint8_t> out;
    out.reserve(static_cast<std::size_t>(w.rows() * w.layout.padded_cols()));
    for (std::int64_t r = 0; r < w.rows(); ++r) {
      unpack_bits(w.row_codes(r), code_bits<C>, 0, std::span<Symbol>(symbols));
      for (std::size_t first = 0; first < symbols.size(); first += each) {
        decode_group(code, std::span<const Symbol>(symbols).subspan(first, each),
                     std::span<typename C::Element>(values));
        for (const auto value : values) out.push_back(static_cast<std::uint8_t>(value));
      }
    }
    return out;
  }

  static std::vector<float> floats_of(std::span<const Half> halves) {
    std::vector<float> out;
    for (const Half half : halves) out.push_back(static_cast<float>(half));
    return out;
  }

  DeviceBuffer<uint4> codes_;
  DeviceBuffer<Half> scales_;
  DeviceBuffer<std::int16_t> table_;
  DeviceBuffer<float> factors_;
  DeviceBuffer<std::uint32_t> signs_;
  PackedView view_;
};

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
