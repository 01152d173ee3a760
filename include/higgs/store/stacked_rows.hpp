// SPDX-License-Identifier: Apache-2.0
// Matrices that share their activations become one matrix: queries, keys and values; a gate and what it multiplies.
#pragma once

#include <higgs/core/code.hpp>
#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>
#include <higgs/store/quantized_matrix.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace higgs {
inline namespace v0 {

/// Whether one rotation of x serves both matrices: equal columns, block, group, seed and input scales. Their codes,
/// rows and exponents may differ. Matrices that were quantized with one normalization and one seed rotate alike
/// (RowQuantizer), and so do matrices of equal columns without input scales (QuantizeOptions::seed).
template <Code A, Code B>
bool rotates_alike(const QuantizedMatrix<A>& a, const QuantizedMatrix<B>& b) {
  const auto bits = [](Half scale) { return scale.bits; };
  return a.cols() == b.cols() && a.layout.block == b.layout.block && a.layout.group == b.layout.group &&
         a.seed == b.seed && std::ranges::equal(a.input_scales, b.input_scales, {}, bits, bits);
}
/// The same for codes known at run time.
inline bool rotates_alike(const AnyQuantizedMatrix& a, const AnyQuantizedMatrix& b) {
  return a.visit([&](const auto& first) {
    return b.visit([&](const auto& second) { return rotates_alike(first, second); });
  });
}

/// One matrix with the rows of all parts, one part after the other: its product is the products of the parts side by
/// side, with the same numbers and, under AcrossDevices, the same bits. Parts rotate alike and have one code.
///
/// The parts' exponents become one, and fp16 scales take up the difference exactly. Throws InvalidArgument where
/// the parts differ in their rotation or code, where no exponent keeps every scale exact, or for no parts.
template <Code C>
QuantizedMatrix<C> concatenate_rows(std::span<const QuantizedMatrix<C>> parts);
/// The same for codes known at run time.
AnyQuantizedMatrix concatenate_rows(std::span<const AnyQuantizedMatrix> parts);

/// One matrix with the rows of two in turn: row 2 i is row i of `gate`, row 2 i + 1 is row i of `up`. The matrix for
/// products that end in silu(gate) * up. Both have the same number of rows; else as concatenate_rows.
template <Code C>
QuantizedMatrix<C> interleave_rows(const QuantizedMatrix<C>& gate, const QuantizedMatrix<C>& up);
/// The same for codes known at run time.
AnyQuantizedMatrix interleave_rows(const AnyQuantizedMatrix& gate, const AnyQuantizedMatrix& up);

namespace detail {

/// scale * 2^exponent in `to`; false if fp16 does not hold it exactly.
inline bool scale_exactly(Half scale, int exponent, Half& to) {
  const float value = std::ldexp(static_cast<float>(scale), exponent);
  to = Half(value);
  return static_cast<float>(to) == value && std::isfinite(value);
}

/// Whether two codes give every symbol the same coordinates.
template <Code C>
bool same_code(const C& a, const C& b) {
  if constexpr (requires { a.points() == b.points(); })
    return a.points() == b.points();
  else
    return true;  // a code without a table of its own is named by its type
}

template <Code C>
using Parts = std::span<const std::reference_wrapper<const QuantizedMatrix<C>>>;

/// The largest exponent of the parts under which all their scales are exact. Throws InvalidArgument if none is.
template <Code C>
int common_exponent(const char* function, Parts<C> parts) {
  const auto exponent_of = [](const QuantizedMatrix<C>& part) { return part.exponent; };
  const int most = exponent_of(*std::ranges::max_element(parts, {}, exponent_of)),
            least = exponent_of(*std::ranges::min_element(parts, {}, exponent_of));
  for (int exponent = most; exponent >= least; --exponent) {
    const bool exact = std::ranges::all_of(parts, [&](const QuantizedMatrix<C>& part) {
      Half unused;
      return std::ranges::all_of(
          part.scales, [&](Half scale) { return scale_exactly(scale, part.exponent - exponent, unused); });
    });
    if (exact) return exponent;
  }
  throw_invalid_said_by([&] {
    return sentence(function, ": the exponents ", least, " and ", most,
                    " of the matrices are too far apart: under none in between are all scales exact in fp16; "
                    "quantize the matrices with one normalization");
  });
}

/// Throws InvalidArgument unless the parts are whole, rotate alike and have one code.
template <Code C>
void expect_stackable(const char* function, Parts<C> parts) {
  expects(!parts.empty(), [&] { return sentence(function, ": there must be a matrix"); });
  const QuantizedMatrix<C>& first = parts.front();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const QuantizedMatrix<C>& part = parts[i];
    expect_whole(function, part);
    expects(rotates_alike(first, part) && same_code(first.book, part.book), [&] {
      return sentence(function, ": matrix ", i, " has ", part.cols(), " columns, block ", part.layout.block,
                      " and group ", part.layout.group, ", matrix 0 has ", first.cols(), ", ",
                      first.layout.block, " and ", first.layout.group,
                      "; these, the code, the seed and the input scales must be equal");
    });
  }
}

/// The matrix whose rows are row_of(i) = {part, row} for i below `rows`.
template <Code C, class RowOf>
QuantizedMatrix<C> stack_rows(const char* function, Parts<C> parts, std::int64_t rows, const RowOf& row_of) {
  struct Storage {
    std::vector<std::uint8_t> codes;
    std::vector<Half> scales, input_scales;
  };
  expect_stackable<C>(function, parts);
  const auto storage = std::make_shared<Storage>();
  QuantizedMatrix<C> out = parts.front().get();
  out.t2 = out.weight_error = std::numeric_limits<double>::quiet_NaN();  // those were of the parts
  out.exponent = common_exponent<C>(function, parts);
  out.layout.rows = rows;
  for (const QuantizedMatrix<C>& part :
       parts)  // Log8's ladder does not hold every scale times a power of two
    if (part.exponent != out.exponent || part.layout.scale_format != out.layout.scale_format)
      out.layout.scale_format = ScaleFormat::Fp16;
  storage->codes.reserve(static_cast<std::size_t>(rows * out.row_bytes()));
  storage->scales.reserve(static_cast<std::size_t>(rows * out.layout.groups()));
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto [index, row] = row_of(r);
    const QuantizedMatrix<C>& part = parts[index];
    const std::span<const std::uint8_t> codes = part.row_codes(row);
    storage->codes.insert(storage->codes.end(), codes.begin(), codes.end());
    for (const Half scale : part.row_scales(row))
      scale_exactly(scale, part.exponent - out.exponent, storage->scales.emplace_back());
  }
  storage->input_scales.assign(out.input_scales.begin(), out.input_scales.end());
  out.codes = storage->codes;
  out.scales = storage->scales;
  out.input_scales = storage->input_scales;
  out.owner = storage;
  return out;
}

