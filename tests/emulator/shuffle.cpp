// SPDX-License-Identifier: Apache-2.0
// Instructions by which the lanes of a warp talk: shfl, vote, match, elect, bar.warp.sync. redux is beside the atomics.
#include "instructions.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

enum Direction : u8 { Up, Down, Butterfly, Index };
void shuffle(Warp& w, const Instruction& i) {  // d[|p], a, b, c, members
  if (w.active == 0 || !gather(w, named_lanes(w, i[4]))) return;
  const u32* a = lanes<u32>(w, i[1]);
  const u32* b = lanes<u32>(w, i[2]);
  const u32* c = lanes<u32>(w, i[3]);
  u32 result[warp_size], in_range = 0;
  for_lanes(w.active, [&](int lane) {
    const u32 l = static_cast<u32>(lane), segment = c[lane] >> 8 & 31, clamp = c[lane] & 31,
              by = b[lane] & 31;
    const u32 low = l & segment, limit = low | (clamp & ~segment);
    const u32 index = low | (by & ~segment);
    const u32 from = i.mode == Up ? l - by : i.mode == Down ? l + by : i.mode == Butterfly ? l ^ by : index;
    const bool ok = i.mode == Up ? static_cast<s32>(from) >= static_cast<s32>(limit) : from <= limit;
    // An inactive source is undefined on a GPU.
    result[lane] = a[ok && (w.active >> from & 1) != 0 ? from : l];
    in_range |= (ok ? 1u : 0u) << l;
  });
  if (i.x[0].kind != Operand::Kind::Sink) {
    u32* d = lanes<u32>(w, i.x[0]);
    for_lanes(w.active, [&](int l) { d[l] = result[l]; });
  }
  if (i.size[0] == 2) set_predicate(w, i.x[1], in_range);
}

enum Vote : u8 { All, Any, Uniform, Ballot };
void vote(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  const u32 named = named_lanes(w, i[2]);
  if (!gather(w, named)) return;
  const u32 all = w.active & named, yes = predicate_value(w, i[1]) & all;
  if (i.mode == Ballot) {
    u32* d = lanes<u32>(w, i.x[0]);
    for_lanes(w.active, [=](int l) { d[l] = yes; });
    return;
  }
  const bool result = i.mode == All ? yes == all : i.mode == Any ? yes != 0 : yes == all || yes == 0;
  set_predicate(w, i.x[0], result ? ~0u : 0u);
}

void match(Warp& w, const Instruction& i) {  // flag: match.all
  if (w.active == 0) return;
  const u32 named = named_lanes(w, i[2]);
  if (!gather(w, named)) return;
  const u32 all = w.active & named;
  u32 equal[warp_size];
  bool same = true;
  for_lanes(all, [&](int l) {
    equal[l] = 0;
    for_lanes(all, [&](int k) { equal[l] |= (get(w, i[1], k) == get(w, i[1], l) ? 1u : 0u) << k; });
    same = same && equal[l] == all;
  });
  u32* d = lanes<u32>(w, i.x[0]);
  for_lanes(all, [&](int l) { d[l] = !i.flag ? equal[l] : same ? all : 0; });
  if (i.size[0] == 2) set_predicate(w, i.x[1], same ? ~0u : 0u);
}

void elect(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  const u32 named = named_lanes(w, i[1]);
  if (!gather(w, named)) return;
  const auto leader = static_cast<u32>(std::countr_zero(w.active & named));
  for_lanes(w.active, [&](int l) { set(w, i.x[0], l, leader); });
  if (i.size[0] == 2) set_predicate(w, i.x[1], 1u << leader);
}
void active_mask(Warp& w, const Instruction& i) {
  for_lanes(w.active, [&](int l) { set(w, i.x[0], l, w.mask); });
}
void warp_barrier(Warp& w, const Instruction& i) {
  if (w.active != 0) gather(w, named_lanes(w, i[0]));
}

}  // namespace

Execute find_shuffle(const Mnemonic& m, Instruction& i) {
  if (m.op == "shfl" && m.has("sync")) {
    i.mode = m.has("up") ? Up : m.has("down") ? Down : m.has("bfly") ? Butterfly : Index;
    return shuffle;
  }
  if (m.op == "vote" && m.has("sync")) {
    i.mode = m.has("all") ? All : m.has("any") ? Any : m.has("uni") ? Uniform : Ballot;
    return vote;
  }
  if (m.op == "match") {
    i.flag = m.has("all");
    return match;
  }
  if (m.op == "elect") return elect;
  if (m.op == "activemask") return active_mask;
  return (m.op == "bar" || m.op == "barrier") && m.has("warp") ? warp_barrier : nullptr;
}

}  // namespace emulator
