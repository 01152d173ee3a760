// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of rounding with feedback: registers for the blocks that the searches of window codes have room for,
// no spills, points of codebooks read by 128 bits.
#include <higgs/round/feedback_quantizer.cuh>

namespace gpu = higgs::gpu;

// plan: round_group_kernel<.*WindowSearch<[2-8]>.*>: registers <= 128; bar == 1
[[maybe_unused]] auto* const round_w2 =
    gpu::detail::round_group_kernel<gpu::WindowSearch<4>, true, std::uint8_t, 8, 48>;
[[maybe_unused]] auto* const round_w3 =
    gpu::detail::round_group_kernel<gpu::WindowSearch<6>, true, std::uint8_t, 8, 48>;
[[maybe_unused]] auto* const round_w4 =
    gpu::detail::round_group_kernel<gpu::WindowSearch<8>, true, std::uint8_t, 8, 48>;
// plan: round_group_kernel<.*WindowSearch<10>.*>: registers <= 255; bar == 1
[[maybe_unused]] auto* const round_w5 =
    gpu::detail::round_group_kernel<gpu::WindowSearch<10>, true, std::uint16_t, 8, 48>;
// plan: round_group_kernel<.*(Point|Line|Pattern)Search.*>: registers <= 128; bar == 1
// plan: round_group_kernel<.*PointSearch<2>.*>: lds128 >= 1
[[maybe_unused]] auto* const round_2 =
    gpu::detail::round_group_kernel<gpu::PointSearch<2>, true, std::uint8_t, 2, 0>;
[[maybe_unused]] auto* const round_line =
    gpu::detail::round_group_kernel<gpu::LineSearch, true, std::uint8_t, 1, 0>;
[[maybe_unused]] auto* const round_e8 =
    gpu::detail::round_group_kernel<gpu::E8PatternSearch, true, std::uint16_t, 8, 0>;
// plan: judge_rows_kernel<.*>: registers <= 64
[[maybe_unused]] auto* const judge_rows = gpu::detail::judge_rows_kernel<gpu::BuiltFor>;
// plan: add_losses_kernel<.*>: registers <= 64
[[maybe_unused]] auto* const add_losses = gpu::detail::add_losses_kernel<gpu::BuiltFor>;
// plan: choose_rounding_kernel: registers <= 64
[[maybe_unused]] auto* const choose_rounding = gpu::detail::choose_rounding_kernel<std::uint8_t>;
// plan: sum_group_errors_kernel<.*>: registers <= 64
[[maybe_unused]] auto* const sum_group_errors = gpu::detail::sum_group_errors_kernel<gpu::BuiltFor>;
