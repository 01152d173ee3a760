// SPDX-License-Identifier: Apache-2.0
// Repacking a matrix beyond the caches into tiles, beside copying its bytes.
#include <higgs/pack/packed_layout.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

namespace {

void repack(benchmark::State& state, int code_bits, int unit_bits) {
  const higgs::PackedLayout layout{.rows = 4096,
                                 .groups = 8,
                                 .codes_per_group = 2048,
                                 .code_bits = code_bits,
                                 .unit_bits = unit_bits,
                                 .codes_per_unit = unit_bits == code_bits ? 1 : 2};
  const auto row_bytes = static_cast<std::int64_t>(
      higgs::packed_bytes(static_cast<std::size_t>(8 * layout.codes_per_group), code_bits));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(layout.rows * row_bytes), 0x5a),
      tiles(static_cast<std::size_t>(layout.bytes()), 1);
  const std::vector<higgs::Half> scales(static_cast<std::size_t>(layout.rows * layout.groups));
  higgs::SerialExecutor serial;
  double copied = 0;
  for (auto _ : state) {
    higgs::pack_panels(layout, codes, row_bytes, scales, tiles, serial);
    benchmark::ClobberMemory();
    state.PauseTiming();
    const auto begin = std::chrono::steady_clock::now();
    std::memcpy(tiles.data(), codes.data(), codes.size());
    benchmark::ClobberMemory();
    copied += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(codes.size()));
  state.counters["copy_seconds"] = copied / static_cast<double>(state.iterations());
}

const int registered = [] {
  const struct {
    int code_bits, unit_bits;
  } orders[] = {{2, 4}, {3, 6}, {4, 4}, {6, 6}, {8, 8}, {16, 16}};
  for (const auto& [code_bits, unit_bits] : orders)
    benchmark::RegisterBenchmark(
        ("pack/packed_layout/cpu/" + std::to_string(code_bits) + "_bits/4096x8x2048").c_str(),
        [code_bits = code_bits, unit_bits = unit_bits](benchmark::State& state) {
          repack(state, code_bits, unit_bits);
        })
        ->Unit(benchmark::kMicrosecond);
  return 0;
}();

}  // namespace
