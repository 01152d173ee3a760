// SPDX-License-Identifier: Apache-2.0
// The words the stages are written in.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>

#include <array>
#include <bit>
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>

// CUDA's 16-bit types, which no header of higgs needs to see.
struct __half;
struct __nv_bfloat16;

namespace higgs {
inline namespace v0 {

/// A list of types, for folds.
template <class... Types>
struct TypeList {};

/// An element type of weights and activations, as the library computes with it.
template <class T>
concept Scalar = std::same_as<T, float> || std::same_as<T, Half> || std::same_as<T, BFloat16>;
static_assert(Scalar<float> && Scalar<Half> && Scalar<BFloat16>);

namespace detail {
/// A 16-bit number of the compiler's own, whatever its name, in which 1 has these bits.
template <class T, std::uint16_t One>
concept BuiltinWithOne =
    std::is_object_v<T> && !std::is_class_v<T> && !std::is_union_v<T> && !std::is_enum_v<T> &&
    !std::is_array_v<T> && !std::is_integral_v<T> && !std::is_pointer_v<T> && sizeof(T) == 2 &&
    requires(T value) { static_cast<float>(value); } && static_cast<float>(std::bit_cast<T>(One)) == 1.0f;
}  // namespace detail

/// The Scalar that has the bits of T. There is one for Scalars, for _Float16, std::float16_t and
/// std::bfloat16_t where the compiler has them, and for CUDA's __half and __nv_bfloat16; specialize it for a
/// type of your own.
template <class T>
struct ScalarOf {};
template <Scalar T>
struct ScalarOf<T> {
  using type = T;
};
template <detail::BuiltinWithOne<0x3c00> T>
struct ScalarOf<T> {
  using type = Half;
};
template <detail::BuiltinWithOne<0x3f80> T>
struct ScalarOf<T> {
  using type = BFloat16;
};
template <>
struct ScalarOf<__half> {
  using type = Half;
};
template <>
struct ScalarOf<__nv_bfloat16> {
  using type = BFloat16;
};

/// What weights and activations may be given as, const or not.
template <class T>
concept ScalarLike = requires { typename ScalarOf<std::remove_cv_t<T>>::type; };

namespace detail {

/// Whether a view is what kernels take; else it goes through as_scalars() first.
template <class T>
inline constexpr bool is_scalar = Scalar<std::remove_const_t<T>>;

/// Stands for the Scalar of what has none, so that an error is one line.
template <class T>
struct ScalarOrFloat {
  using type = float;
};
template <ScalarLike T>
struct ScalarOrFloat<T> : ScalarOf<std::remove_cv_t<T>> {};

/// The same memory as a view of its Scalar; for other types an error that says what to do.
template <template <class> class View, class T>
constexpr auto as_scalars(const View<T>& view) noexcept {
  static_assert(
      ScalarLike<T>,
      "higgs takes float and 16-bit floats: higgs::Half, higgs::BFloat16, _Float16, std::float16_t, "
      "std::bfloat16_t, __half, __nv_bfloat16; convert other types, such as double, to float");
  using Plain = typename ScalarOrFloat<std::remove_const_t<T>>::type;
  using To = std::conditional_t<std::is_const_v<T>, const Plain, Plain>;
  View<To> out;
  if constexpr (ScalarLike<T>) out.data = reinterpret_cast<To*>(view.data);
  out.rows = view.rows;
  out.cols = view.cols;
  out.row_stride = view.row_stride;
  if constexpr (requires { view.col_stride; }) out.col_stride = view.col_stride;
  return out;
}

}  // namespace detail

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
  std::string name;  // name of the code
  double t2 = 0;
  std::int64_t bytes = 0;   // bytes of codes and all scales, padding included
  std::int64_t second = 0;  // what it takes of a second resource, in any unit: time, fast memory
};

}  // namespace v0
}  // namespace higgs
