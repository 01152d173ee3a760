// SPDX-License-Identifier: Apache-2.0
#include "races.hpp"

#include <algorithm>

namespace emulator {
namespace {

void raise(std::vector<u32>& to, const std::vector<u32>& from) {
  to.resize(std::max(to.size(), from.size()));
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}

}  // namespace

void Clock::join(const Clock& other) {
  for (const auto& [block, times] : other.times_of_) raise(times_of_[block], times);
}
void Clock::set(u32 block, const std::vector<u32>& times) { times_of_[block] = times; }

void WarpClock::start(u32 block_number, u32 index_in_block, u32 warps) {
  *this = WarpClock{};
  block = block_number;
  index = index_in_block;
  own.assign(warps, 0);
  own[index] = 1;
}

void WarpClock::join(const WarpClock& other) {
  raise(own, other.own);
  foreign.join(other.foreign);
  released.join(other.released);
  pending.join(other.pending);
}

void WarpClock::fence() {
  if (own.empty()) return;  // races are not checked
  foreign.join(pending);
  pending.clear();
  released.join(foreign);
  released.set(block, own);
  ++own[index];
}

bool WarpClock::knows(Stamp s) const {
  if (s.nobody()) return true;
  const auto warps = static_cast<u32>(own.size());
  const u32 its_block = s.warp() / warps, its_index = s.warp() % warps;
  if (its_block != block) return foreign.time(its_block, its_index) >= s.time();
  return its_index == index || own[its_index] >= s.time();
}

const char* name_of(Race r) {
  switch (r) {
    case Race::ReadAfterWrite:
      return "read after unordered write";
    case Race::WriteAfterWrite:
      return "write after unordered write";
    case Race::WriteAfterRead:
      return "write after unordered read";
    case Race::Uninitialised:
      return "read of uninitialised shared memory";
    default:
      return "no race";
  }
}

Race note_access(const WarpClock& w, Shadow* s, u32 bytes, bool write, bool atomic) {
  Race found = Race::None;
  const Stamp me = w.stamp(atomic);
  for (const Shadow* end = s + bytes; s != end; ++s) {
    const auto conflicts = [&](Stamp other) { return !(atomic && other.atomic()) && !w.knows(other); };
    if (conflicts(s->write)) found = write ? Race::WriteAfterWrite : Race::ReadAfterWrite;
    if (write) {
      if (conflicts(s->read) || conflicts(s->other_read)) found = Race::WriteAfterRead;
      *s = {.write = me, .read = {}, .other_read = {}};
    } else {
      if (!s->read.nobody() && s->read.warp() != me.warp()) s->other_read = s->read;
      s->read = me;
    }
  }
  return found;
}

Race GlobalShadow::note(const WarpClock& w, u64 address, u32 bytes, bool write, bool atomic) {
  auto& page = pages_[address / page_bytes];
  if (!page) page = std::make_unique<std::array<Shadow, page_bytes>>();
  return note_access(w, page->data() + address % page_bytes, bytes, write, atomic);
}

void GlobalShadow::acquire(WarpClock& w, u64 address) {
  const auto found = released_at_.find(address);
  if (found != released_at_.end()) w.pending.join(found->second);
}

}  // namespace emulator
