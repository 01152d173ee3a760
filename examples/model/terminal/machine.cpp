// SPDX-License-Identifier: Apache-2.0
#include "terminal/machine.hpp"

#include <fstream>
#include <string>

#if __has_include(<sys/resource.h>)
#  include <sys/resource.h>
#endif

namespace higgs::model {

std::optional<std::int64_t> free_memory() {
  std::ifstream in("/proc/meminfo");
  for (std::string key; in >> key;) {
    std::int64_t kib = 0;
    if (key == "MemAvailable:" && in >> kib) return kib * 1024;
    std::getline(in, key);
  }
  return {};
}

std::optional<std::int64_t> peak_memory() {
#if __has_include(<sys/resource.h>)
  struct rusage usage = {};
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return {};
#  if defined(__APPLE__)
  return usage.ru_maxrss;
#  else
  return std::int64_t{usage.ru_maxrss} * 1024;
#  endif
#else
  return {};
#endif
}

}  // namespace higgs::model
