// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include <algorithm>
#include <cstdio>

namespace emulator {

const char* name_of(Class c) {
  static constexpr std::array<const char*, class_count> names{
      "mma",          "matrix move", "shared load",  "shared store", "async copy", "global load",
      "global store", "atomic",      "shuffle",      "integer",      "floating",   "convert",
      "branch",       "sync",        "local memory", "move",         "parameter"};
  return names[static_cast<std::size_t>(c)];
}

Class class_of(std::string_view opcode) {
  const auto starts = [&](std::initializer_list<std::string_view> with) {
    return std::any_of(with.begin(), with.end(), [&](std::string_view w) { return opcode.starts_with(w); });
  };
  const auto has = [&](std::string_view part) { return opcode.find(part) != opcode.npos; };
  if (starts({"mma", "wgmma.mma"})) return Class::Mma;
  if (starts({"ldmatrix", "stmatrix", "movmatrix"})) return Class::MatrixMove;
  if (starts({"ld.param", "ld.const", "st.param"})) return Class::Parameter;
  if (starts({"ld.local", "st.local"})) return Class::LocalMemory;
  if (starts({"ld"})) return has(".shared") ? Class::SharedLoad : Class::GlobalLoad;
  if (starts({"st."})) return has(".shared") ? Class::SharedStore : Class::GlobalStore;
  if (starts({"cp.async.c", "cp.async.bulk"}) && has(".shared")) return Class::AsyncCopy;
  if (starts({"atom", "red."})) return Class::Atomic;
  if (starts({"shfl", "vote", "match", "redux", "elect", "activemask"})) return Class::Shuffle;
  if (starts({"bar", "cp.async", "fence", "membar", "createpolicy", "griddep", "nanosleep", "wgmma",
              "mbarrier"}))
    return Class::Sync;
  if (starts({"bra", "brx", "ret", "exit", "call", "trap"})) return Class::Branch;
  if (starts({"mov", "cvta"})) return Class::Move;
  const bool floats = has(".f16") || has(".bf16") || has(".f32") || has(".f64");
  if (!floats) return Class::Integer;
  return starts({"cvt"}) ? Class::Convert : Class::Floating;
}

Counters counters_of(const Grid& grid) {
  Counters sum;
  for (std::size_t k = 0; k < grid.tallies.size(); ++k) {
    const Tally& t = grid.tallies[k];
    if (t.executed == 0) continue;
    const Class c = class_of(grid.program->sources[k].opcode);
    const bool writes = c == Class::GlobalStore || c == Class::Atomic;
    sum.executed[static_cast<std::size_t>(c)] += t.executed;
    (writes ? sum.sectors_written : sum.sectors_read) += t.sectors;
    (writes ? sum.bytes_written : sum.bytes_read) += t.bytes;
    sum.shared_passes += t.passes;
    sum.shared_passes_ideal += t.passes_ideal;
  }
  return sum;
}

std::vector<Line> lines_of(const Grid& grid) {
  std::vector<Line> lines;
  for (std::size_t k = 0; k < grid.tallies.size(); ++k) {
    const Tally& t = grid.tallies[k];
    if (t.requests + t.shared_requests == 0) continue;
    const Source& s = grid.program->sources[k];
    lines.push_back({.source_line = s.source_line,
                     .text = s.text,
                     .requests = t.requests,
                     .sectors = t.sectors,
                     .bytes = t.bytes,
                     .shared_requests = t.shared_requests,
                     .passes = t.passes,
                     .passes_ideal = t.passes_ideal});
  }
  return lines;
}

std::string report_of(const Launch& launch, const std::vector<Line>& lines) {
  std::string text;
  char buffer[512];
  const auto add = [&](const char* format, auto... values) {
    std::snprintf(buffer, sizeof buffer, format, values...);
    text += buffer;
  };
  const auto number = [](std::uint64_t v) { return static_cast<unsigned long long>(v); };
  const Counters& c = launch.counters;
  add("%s <<<(%u,%u,%u), (%u,%u,%u), %zu>>>\n", launch.kernel.c_str(), launch.grid[0], launch.grid[1],
      launch.grid[2], launch.block[0], launch.block[1], launch.block[2], launch.shared_bytes);
  add("  warp instructions %llu, without moves and parameters %llu\n", number(c.instructions()),
      number(c.work()));
  add("  sectors read %llu, written %llu; shared passes %llu, without conflicts %llu\n ",
      number(c.sectors_read), number(c.sectors_written), number(c.shared_passes),
      number(c.shared_passes_ideal));
  for (std::size_t k = 0; k < class_count; ++k) {
    if (c.executed[k] > 0) add(" %s %llu", name_of(static_cast<Class>(k)), number(c.executed[k]));
  }
  text += '\n';
  for (const Line& l : lines) {
    if (l.passes > l.passes_ideal) {
      add("  line %d: %.2f passes instead of %.2f: %s\n", l.source_line,
          static_cast<double>(l.passes) / static_cast<double>(l.shared_requests),
          static_cast<double>(l.passes_ideal) / static_cast<double>(l.shared_requests), l.text.c_str());
    }
    if (l.sectors > 0 && 2 * l.bytes <= 32 * l.sectors) {
      add("  line %d: %.1f sectors a request, %.0f %% of them used: %s\n", l.source_line,
          static_cast<double>(l.sectors) / static_cast<double>(l.requests),
          100.0 * static_cast<double>(l.bytes) / static_cast<double>(32 * l.sectors), l.text.c_str());
    }
  }
  return text;
}

}  // namespace emulator