/// Calls use(references) with the parts, which hold the same code.
template <class Use>
AnyQuantizedMatrix with_parts(const char* function, std::span<const AnyQuantizedMatrix> parts,
                              const Use& use) {
  expects(!parts.empty(), [&] { return sentence(function, ": there must be a matrix"); });
  return parts.front().visit([&]<class C>(const QuantizedMatrix<C>&) -> AnyQuantizedMatrix {
    std::vector<QuantizedMatrix<C>> typed;
    for (const AnyQuantizedMatrix& part : parts) {
      expects(std::holds_alternative<QuantizedMatrix<C>>(part), [&] {
        return sentence(function, ": matrix ", typed.size(), " has the code ", part.codebook(),
                        ", matrix 0 has ", C::name());
      });
      typed.push_back(std::get<QuantizedMatrix<C>>(part));
    }
    return use(std::span<const QuantizedMatrix<C>>(typed));
  });
}

}  // namespace detail

template <Code C>
QuantizedMatrix<C> concatenate_rows(std::span<const QuantizedMatrix<C>> parts) {
  const std::vector<std::reference_wrapper<const QuantizedMatrix<C>>> references(parts.begin(), parts.end());
  std::vector<std::int64_t> begins{0};  // row at which each part begins
  for (const QuantizedMatrix<C>& part : parts) begins.push_back(begins.back() + part.rows());
  return detail::stack_rows<C>("higgs::concatenate_rows", references, begins.back(), [&](std::int64_t row) {
    const auto part = std::ranges::upper_bound(begins, row) - begins.begin() - 1;
    return std::pair(static_cast<std::size_t>(part), row - begins[static_cast<std::size_t>(part)]);
  });
}

inline AnyQuantizedMatrix concatenate_rows(std::span<const AnyQuantizedMatrix> parts) {
  return detail::with_parts("higgs::concatenate_rows", parts,
                            [](auto typed) -> AnyQuantizedMatrix { return concatenate_rows(typed); });
}

template <Code C>
QuantizedMatrix<C> interleave_rows(const QuantizedMatrix<C>& gate, const QuantizedMatrix<C>& up) {
  expects(gate.rows() == up.rows(), [&] {
    return detail::sentence("higgs::interleave_rows: gate has ", gate.rows(), " rows, but up has ",
                            up.rows());
  });
  const std::array<std::reference_wrapper<const QuantizedMatrix<C>>, 2> references{gate, up};
  return detail::stack_rows<C>("higgs::interleave_rows", references, 2 * gate.rows(), [](std::int64_t row) {
    return std::pair(static_cast<std::size_t>(row % 2), row / 2);
  });
}

inline AnyQuantizedMatrix interleave_rows(const AnyQuantizedMatrix& gate, const AnyQuantizedMatrix& up) {
  const std::array<AnyQuantizedMatrix, 2> parts{gate, up};
  return detail::with_parts("higgs::interleave_rows", parts, [](auto typed) -> AnyQuantizedMatrix {
    return interleave_rows(typed[0], typed[1]);
  });
}

}  // namespace v0
}  // namespace higgs
