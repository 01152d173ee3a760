// SPDX-License-Identifier: Apache-2.0
// The one source file of the compiled library, higgs::compiled: every function that headers only declare for its users.
#if !defined(HIGGS_COMPILED)
#  error compile this file with HIGGS_COMPILED defined, as the CMake target does
#endif
#define HIGGS_COMPILED_SOURCE

#include <higgs/higgs.hpp>
#include <higgs/models.hpp>
#include <higgs/tools.hpp>

#include <span>

namespace higgs {
inline namespace v0 {
namespace {

// Function templates are compiled where their address is taken: for each shipped code and each scalar.
const void* volatile address;
void keep(const void* function) { address = function; }
template <class... Functions>
void compile(Functions*... functions) {
  (keep(reinterpret_cast<const void*>(functions)), ...);
}

template <class C, class T>
typename RowQuantizer<C>::Error quantize_rows(const RowQuantizer<C>& quantizer, MatrixView<T> w,
                                              std::span<std::uint8_t> codes, std::span<Half> scales,
                                              Executor& executor) {
  return quantizer.quantize_rows(w, codes, scales, executor);
}

template <class T>
void compile_scalar() {
  using RotateRow = void(std::span<const T>, std::span<const float>, std::span<float>, std::int64_t,
                         std::optional<std::uint64_t>, std::int64_t, Isa);
  compile<RotateRow>(&rotate_row<T>);
  compile(&detail::matmul_block<const T, float>, &detail::matmul_block<const T, Half>,
          &detail::matmul_block<const T, BFloat16>);
}

template <class C, class T>
typename FeedbackQuantizer<C>::Error quantize_rows_with_feedback(const FeedbackQuantizer<C>& quantizer,
                                                                 MatrixView<T> w,
                                                                 std::span<std::uint8_t> codes,
                                                                 std::span<Half> scales, Executor& executor) {
  return quantizer.quantize_rows(w, codes, scales, executor);
}

template <class C, class T>
typename FeedbackQuantizer<C>::Error quantize_matrix_with_feedback(const FeedbackQuantizer<C>& quantizer,
                                                                   MatrixView<T> w, const Feedback& outputs,
                                                                   std::span<std::uint8_t> codes,
                                                                   std::span<Half> scales,
                                                                   Executor& executor) {
  return quantizer.quantize_matrix(w, outputs, codes, scales, executor);
}

template <class C, class T>
void compile_quantize() {
  using Nearest = QuantizedMatrix<C>(MatrixView<T>, const C&, const QuantizeOptions&, Executor&);
  using WithFeedback =
      QuantizedMatrix<C>(MatrixView<T>, const C&, const SecondMoment&, const QuantizeOptions&, Executor&);
  compile<Nearest, WithFeedback>(&detail::quantize_scalars<T, C>, &detail::quantize_scalars<T, C>);
  compile(&quantize_rows<C, T>, &quantize_rows_with_feedback<C, T>, &quantize_matrix_with_feedback<C, T>);
}

template <class C>
void compile_code() {
  compile_quantize<C, const float>();
  compile_quantize<C, const Half>();
  compile_quantize<C, const BFloat16>();
  compile(&detail::pack_matrix<C>);
}

[[gnu::used]] void compile_all() {
  compile_scalar<float>();
  compile_scalar<Half>();
  compile_scalar<BFloat16>();
  []<class... Codes>(TypeList<Codes...>) { (compile_code<Codes>(), ...); }(ShippedCodes{});
  compile(&exact_dot<float, float>, &exact_dot<float, std::int8_t>, &exact_dot<float, std::int16_t>,
          &exact_dot<std::int8_t, std::int8_t>, &exact_dot<std::int16_t, std::int16_t>);
}

}  // namespace
}  // namespace v0
}  // namespace higgs
