// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/half.hpp>
#include <higgs/cpu/isas.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

TEST_CASE("the best instruction set is one this machine reports", "[cpu][isas]") {
  const higgs::Isa isa = higgs::best_isa();
  CHECK(isa == higgs::best_isa());
  std::ifstream cpuinfo("/proc/cpuinfo");
  const std::string text((std::istreambuf_iterator<char>(cpuinfo)), {});
  const bool emulated = higgs::isa_includes(isa, higgs::Isa::Neon);  // the file is that of the host
  if (emulated || text.find("flags") == std::string::npos) {
    WARN("no x86 flags in /proc/cpuinfo: only consistency was checked");
    return;
  }
  const auto has = [&](const char* flag) { return text.find(std::string(" ") + flag) != std::string::npos; };
  CHECK(higgs::isa_includes(isa, higgs::Isa::Avx2) == (has("avx2") && has("fma")));
  CHECK(higgs::isa_includes(isa, higgs::Isa::Avx512) ==
        (has("avx512bw") && has("avx512_vnni") && has("avx512vbmi")));
}

TEST_CASE("a set that the machine lacks becomes the nearest set below it that the machine has",
          "[cpu][isas]") {
  using higgs::Isa;
  for (const Isa isa : {Isa::Portable, Isa::Avx2, Isa::AvxVnni, Isa::AvxVnniEvex, Isa::Avx512, Isa::Amx,
                        Isa::Neon, Isa::NeonDot, Isa::NeonI8mm}) {
    const Isa usable = higgs::usable_isa(isa);
    CHECK(higgs::usable_isa(usable) == usable);
    CHECK(higgs::isa_includes(usable, Isa::Portable));
    CHECK(higgs::cpu::dispatch(usable, []<class Set>(Set) { return Set::runs(); }));
    const bool here =
        higgs::cpu::dispatch(isa, [isa]<class Set>(Set) { return Set::isa == isa && Set::runs(); });
    CHECK(here == (usable == isa));
  }
  CHECK(higgs::usable_isa(higgs::best_isa()) == higgs::best_isa());
}

// A set as docs/howto-isa.md adds one: above the best of this architecture, with one kernel of its own.
namespace higgs::cpu {
#if defined(HIGGS_TARGET_BEGIN)
using Below = Amx;
#elif defined(HIGGS_NEON)
using Below = NeonI8mm;
#else
using Below = Portable;
#endif
struct Stub : Below {};
inline void flip_signs(Stub, float* x, std::size_t count, std::uint64_t, std::int64_t) noexcept {
  std::fill_n(x, count, 7.0f);
}
}  // namespace higgs::cpu

namespace {

// The kernel that the caller's dispatch would run for `set`.
template <class Set>
void flip(Set set, std::vector<float>& x) {
  flip_signs(set, x.data(), x.size(), 5, 0);
}

// Calls every kernel with `set` and compares the results with those of Portable.
template <class Set>
void run_each_kernel(Set set) {
  namespace cpu = higgs::cpu;
  const cpu::Portable portable;
  std::vector<float> x(192);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) - 50.0f;

  std::vector<higgs::Half> halves(x.begin(), x.end());
  std::vector<float> a(x.size()), b(x.size());
  to_floats(set, halves.data(), 190, a.data());
  to_floats(portable, halves.data(), 190, b.data());
  CHECK(a == b);
  for (const std::size_t count : {7u, 31u, 150u, 190u}) {
    load_signed(set, halves.data(), x.data(), count, 9, 70, a.data());
    load_signed(portable, halves.data(), x.data(), count, 9, 70, b.data());
  }
  CHECK(a == b);
  CHECK(strided_dot(set, x.data(), x.data(), 190) == strided_dot(portable, x.data(), x.data(), 190));
  for (const int order : {1, 4, 8, 16, 48, 64, 192}) {
    a = b = x;
    const float scale = 1.0f / std::sqrt(static_cast<float>(order));
    transform_blocks(set, a.data(), 192 / order, cpu::hadamard_shape(order), scale);
    transform_blocks(portable, b.data(), 192 / order, cpu::hadamard_shape(order), scale);
    CHECK(a == b);
  }

  std::int32_t best[cpu::search_batch], expected[cpu::search_batch];
  const cpu::PointRun<2>::Entry points[] = {{{0}, 0}, {{256 * 3}, -300}, {{256 * -2}, 40}};
  search_run(set, cpu::PointRun<2>{points, 3}, x.data(), best);
  search_run(portable, cpu::PointRun<2>{points, 3}, x.data(), expected);
  CHECK(std::equal(best, best + cpu::search_batch, expected));
}

}  // namespace

TEST_CASE("a set runs its own kernel, and else that of the nearest set below it", "[cpu][isas]") {
  std::vector<float> own(64, 1.0f), below(64, 1.0f);
  flip(higgs::cpu::Stub{}, own);
  CHECK(own == std::vector<float>(64, 7.0f));
  flip(higgs::cpu::Portable{}, below);
  CHECK(below[0] == (higgs::sign_bits(5, 0) % 2 == 0 ? 1.0f : -1.0f));
}

TEST_CASE("a set without kernels of its own runs every kernel of the library", "[cpu][isas]") {
  namespace cpu = higgs::cpu;
  cpu::dispatch(higgs::best_isa(), []<class Set>(Set) {
    struct Empty : Set {};
    run_each_kernel(Empty{});
  });
}
