// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of quantizing: points read by 128 bits and shared by the vectors of a batch, registers
// for four blocks of 128 threads and more.
#include <higgs/quantizer.cuh>

namespace gpu = higgs::gpu;

// plan: load_rows_kernel: registers <= 32
[[maybe_unused]] auto* const load_rows = gpu::detail::load_rows_kernel<higgs::Half>;
// plan: pack_bits_kernel: registers <= 40
[[maybe_unused]] auto* const pack_bits = gpu::detail::pack_bits_kernel<std::uint8_t>;
// plan: column_statistics_kernel: registers <= 48
[[maybe_unused]] auto* const column_statistics = gpu::detail::column_statistics_kernel<higgs::Half>;
// plan: encode_groups_kernel: bar == 1; ldg64 == 0
// plan: encode_groups_kernel<.*PointSearch<2>.*>: registers <= 80; lds128 >= 1
[[maybe_unused]] auto* const encode_2 =
    gpu::detail::encode_groups_kernel<gpu::PointSearch<2>, true, std::uint8_t>;
// plan: encode_groups_kernel<.*PointSearch<4>.*>: registers <= 96; lds128 >= 2
[[maybe_unused]] auto* const encode_4 =
    gpu::detail::encode_groups_kernel<gpu::PointSearch<4>, true, std::uint8_t>;
// plan: encode_groups_kernel<.*LineSearch.*>: registers <= 80
[[maybe_unused]] auto* const encode_line =
    gpu::detail::encode_groups_kernel<gpu::LineSearch, true, std::uint8_t>;
// plan: encode_groups_kernel<.*E8PatternSearch.*>: registers <= 128; lds128 >= 2
[[maybe_unused]] auto* const encode_e8 =
    gpu::detail::encode_groups_kernel<gpu::E8PatternSearch, true, std::uint16_t>;
