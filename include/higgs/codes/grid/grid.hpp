// SPDX-License-Identifier: Apache-2.0
// A codebook that is a table of points with integer coordinates.
#pragma once

#include <higgs/codes/grid/gaussian_grids.hpp>
#include <higgs/core/concepts.hpp>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

namespace higgs {
inline namespace v0 {

/// `Size` points in `Dim` dimensions. Made without arguments it is the Gaussian-optimal table that ships for this
/// shape; a file or a caller may bring another table of the same shape.
template <int Dim, int Size>
class GridCodebook {
  static_assert(Dim >= 1 && Dim <= 16,
                "GridCodebook<Dim, Size>: Dim must lie in [1, 16]; is the order Dim, Size?");
  static_assert(Size >= 2 && Size <= 65536, "GridCodebook<Dim, Size>: Size must lie in [2, 65536]");

 public:
  static constexpr int dim = Dim;
  static constexpr int size = Size;
  /// int8 coordinates are exact in fp16 and bf16; 8 bits on one dimension need finer ones.
  using Element = std::conditional_t<Dim == 1 && (Size > 64), std::int16_t, std::int8_t>;
  using Index = std::conditional_t<(Size > 256), std::uint16_t, std::uint8_t>;
  using Point = std::array<Element, detail::extent<Dim>>;
  using Points = std::array<Point, detail::extent<Size>>;

  /// The table that ships (GaussianGrid<Dim, Size>).
  constexpr GridCodebook() noexcept
      : GridCodebook(GaussianGrid<Dim, Size>::points, GaussianGrid<Dim, Size>::step,
                     GaussianGrid<Dim, Size>::mse) {}
  constexpr GridCodebook(const Points& points, double step, double mse) noexcept : step_(step), mse_(mse) {
    // At run time a plain copy: g++ would otherwise write a table that it knows in thousands of instructions.
    if (std::is_constant_evaluated())
      points_ = points;
    else
      std::memcpy(&points_, &points, sizeof(points));
  }

  HIGGS_HOST_DEVICE constexpr Point decode(Index index) const noexcept { return points_[index]; }
  constexpr double step() const noexcept { return step_; }
  constexpr double mse() const noexcept { return mse_; }
  constexpr const Points& points() const noexcept { return points_; }
  /// "2x256": the spelling of the command line and of files.
  static std::string name() { return std::to_string(Dim) + "x" + std::to_string(Size); }

 private:
  Points points_;
  double step_;
  double mse_;
};

}  // namespace v0
}  // namespace higgs
