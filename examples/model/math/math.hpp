// SPDX-License-Identifier: Apache-2.0
// The loops over activations and logits that are worth vector instructions.
#pragma once

#include <cstdint>

namespace higgs::model {

/// out = x / rms(x) * gain; `out` may be `x`.
void rms_norm(const float* x, const float* gain, std::int64_t n, double epsilon, float* out) noexcept;

/// x = exp(x) / sum(exp(x)) over n values.
void softmax(float* x, std::int64_t n) noexcept;

/// out = gate / (1 + exp(-gate)) * up over n values; `out` may be `gate`.
void swiglu(const float* gate, const float* up, std::int64_t n, float* out) noexcept;

/// log(sum(exp(x))) over n values.
double log_sum_exp(const float* x, std::int64_t n) noexcept;

/// KL(p || q) of two distributions given by logits and by what log_sum_exp() says of them.
double kl_divergence(const float* p, double p_log_sum, const float* q, double q_log_sum,
                     std::int64_t n) noexcept;

/// The index of the first of n values that is NaN or infinite; -1 if all are finite. Fast enough to be asked always.
std::int64_t find_not_finite(const float* x, std::int64_t n) noexcept;

}  // namespace higgs::model
