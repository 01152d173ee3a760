// SPDX-License-Identifier: Apache-2.0
#include "warp.hpp"

#include <algorithm>
#include <cstring>

namespace emulator {
namespace {

// An access is aligned and at most 32 bytes, so it lies in one sector.
u32 count_sectors(const u64* addresses, u32 mask) {
  u64 sectors[warp_size];
  u32 count = 0;
  for (u32 m = mask; m != 0; m &= m - 1) {
    const u64 sector = addresses[std::countr_zero(m)] / 32;
    if (count == 0 || sectors[count - 1] != sector) sectors[count++] = sector;
  }
  if (std::is_sorted(sectors, sectors + count)) return count;
  std::sort(sectors, sectors + count);
  return static_cast<u32>(std::unique(sectors, sectors + count) - sectors);
}

u32 most_words_of_a_bank(const u64* addresses, u32 members, u32 words) {
  u32 word_of[32][8], count[32] = {}, most = 1;
  for (u32 m = members; m != 0; m &= m - 1) {
    const u32 word = static_cast<u32>(addresses[std::countr_zero(m)] / 4);
    for (u32 k = word; k < word + words; ++k) {
      const u32 bank = k % 32, known = std::min(count[bank], 8u);
      if (std::find(word_of[bank], word_of[bank] + known, k) != word_of[bank] + known) continue;
      if (count[bank] < 8) word_of[bank][count[bank]] = k;
      most = std::max(most, ++count[bank]);
    }
  }
  return most;
}

struct Passes {
  u32 taken = 0, ideal = 0;
};
// Shared memory has 32 banks of 4 bytes. Accesses of 8 bytes go by half warps, of 16 by quarters; the same word of a
// bank is read once.
Passes count_passes(const u64* addresses, u32 mask, u32 bytes) {
  const u32 words = std::max(1u, bytes / 4);
  const int group = warp_size / static_cast<int>(words);
  Passes sum;
  for (int first = 0; first < warp_size; first += group) {
    const u32 members = (group == 32 ? ~0u : ((1u << group) - 1) << first) & mask;
    if (members == 0) continue;
    ++sum.ideal;
    u32 used = 0, twice = 0;  // the places of `words` banks
    for_lanes(members, [&](int l) {
      const u32 place = 1u << (addresses[l] / (4 * words) & static_cast<u32>(group - 1));
      twice |= used & place;
      used |= place;
    });
    sum.taken += twice == 0 ? 1 : most_words_of_a_bank(addresses, members, words);
  }
  return sum;
}
Race race_in_shared(Block& b, const WarpClock& clock, u64 address, u32 bytes, bool write, bool atomic) {
  Shadow* shadow = b.shared_shadow.data() + address;
  Race race = Race::None;
  if (!write && std::any_of(shadow, shadow + bytes, [](const Shadow& x) { return x.write.nobody(); }))
    race = Race::Uninitialised;
  const Race order = note_access(clock, shadow, bytes, write, atomic);
  return order != Race::None ? order : race;
}
void note_races(Warp& w, const Instruction& i, Space s, const u64* addresses, u32 mask, u32 bytes,
                Access access) {
  Block& b = *w.block;
  const bool writes = access == Access::Write || access == Access::AtomicWrite;
  const bool atomic = access == Access::AtomicRead || access == Access::AtomicWrite;
  Race found = Race::None;
  for_lanes(mask, [&](int l) {
    const Race race = s == Space::Global ? b.grid->shadow.note(w.clock, addresses[l], bytes, writes, atomic)
                                         : race_in_shared(b, w.clock, addresses[l], bytes, writes, atomic);
    if (race != Race::None) found = race;
  });
  record_race(b, i, found);
}
void note_ordinary_writes(Warp& w, const u64* addresses, u32 mask, u32 bytes) {
  Block& b = *w.block;
  for_lanes(mask, [&](int l) {
    for (u64 at = addresses[l] / 16; at <= (addresses[l] + bytes - 1) / 16; ++at)
      b.ordinary_writes[at] = {w.index + 1, w.proxy_fences};
  });
}

}  // namespace

void fail_at(const Warp& w, const Instruction& i, int lane, const std::string& what) {
  const Source& s = w.program->sources[i.pc];
  const Extent& b = w.block->id;
  fail(what + "\n  at PTX line " + std::to_string(s.line) + ", source line " + std::to_string(s.source_line) +
       ": " + s.text + "\n  block (" + std::to_string(b.x) + "," + std::to_string(b.y) + "," +
       std::to_string(b.z) + ") warp " + std::to_string(w.index) + " lane " + std::to_string(lane));
}

Space resolve(Space s, u64& address) {
  if (s != Space::Generic) return s;
  const u64 window = address & window_mask;
  if (window != shared_window && window != local_window) return Space::Global;
  address &= ~window_mask;
  return window == shared_window ? Space::Shared : Space::Local;
}

u8* locate(Warp& w, const Instruction& i, Space s, u64 address, u32 bytes, int lane) {
  if ((address & (bytes - 1)) != 0) fail_at(w, i, lane, "misaligned address " + std::to_string(address));
  Block& b = *w.block;
  switch (s) {
    case Space::Shared:
      if (address < w.program->reserved_shared_bytes)
        fail_at(w, i, lane, "shared address " + std::to_string(address) + " is CUDA's own");
      if (address + bytes <= b.shared.size()) return b.shared.data() + address;
      fail_at(w, i, lane,
              "shared address " + std::to_string(address) + " beyond " + std::to_string(b.shared.size()));
    case Space::Local:
      if (address + bytes > w.program->local_bytes) fail_at(w, i, lane, "local address out of range");
      return w.local + static_cast<std::size_t>(lane) * w.program->local_bytes + address;
    case Space::Param:
      return reinterpret_cast<u8*>(address);
    default:
      if (b.last_range == nullptr || !b.last_range->holds(address, bytes)) {
        b.last_range = b.grid->memory->find(address, bytes);
        if (b.last_range == nullptr) {
          fail_at(w, i, lane, "global address " + std::to_string(address) + " outside every allocation");
        }
      }
      return reinterpret_cast<u8*>(address);
  }
}

// A kernel that began before the launches in front ended must wait before it touches what they use.
void note_launch(Warp& w, const Instruction& i, Access access) {
  Grid& g = *w.block->grid;
  Range* range = w.block->last_range;
  if (range == nullptr) return;
  const bool writes = access == Access::Write || access == Access::AtomicWrite;
  const u64 before = writes ? range->last_access : range->last_write;
  if (g.may_run_since != 0 && !w.block->waited && before >= g.may_run_since && before < g.number)
    fail_at(w, i, -1,
            "memory that an earlier launch uses, which may still run: no griddepcontrol.wait before");
  range->last_access = g.number;
  if (writes) range->last_write = g.number;
}

void account(Warp& w, const Instruction& i, Space s, const u64* addresses, u32 mask, u32 bytes,
             Access access) {
  if (mask == 0 || (s != Space::Global && s != Space::Shared)) return;
  Grid& g = *w.block->grid;
  if (s == Space::Global) note_launch(w, i, access);
  if (g.options->count) {
    Tally& t = g.tallies[i.pc];
    if (s == Space::Shared) {
      const Passes p = count_passes(addresses, mask, bytes);
      ++t.shared_requests;
      t.passes += p.taken;
      t.passes_ideal += p.ideal;
    } else {
      const u32 sectors = count_sectors(addresses, mask);
      ++t.requests;
      t.sectors += sectors;
      t.bytes += u64{bytes} * static_cast<u32>(std::popcount(mask));
      if (Range* range = w.block->last_range) {
        const bool reads = access == Access::Read || access == Access::AtomicRead;
        (reads ? range->sectors_read : range->sectors_written) += sectors;
      }
    }
  }
  if (g.options->check_races) note_races(w, i, s, addresses, mask, bytes, access);
  const bool writes = access == Access::Write || access == Access::AtomicWrite;
  if (s == Space::Shared && writes && !w.block->ordinary_writes.empty())
    note_ordinary_writes(w, addresses, mask, bytes);
}

void record_race(Block& b, const Instruction& i, Race found) {
  if (found == Race::None) return;
  const Source& at = b.grid->program->sources[i.pc];
  const std::string text = std::string(name_of(found)) + " at PTX line " + std::to_string(at.line) +
                           " (source line " + std::to_string(at.source_line) + "): " + at.text;
  ++b.grid->races[text];
}
void note_shared(Block& b, const WarpClock& clock, const Instruction& i, u64 address, u32 bytes, bool write,
                 bool atomic) {
  if (b.grid->options->check_races)
    record_race(b, i, race_in_shared(b, clock, address, bytes, write, atomic));
}

bool gather(Warp& w, u32 needed) {
  needed &= w.alive;
  if ((w.mask & needed) == needed) return true;
  w.fragment().blocked = true;
  w.stop = true;
  --w.pc;
  return false;
}

}  // namespace emulator
