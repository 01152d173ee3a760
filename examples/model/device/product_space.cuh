// SPDX-License-Identifier: Apache-2.0
// The device memory that the products of one stream share.
#pragma once

#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/matmul_task.cuh>
#if defined(HIGGS_MODEL_CUBLAS) || defined(HIGGS_BENCH_CUBLAS)  // by CMake, by bench/gpu/native.sh
#  include <higgs/matmul/cublas_gemm.cuh>
#endif

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>

namespace higgs::model {

/// What multiplies many rows by dense weights: cuBLAS in a build that has it, else nothing; and the device memory that it
/// takes on the current device.
#if defined(HIGGS_MODEL_CUBLAS) || defined(HIGGS_BENCH_CUBLAS)
using Gemm = gpu::CublasGemm;
inline std::size_t gemm_bytes() { return Gemm::workspace_bytes(gpu::current_device()); }
#else
using Gemm = gpu::NoGemm;
inline std::size_t gemm_bytes() { return 0; }
#endif
inline constexpr bool has_gemm = !std::is_same_v<Gemm, gpu::NoGemm>;

/// Whether a ProductSpace has a Gemm: without one, products have few rows.
enum class Rows { Few, Many };

/// Bytes of a ProductSpace.
struct ProductNeeds {
  std::size_t workspace = 0;  // bytes of the largest workspace
  std::size_t rotated = 0;    // rotated inputs that several products take

  friend bool operator==(const ProductNeeds&, const ProductNeeds&) = default;
};
/// What products need that follow each other.
inline ProductNeeds largest(const ProductNeeds& a, const ProductNeeds& b) noexcept {
  return {std::max(a.workspace, b.workspace), std::max(a.rotated, b.rotated)};
}

/// What products need beside their matrices. All products of one stream may share it, and no other stream may use it at the
/// same time.
class ProductSpace {
 public:
  ProductSpace(const ProductNeeds& needs, Rows rows)
      : workspace_(gpu::DeviceBuffer<std::byte>::zeros(needs.workspace)), rotated_(needs.rotated) {
    if (has_gemm && rows == Rows::Many) gemm_.emplace();
  }

  /// Zeros between two products, at a multiple of 256 bytes.
  std::span<std::byte> workspace() const noexcept { return workspace_.span(); }
  /// Room for inputs that were rotated, at a multiple of 256 bytes.
  std::span<std::byte> rotated() const noexcept { return rotated_.span(); }
  /// What multiplies many rows; null: nothing does.
  const Gemm* gemm() const noexcept { return gemm_ ? &*gemm_ : nullptr; }
  std::size_t size_bytes() const {
    return workspace_.size_bytes() + rotated_.size_bytes() + (gemm_ ? gemm_bytes() : 0);
  }

 private:
  gpu::DeviceBuffer<std::byte> workspace_, rotated_;
  std::optional<Gemm> gemm_;
};

}  // namespace higgs::model
