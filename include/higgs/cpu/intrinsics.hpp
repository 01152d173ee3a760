// SPDX-License-Identifier: Apache-2.0
// The compiler's intrinsics, for kernels.
#pragma once

#include <higgs/cpu/targets.hpp>

#if defined(HIGGS_TARGET_BEGIN)
#  include <immintrin.h>
#elif defined(HIGGS_NEON)
#  include <arm_neon.h>
#endif
