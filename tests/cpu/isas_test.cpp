// SPDX-License-Identifier: Apache-2.0
#include <higgs/cpu/isas.hpp>

#include <catch2/catch.hpp>

#include <fstream>
#include <string>

TEST_CASE("the best instruction set is one this machine reports", "[cpu][isas]") {
  const higgs::Isa isa = higgs::best_isa();
  CHECK(isa == higgs::best_isa());
  std::ifstream cpuinfo("/proc/cpuinfo");
  const std::string text((std::istreambuf_iterator<char>(cpuinfo)), {});
  if (text.find("flags") == std::string::npos) {
    WARN("no x86 flags in /proc/cpuinfo: only consistency was checked");
    return;
  }
  const auto has = [&](const char* flag) { return text.find(std::string(" ") + flag) != std::string::npos; };
  CHECK(higgs::isa_includes(isa, higgs::Isa::Avx2) == (has("avx2") && has("fma")));
  CHECK(higgs::isa_includes(isa, higgs::Isa::Avx512) == (has("avx512bw") && has("avx512_vnni") && has("avx512vbmi")));
}

TEST_CASE("a set that the machine lacks becomes the nearest set below it that the machine has", "[cpu][isas]") {
  using higgs::Isa;
  for (const Isa isa : {Isa::Portable, Isa::Avx2, Isa::AvxVnni, Isa::AvxVnniEvex, Isa::Avx512, Isa::Amx, Isa::Neon,
                        Isa::NeonDot, Isa::NeonI8mm}) {
    const Isa usable = higgs::usable_isa(isa);
    CHECK(higgs::usable_isa(usable) == usable);
    CHECK(higgs::isa_includes(usable, Isa::Portable));
    CHECK(higgs::cpu::dispatch(usable, []<class Set>(Set) { return Set::runs(); }));
    const bool here = higgs::cpu::dispatch(isa, [isa]<class Set>(Set) { return Set::isa == isa && Set::runs(); });
    CHECK(here == (usable == isa));
  }
  CHECK(higgs::usable_isa(higgs::best_isa()) == higgs::best_isa());
}

TEST_CASE("the choice takes the kernel of the set, or that of the nearest set below it", "[cpu][isas]") {
  struct Own : higgs::cpu::Portable {};
  struct Kernel {
    static int run(higgs::cpu::Portable) { return 1; }
    static int run(Own) { return 2; }
  };
  struct Derived : Own {};
  CHECK(Kernel::run(higgs::cpu::Portable{}) == 1);
  CHECK(Kernel::run(Derived{}) == 2);
}
