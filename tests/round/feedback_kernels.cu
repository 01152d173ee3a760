// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of factors: no spills, and registers for many blocks.
#include <higgs/round/feedback.cuh>

namespace gpu = higgs::gpu;

// plan: copy_diagonal_kernel<.*>: registers <= 32
[[maybe_unused]] auto* const copy_diagonal = gpu::detail::copy_diagonal_kernel<gpu::BuiltFor>;
// plan: scale_second_moment_kernel<.*>: registers <= 48
[[maybe_unused]] auto* const scale_second_moment = gpu::detail::scale_second_moment_kernel<gpu::BuiltFor>;
// plan: transpose_kernel<.*>: registers <= 64; bar == 1
[[maybe_unused]] auto* const transpose = gpu::detail::transpose_kernel<gpu::BuiltFor>;
// plan: damp_kernel<.*>: registers <= 32
[[maybe_unused]] auto* const damp = gpu::detail::damp_kernel<gpu::BuiltFor>;
// plan: factor_diagonal_kernel<.*>: registers <= 96
[[maybe_unused]] auto* const factor_diagonal = gpu::detail::factor_diagonal_kernel<gpu::BuiltFor>;
// plan: solve_above_kernel<.*>: registers <= 96
[[maybe_unused]] auto* const solve_above = gpu::detail::solve_above_kernel<gpu::BuiltFor>;
// plan: clear_below_diagonal_kernel<.*>: registers <= 48
[[maybe_unused]] auto* const clear_below_diagonal = gpu::detail::clear_below_diagonal_kernel<gpu::BuiltFor>;
