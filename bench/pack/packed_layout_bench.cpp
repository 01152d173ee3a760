// SPDX-License-Identifier: Apache-2.0
// Repacking a matrix larger than the caches into panels, beside copying its bytes.
#include <higgs/codes/e8/packed.hpp>
#include <higgs/cpu/isas.hpp>
#include <higgs/pack/packed_layout.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

namespace {

template <class Format>
void repack(benchmark::State& state, int symbol_bits, int per_index) {
  const higgs::PackedLayout layout{.rows = 4096,
                                   .groups = 8,
                                   .group = 2048 / per_index * Format::dim,
                                   .step_bytes = Format::step_bytes,
                                   .step_inputs = Format::step_inputs};
  constexpr std::int64_t symbols = 2048;
  std::vector<std::uint8_t> codes(
      static_cast<std::size_t>(layout.rows) * higgs::packed_bytes(8 * symbols, symbol_bits), 0x5a),
      packed(static_cast<std::size_t>(layout.bytes()), 1);
  const std::vector<higgs::Half> scales(static_cast<std::size_t>(layout.rows * layout.groups));
  higgs::SerialExecutor serial;
  const auto pack_group = [per_index](const higgs::CodedGroup& group, auto... lane) {
    Format::pack_group(group, per_index, lane...);
  };
  double copied = 0;
  for (auto _ : state) {
    higgs::pack_panels(layout, codes, symbols, symbol_bits, scales, packed, pack_group, serial);
    benchmark::ClobberMemory();
    state.PauseTiming();
    const auto begin = std::chrono::steady_clock::now();
    std::memcpy(packed.data(), codes.data(), codes.size());
    benchmark::ClobberMemory();
    copied += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(codes.size()));
  state.counters["copy_seconds"] = copied / static_cast<double>(state.iterations());
}

template <class Format>
void add(int symbol_bits, int per_index = 1) {
  benchmark::RegisterBenchmark(
      ("pack/packed_layout/cpu/" + std::to_string(symbol_bits) + "_bits/4096x8x2048").c_str(),
      [=](benchmark::State& state) { repack<Format>(state, symbol_bits, per_index); })
      ->Unit(benchmark::kMicrosecond);
}

const int registered = [] {
  add<higgs::cpu::Lut<4, 2>>(2, 2);
  add<higgs::cpu::Lut<6, 2>>(3, 2);
  add<higgs::cpu::Lut<4, 1>>(4);
  add<higgs::cpu::Lut<6, 2>>(6);
  add<higgs::cpu::Lut<8, 2>>(8);
  add<higgs::cpu::E8Format>(16);
  return 0;
}();

}  // namespace
