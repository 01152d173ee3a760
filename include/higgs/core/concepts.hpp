// SPDX-License-Identifier: Apache-2.0
// The words the stages are written in.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/half.hpp>

#include <array>
#include <bit>
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>

namespace higgs {
inline namespace v0 {

/// An element type of weights and activations.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, Half> || std::same_as<T, BFloat16>;
static_assert(Scalar<float> && Scalar<Half> && Scalar<BFloat16>);

/// A finite set of points with integer coordinates: weight = scale * coordinate, exactly, on every machine.
/// `step()` is the size of one integer in units of the group's RMS (it only guides encoding and folds into the
/// stored scale); `mse()` is the mean squared error per weight on N(0, 1), the t^2 of the linearity theorem.
template <class B>
concept Codebook = requires(const B& book, typename B::Index index) {
  requires std::same_as<std::remove_cv_t<decltype(B::dim)>, int>;
  requires std::same_as<std::remove_cv_t<decltype(B::size)>, int> ||
               std::same_as<std::remove_cv_t<decltype(B::size)>, std::int64_t>;  // codes of 32 bits
  requires std::signed_integral<typename B::Element>;
  requires std::unsigned_integral<typename B::Index>;
  requires std::same_as<typename B::Point, std::array<typename B::Element, B::dim>>;
  { book.decode(index) } noexcept -> std::same_as<typename B::Point>;
  { book.step() } noexcept -> std::same_as<double>;
  { book.mse() } noexcept -> std::same_as<double>;
  { B::name() } -> std::same_as<std::string>;
};

/// One way to store a matrix: its t^2 = ||W' - W||^2 / ||W||^2 is expected, its bytes are exact.
struct Format {
  std::string name;  // of the codebook
  double t2 = 0;
  std::int64_t bytes = 0;   // of codes and all scales, padding included
  std::int64_t second = 0;  // what it takes of a second resource, in any unit: time, fast memory
};

/// Whole bits that hold one code of `B`.
template <class B>
inline constexpr int code_bits = std::bit_width(static_cast<std::uint64_t>(B::size) - 1u);

}  // namespace v0
}  // namespace higgs
