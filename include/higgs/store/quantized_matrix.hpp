// SPDX-License-Identifier: Apache-2.0
// What a quantized matrix is: codes, scales, and how they were cut.
#pragma once

#include <higgs/codes/registry.hpp>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/scale_format.hpp>

#include <concepts>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>

namespace higgs {
inline namespace v0 {

/// How a matrix is cut along its rows: `cols` inputs, padded with zeros to whole Hadamard blocks. A block has groups of
/// `group` inputs that share one scale. A group starts a new symbol, a row starts a new byte.
///
///     row | block                   | block                   |      padded_cols() = blocks * block
///         | group     | group       | group     | group       |      groups() scales
///         | vec | vec | vec | vec   | ...                            codes_per_group(dim) codes each
struct CodeLayout {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t block = 1;     // order of the Hadamard transform
  std::int64_t group = 1;     // divides block
  bool input_scales = false;  // whether each input has a scale of its own (scale/input_scale.hpp)
  ScaleFormat scale_format = ScaleFormat::Fp16;  // format of group scales in files

  constexpr std::int64_t padded_cols() const noexcept { return (cols + block - 1) / block * block; }
  constexpr std::int64_t groups() const noexcept { return padded_cols() / group; }
  constexpr std::int64_t codes_per_group(int dim) const noexcept { return (group + dim - 1) / dim; }
  constexpr std::int64_t codes_per_row(int dim) const noexcept { return groups() * codes_per_group(dim); }
  constexpr std::int64_t row_bytes(int dim, int bits) const noexcept {
    return (codes_per_row(dim) * bits + 7) / 8;
  }
  /// Bytes that a file keeps of one group's scale.
  constexpr std::int64_t scale_bytes() const noexcept { return scale_format == ScaleFormat::Fp16 ? 2 : 1; }
  friend constexpr bool operator==(const CodeLayout&, const CodeLayout&) = default;
};

/// A matrix in canonical layout, the layout of files: row-major symbols, little-endian bits, the same on every machine.
/// In the rotated basis, weight = 2^exponent * scale * coordinate. In the original basis, column c is multiplied by
/// input_scales[c]; a product multiplies input c of the activations by it instead, before the rotation. A value: copies
/// share the bytes. A default-constructed or moved-from matrix is empty: 0 x 0.
template <Code C>
struct QuantizedMatrix {
  using CodeType = C;

  CodeLayout layout;
  std::optional<std::uint64_t> seed;  // seed of the random signs; none: rotated without signs
  int exponent = 0;                   // brings scales of any magnitude into fp16's range
  /// Measured errors ||W' - W||^2 / ||W||^2 of the decoded weights W'; NaN where unknown. `t2` is the error of the matrix
  /// as it was encoded: divided by its input scales, padded and rotated. It is the t^2 of the linearity theorem, and
  /// equals the code's mse() for Gaussian weights. `weight_error` is the error of the original weights. Padding lowers
  /// it; input scales raise it, as they move error to columns of large scales.
  double t2 = std::numeric_limits<double>::quiet_NaN();
  double weight_error = std::numeric_limits<double>::quiet_NaN();  ///< see t2
  C book{};                             // the code; pass a table of your own to the constructor
  std::span<const std::uint8_t> codes;  // (rows, row_bytes)
  std::span<const Half> scales;         // (rows, groups)
  std::span<const Half> input_scales;   // (cols), or empty
  std::shared_ptr<const void> owner;    // keeps the spans alive: a buffer or a mapped file

  QuantizedMatrix()
    requires std::default_initializable<C>
  = default;
  /// An empty matrix with a table of points.
  explicit QuantizedMatrix(const C& codebook) : book(codebook) {}
  QuantizedMatrix(const QuantizedMatrix&) = default;
  QuantizedMatrix& operator=(const QuantizedMatrix&) = default;
  QuantizedMatrix(QuantizedMatrix&& other) noexcept : QuantizedMatrix(other, Moved{}) {}
  QuantizedMatrix& operator=(QuantizedMatrix&& other) noexcept {
    if (this != &other) *this = std::as_const(other), other.clear();
    return *this;
  }
  ~QuantizedMatrix() = default;

  std::int64_t rows() const noexcept { return layout.rows; }
  std::int64_t cols() const noexcept { return layout.cols; }
  std::int64_t row_bytes() const noexcept { return layout.row_bytes(C::dim, code_bits<C>); }
  std::span<const std::uint8_t> row_codes(std::int64_t row) const noexcept {
    return codes.subspan(static_cast<std::size_t>(row * row_bytes()), static_cast<std::size_t>(row_bytes()));
  }
  std::span<const Half> row_scales(std::int64_t row) const noexcept {
    return scales.subspan(static_cast<std::size_t>(row * layout.groups()),
                          static_cast<std::size_t>(layout.groups()));
  }
  /// All bits that a file keeps for codes and scales of both kinds, over rows * cols; 0 for a matrix without
  /// weights.
  double bits_per_weight() const noexcept {
    if (rows() == 0 || cols() == 0) return 0;
    const auto bytes = static_cast<double>(codes.size_bytes() + input_scales.size_bytes()) +
                       static_cast<double>(layout.scale_bytes()) * static_cast<double>(scales.size());
    return bytes * 8.0 / (static_cast<double>(rows()) * static_cast<double>(cols()));
  }

 private:
  struct Moved {};
  QuantizedMatrix(QuantizedMatrix& other, Moved) noexcept : QuantizedMatrix(std::as_const(other)) {
    other.clear();
  }
  // All but the codebook, which may be dear to make.
  void clear() noexcept {
    layout = {};
    seed.reset();
    exponent = 0;
    t2 = weight_error = std::numeric_limits<double>::quiet_NaN();
    codes = {};
    scales = input_scales = {};
    owner.reset();
  }
};

namespace detail {

/// Throws InvalidArgument for a matrix without columns, quantized or tiled.
template <class Matrix>
void expect_filled(const char* function, const Matrix& w) {
  expects(w.cols() > 0, [&] {
    return sentence(function, ": w is empty: nothing was assigned to it, or it was moved from");
  });
}

/// Throws InvalidArgument unless codes and scales are as many as the layout says.
template <Code C>
void expect_whole(const char* function, const QuantizedMatrix<C>& w) {
  expect_filled(function, w);
  const std::int64_t codes = w.rows() * w.row_bytes(), scales = w.rows() * w.layout.groups(),
                     input_scales = w.layout.input_scales ? w.cols() : 0;
  expects(std::ssize(w.codes) == codes && std::ssize(w.scales) == scales &&
              std::ssize(w.input_scales) == input_scales,
          [&] {
            return sentence(function, ": w holds ", w.codes.size(), " bytes of codes, ", w.scales.size(),
                            " scales and ", w.input_scales.size(), " input scales, but its layout asks for ",
                            codes, ", ", scales, " and ", input_scales);
          });
}

template <class List>
struct AnyOf;
template <class... Codes>
struct AnyOf<TypeList<Codes...>> {
  using type = std::variant<QuantizedMatrix<Codes>...>;
};
}  // namespace detail

/// A matrix whose codebook is known only at run time, one of those that ship: a std::variant of
/// QuantizedMatrix<C>, for std::get and std::visit too, that answers for whichever it holds.
class AnyQuantizedMatrix : public detail::AnyOf<ShippedCodes>::type {
 public:
  AnyQuantizedMatrix() = default;
  template <ShippedCode C>
  AnyQuantizedMatrix(QuantizedMatrix<C> matrix) noexcept : variant(std::move(matrix)) {}

  /// function(const QuantizedMatrix<C>&) of the matrix that it holds.
  template <class Function>
  decltype(auto) visit(Function&& function) const {
    return std::visit(std::forward<Function>(function), static_cast<const variant&>(*this));
  }

  std::int64_t rows() const { return layout().rows; }
  std::int64_t cols() const { return layout().cols; }
  const CodeLayout& layout() const {
    return visit([](const auto& matrix) -> const CodeLayout& { return matrix.layout; });
  }
  std::optional<std::uint64_t> seed() const {
    return visit([](const auto& matrix) { return matrix.seed; });
  }
  int exponent() const {
    return visit([](const auto& matrix) { return matrix.exponent; });
  }
  /// The codebook's name, "2x256".
  std::string codebook() const {
    return visit([]<class C>(const QuantizedMatrix<C>&) { return C::name(); });
  }
  /// Both errors as in QuantizedMatrix.
  double t2() const {
    return visit([](const auto& matrix) { return matrix.t2; });
  }
  double weight_error() const {
    return visit([](const auto& matrix) { return matrix.weight_error; });
  }
  double bits_per_weight() const {
    return visit([](const auto& matrix) { return matrix.bits_per_weight(); });
  }
};

}  // namespace v0
}  // namespace higgs
