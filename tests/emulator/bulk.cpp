// SPDX-License-Identifier: Apache-2.0
// mbarrier, cp.async.bulk and the fences of the async proxy. A bulk copy lands when no warp can go on without it.
#include <cstring>

#include "instructions.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

// ---- mbarrier
u32 lowest_lane(const Warp& w) { return static_cast<u32>(std::countr_zero(w.active)); }

// The address that all active lanes name.
u32 barrier_address(Warp& w, const Instruction& i, const Operand& where) {
  const int first = static_cast<int>(lowest_lane(w));
  u64 a = address(w, where, first);
  resolve(Space::Generic, a);
  for_lanes(w.active, [&](int l) {
    u64 mine = address(w, where, l);
    resolve(Space::Generic, mine);
    if (mine != a) fail_at(w, i, l, "lanes name different mbarriers");
  });
  locate(w, i, Space::Shared, a, 8, first);
  return static_cast<u32>(a);
}
SharedBarrier& barrier_at(Warp& w, const Instruction& i, u32 address) {
  const auto found = w.block->shared_barriers.find(address);
  if (found == w.block->shared_barriers.end())
    fail_at(w, i, -1, "no mbarrier at shared address " + std::to_string(address));
  note_shared(*w.block, w.clock, i, address, 8, false, true);
  return found->second;
}
// Ends the phase if nothing is missing, and wakes who waits for it.
void end_phase(Block& block, u32 address, SharedBarrier& b) {
  if (b.pending != 0 || b.bytes != 0) return;
  ++b.phase;
  b.pending = b.threads;
  b.ended = b.arrived;
  b.arrived = {};
  for (Warp& w : block.warps) {
    for (Fragment& f : w.fragments) {
      if (f.awaited != address + 1) continue;
      f.blocked = false;
      f.awaited = 0;
    }
  }
}
void join(WarpClock& to, const WarpClock& from) {
  to.own.resize(from.own.size());
  to.join(from);
}

void begin(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  const u32 at = barrier_address(w, i, i[0]);
  const u64 addresses[warp_size] = {at};
  Block& block = *w.block;
  note_shared(block, w.clock, i, at, 8, true);
  if (!block.ordinary_writes.empty())
    block.ordinary_writes[addresses[0] / 16] = {w.index + 1, w.proxy_fences};
  const auto threads = static_cast<u32>(get(w, i[1], static_cast<int>(lowest_lane(w))));
  if (threads == 0) fail_at(w, i, -1, "an mbarrier for no threads");
  block.shared_barriers[at] = {
      .threads = threads, .pending = threads, .bytes = 0, .phase = 0, .arrived = {}, .ended = {}};
}
void end(Warp& w, const Instruction& i) {  // mbarrier.inval
  if (w.active == 0) return;
  const u32 at = barrier_address(w, i, i[0]);
  barrier_at(w, i, at);
  w.block->shared_barriers.erase(at);
}

// mode: 1 arrives, 2 announces bytes, 3 does both
void arrive(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  const int where = i.mode == 2 ? 0 : 1;
  const u32 at = barrier_address(w, i, i[where]);
  SharedBarrier& b = barrier_at(w, i, at);
  if ((i.mode & 2) != 0)
    for_lanes(w.active, [&](int l) { b.bytes += static_cast<s64>(get(w, i[where + 1], l)); });
  if ((i.mode & 1) == 0) return;
  const u32 count = static_cast<u32>(std::popcount(w.active));
  if (count > b.pending) fail_at(w, i, -1, "more threads arrive at an mbarrier than it expects");
  b.pending -= count;
  if (w.block->grid->options->check_races) {
    join(b.arrived, w.clock);
    ++w.clock.own[w.index];
  }
  end_phase(*w.block, at, b);
}
void wait(Warp& w, const Instruction& i) {  // done, address, parity
  if (w.active == 0) return;
  const u32 at = barrier_address(w, i, i[1]);
  const SharedBarrier& b = barrier_at(w, i, at);
  const u64 parity = get(w, i[2], static_cast<int>(lowest_lane(w)));
  for_lanes(w.active, [&](int l) {
    if (get(w, i[2], l) != parity) fail_at(w, i, l, "lanes wait for different phases");
  });
  if ((b.phase & 1) == parity) {  // the phase of this parity is under way
    w.fragment().blocked = true;
    w.fragment().awaited = at + 1;
    w.stop = true;
    --w.pc;
    return;
  }
  if (w.block->grid->options->check_races) w.clock.join(b.ended);
  set_predicate(w, i.x[0], ~0u);
}

