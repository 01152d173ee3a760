// SPDX-License-Identifier: Apache-2.0
// What ptxas must make of encoding window codes: registers for four blocks of 128 threads, all points and costs in
// them, costs of other states by 128 bits.
#include <higgs/quantizer.cuh>

namespace gpu = higgs::gpu;

// plan: encode_chains_kernel: bar == 1; lds128 >= 1
// plan: encode_chains_kernel<.*WindowSearch<[2-8]>.*>: registers <= 128
template <int K>
constexpr auto* encode = gpu::detail::encode_chains_kernel<gpu::WindowSearch<K>>;
// plan: encode_chains_kernel<.*WindowSearch<2>.*>: lds128 <= 12
[[maybe_unused]] auto* const encode_2 = encode<2>;
[[maybe_unused]] auto* const encode_3 = encode<3>;
// plan: encode_chains_kernel<.*WindowSearch<4>.*>: lds128 <= 68
[[maybe_unused]] auto* const encode_4 = encode<4>;
[[maybe_unused]] auto* const encode_5 = encode<5>;
[[maybe_unused]] auto* const encode_6 = encode<6>;
[[maybe_unused]] auto* const encode_7 = encode<7>;
[[maybe_unused]] auto* const encode_8 = encode<8>;
[[maybe_unused]] auto* const encode_9 = encode<9>;
[[maybe_unused]] auto* const encode_10 = encode<10>;
