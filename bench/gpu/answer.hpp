// SPDX-License-Identifier: Apache-2.0
// Lines that bench/gpu/native.sh takes to its summary.
#pragma once
#include <cstdarg>
#include <cstdio>

namespace bench {

/// Prints "= question | predicted | " and what was measured, formatted as printf does.
[[gnu::format(printf, 3, 4)]] inline void answer(const char* question, const char* predicted,
                                                 const char* measured, ...) {
  std::printf("= %s | %s | ", question, predicted);
  std::va_list numbers;
  va_start(numbers, measured);
  std::vprintf(measured, numbers);
  va_end(numbers);
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace bench