// ---- bulk copies
u32 checked_bytes(Warp& w, const Instruction& i, const Operand& o, u64 from, int lane) {
  const auto bytes = static_cast<u32>(get(w, o, lane));
  if (bytes % 16 != 0 || from % 16 != 0) fail_at(w, i, lane, "a bulk copy of parts of 16 bytes");
  Range*& range = w.block->last_range;
  if (range == nullptr || !range->holds(from, bytes)) range = w.block->grid->memory->find(from, bytes);
  if (range == nullptr) fail_at(w, i, lane, "a bulk copy from outside every allocation");
  return bytes;
}
void count_copy(Warp& w, const Instruction& i, u32 bytes, u32 passes) {
  Grid& g = *w.block->grid;
  if (!g.options->count) return;
  Tally& t = g.tallies[i.pc];
  ++t.requests;
  t.sectors += bytes / 32;
  t.bytes += bytes;
  t.shared_requests += passes != 0 ? 1 : 0;
  t.passes += passes;
  t.passes_ideal += passes;
  w.block->last_range->sectors_read += bytes / 32;
}
void copy(Warp& w, const Instruction& i) {  // to, from, bytes, mbarrier
  for_lanes(w.active, [&](int l) {
    const u64 from = address(w, i[1], l);
    const u32 bytes = checked_bytes(w, i, i[2], from, l);
    u64 to = address(w, i[0], l), at = address(w, i[3], l);
    resolve(Space::Generic, to);
    resolve(Space::Generic, at);
    if (to % 16 != 0) fail_at(w, i, l, "a bulk copy to a misaligned address");
    if (to < w.program->reserved_shared_bytes || to + bytes > w.block->shared.size())
      fail_at(w, i, l, "a bulk copy beyond shared memory");
    locate(w, i, Space::Shared, at, 8, l);
    barrier_at(w, i, static_cast<u32>(at));
    check_proxy(w, i, at, 8);
    count_copy(w, i, bytes, (bytes + 127) / 128);
    if (w.block->grid->options->check_races) {
      for (u64 a = from; a < from + bytes; a += 16)
        record_race(*w.block, i, w.block->grid->shadow.note(w.clock, a, 16, false, false));
    }
    w.block->bulk_copies.push_back({.instruction = &i,
                                    .from = from,
                                    .to = static_cast<u32>(to),
                                    .bytes = bytes,
                                    .barrier = static_cast<u32>(at),
                                    .clock = w.clock});
    if (w.block->grid->options->check_races) ++w.clock.own[w.index];
  });
}
void prefetch(Warp& w, const Instruction& i) {  // from, bytes
  for_lanes(w.active, [&](int l) {
    const u64 from = address(w, i[0], l);
    checked_bytes(w, i, i[1], from, l);
  });
}

void fence(Warp& w, const Instruction&) {
  if (w.active != 0) ++w.proxy_fences;
}

}  // namespace

bool land_bulk_copy(Block& b) {
  if (b.bulk_copies.empty()) return false;
  const bool in_order = b.grid->options->seed == 0;
  const std::size_t which = in_order ? 0 : b.random() % b.bulk_copies.size();
  const BulkCopy copy = b.bulk_copies[which];
  b.bulk_copies.erase(b.bulk_copies.begin() + static_cast<std::ptrdiff_t>(which));
  std::memcpy(b.shared.data() + copy.to, reinterpret_cast<const void*>(copy.from), copy.bytes);
  note_shared(b, copy.clock, *copy.instruction, copy.to, copy.bytes, true);
  for (u32 at = copy.to / 16; at < (copy.to + copy.bytes) / 16; ++at) b.ordinary_writes[at] = {};
  SharedBarrier& barrier = b.shared_barriers[copy.barrier];
  barrier.bytes -= copy.bytes;
  if (b.grid->options->check_races) join(barrier.arrived, copy.clock);
  end_phase(b, copy.barrier, barrier);
  return true;
}

void check_proxy(Warp& w, const Instruction& i, u64 address, u32 bytes) {
  const Block& b = *w.block;
  for (u64 at = address / 16; at <= (address + bytes - 1) / 16; ++at) {
    const OrdinaryWrite& last = b.ordinary_writes[at];
    if (last.warp == 0 || b.warps[last.warp - 1].proxy_fences > last.fences) continue;
    fail_at(w, i, -1,
            "shared address " + std::to_string(at * 16) + " was written without fence.proxy.async behind it");
  }
}

Execute find_bulk(const Mnemonic& m, Instruction& i) {
  if (m.op == "fence" && (m.has("proxy") || m.has("mbarrier_init")))
    return m.has("mbarrier_init") || m.has("async") ? fence : execute_unsupported;
  if (m.op == "cp" && m.has("bulk")) {
    if (m.has("prefetch") && m.has("L2")) return prefetch;
    return m.has("global") && m.has("mbarrier::complete_tx::bytes") && !m.has("tensor") ? copy
                                                                                        : execute_unsupported;
  }
  if (m.op != "mbarrier") return nullptr;
  if (m.has("init")) return begin;
  if (m.has("inval")) return end;
  if (m.has("expect_tx") || m.has("arrive")) {
    i.mode = static_cast<u8>((m.has("arrive") ? 1 : 0) | (m.has("expect_tx") ? 2 : 0));
    const bool counts = i.mode == 1 && i.operands > 2;
    return counts || (i.mode != 2 && i.x[0].kind != Operand::Kind::Sink) ? execute_unsupported : arrive;
  }
  return (m.has("try_wait") || m.has("test_wait")) && m.has("parity") && i.operands == 3
             ? wait
             : execute_unsupported;
}

}  // namespace emulator
