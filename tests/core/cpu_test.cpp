// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/cpu.hpp>

#include <catch2/catch.hpp>

#include <fstream>
#include <string>

TEST_CASE("the best instruction set is one this machine reports", "[core][cpu]") {
  const higgs::Isa isa = higgs::best_isa();
  CHECK(isa == higgs::best_isa());
  std::ifstream cpuinfo("/proc/cpuinfo");
  const std::string text((std::istreambuf_iterator<char>(cpuinfo)), {});
  if (text.find("flags") == std::string::npos) {
    WARN("no x86 flags in /proc/cpuinfo: only consistency was checked");
    return;
  }
  const auto has = [&](const char* flag) { return text.find(std::string(" ") + flag) != std::string::npos; };
  CHECK((isa >= higgs::Isa::Avx2) == (has("avx2") && has("fma")));
  CHECK((isa >= higgs::Isa::Avx512) == (has("avx512bw") && has("avx512_vnni") && has("avx512vbmi")));
}
