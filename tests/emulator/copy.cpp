// SPDX-License-Identifier: Apache-2.0
// cp.async. A copy lands when the program waits for it and not before: a wait that is too weak gives wrong data.
#include <cstring>

#include "instructions.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

// cp.async [to], [from], bytes {, source bytes or a predicate that ignores the source}
void copy(Warp& w, const Instruction& i) {
  const auto bytes = static_cast<u32>(i[2].value);
  u64 to[warp_size], from[warp_size];
  u32 reading = 0;
  for_lanes(w.active, [&](int l) {
    to[l] = address(w, i[0], l);
    from[l] = address(w, i[1], l);
    locate(w, i, Space::Shared, to[l], bytes, l);
    u32 source_bytes = bytes;
    if (i.operands > 3 && i[3].kind == Operand::Kind::Pred) {
      source_bytes = (predicate_value(w, i[3]) >> l & 1) != 0 ? 0 : bytes;
    } else if (i.operands > 3) {
      source_bytes = std::min(bytes, static_cast<u32>(get(w, i[3], l)));
    }
    if (source_bytes > 0) {
      reading |= 1u << l;
      if ((from[l] & (bytes - 1)) != 0) fail_at(w, i, l, "cp.async from a misaligned address");
      Range*& range = w.block->last_range;
      if (range == nullptr || !range->holds(from[l], source_bytes)) {
        range = w.block->grid->memory->find(from[l], source_bytes);
      }
      if (range == nullptr) fail_at(w, i, l, "cp.async from outside every allocation");
    }
    AsyncCopies& c = w.copies[static_cast<std::size_t>(l)];
    c.queue.push_back({.from = from[l],
                       .to = static_cast<u32>(to[l]),
                       .bytes = bytes,
                       .source_bytes = source_bytes,
                       .group = c.group});
  });
  account(w, i, Space::Global, from, reading, bytes, Access::Read);
  account(w, i, Space::Shared, to, w.active, bytes, Access::Write);
}
void close_group(Warp& w, const Instruction&) {
  for_lanes(w.active, [&](int l) { ++w.copies[static_cast<std::size_t>(l)].group; });
}
void wait(Warp& w, const Instruction& i) {  // flag: for all
  const u32 open = i.flag ? 0 : static_cast<u32>(i[0].value);
  for_lanes(w.active, [&](int l) {
    const u32 group = w.copies[static_cast<std::size_t>(l)].group;
    finish_copies(w, l, i.flag ? ~0u : group > open ? group - open : 0);
  });
}
void create_policy(Warp& w, const Instruction& i) {  // a hint to the cache
  for_lanes(w.active, [&](int l) { set(w, i.x[0], l, 0); });
}

}  // namespace

void finish_copies(Warp& w, int lane, u32 limit) {
  AsyncCopies& c = w.copies[static_cast<std::size_t>(lane)];
  for (; c.done < c.queue.size() && c.queue[c.done].group < limit; ++c.done) {
    const AsyncCopies::Copy& copy = c.queue[c.done];
    u8* to = w.block->shared.data() + copy.to;
    std::memcpy(to, reinterpret_cast<const void*>(copy.from), copy.source_bytes);
    std::memset(to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  }
  if (c.done == c.queue.size()) c.queue.clear(), c.done = 0;
}

Execute find_copy(const Mnemonic& m, Instruction& i) {
  if (m.op == "createpolicy") return create_policy;
  if (m.op != "cp" || m.parts.size() < 2 || m.parts[0] != "async") return nullptr;
  if (m.has("commit_group")) return close_group;
  if (m.has("wait_group")) return wait;
  if (m.has("wait_all")) {
    i.flag = true;
    return wait;
  }
  if (!m.has("ca") && !m.has("cg")) return nullptr;
  if (m.has("L2::cache_hint")) --i.operands;
  return copy;
}

}  // namespace emulator
