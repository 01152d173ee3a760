// SPDX-License-Identifier: Apache-2.0
// Finds accesses of different warps to the same byte, at least one a plain write, that nothing puts in order.
// Each warp has a vector clock. A barrier joins the clocks of its warps. Between blocks, order comes from a fence
// before an atomic and a fence after the atomic that sees it (or from its .release and .acquire); a fence also speaks
// for the other warps of the block across a barrier, as it does on hardware.
#pragma once
#include <array>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "numbers.hpp"

namespace emulator {

/// A warp of the grid at some time; 0 is nobody.
struct Stamp {
  u64 bits = 0;
  static Stamp of(u32 warp, u32 time, bool atomic) {
    return {(u64{warp} + 1) << 32 | u64{time} << 1 | (atomic ? 1u : 0u)};
  }
  bool nobody() const { return bits == 0; }
  u32 warp() const { return static_cast<u32>(bits >> 32) - 1; }
  u32 time() const { return static_cast<u32>(bits) >> 1; }
  bool atomic() const { return (bits & 1) != 0; }
};

/// The last accesses to one byte.
struct Shadow {
  Stamp write, read, other_read;
};

/// What a warp knows of other warps: the time up to which their accesses come before.
class Clock {
 public:
  void join(const Clock& other);
  void set(u32 block, const std::vector<u32>& times);
  bool empty() const { return times_of_.empty(); }
  void clear() { times_of_.clear(); }
  u32 time(u32 block, u32 warp) const {
    const auto found = times_of_.find(block);
    return found == times_of_.end() ? 0 : found->second[warp];
  }

 private:
  std::map<u32, std::vector<u32>> times_of_;  // block -> times of its warps
};

/// The clocks of one warp.
struct WarpClock {
  u32 block = 0, index = 0;
  std::vector<u32> own;  // times of the warps of this block
  Clock foreign;         // times of other blocks
  Clock released;        // what a fence has published
  Clock pending;         // what atomics have seen and no fence has yet confirmed

  void start(u32 block_number, u32 index_in_block, u32 warps);
  void join(const WarpClock& other);
  void fence();
  bool knows(Stamp s) const;
  Stamp stamp(bool atomic) const {
    return Stamp::of(block * static_cast<u32>(own.size()) + index, own[index], atomic);
  }
};

enum class Race : u8 { None, ReadAfterWrite, WriteAfterWrite, WriteAfterRead, Uninitialised };
const char* name_of(Race r);

/// Notes an access to `bytes` bytes whose shadows begin at `s`.
Race note_access(const WarpClock& w, Shadow* s, u32 bytes, bool write, bool atomic);

/// The shadows of global memory, and what was released at each address.
class GlobalShadow {
 public:
  Race note(const WarpClock& w, u64 address, u32 bytes, bool write, bool atomic);
  void acquire(WarpClock& w, u64 address);
  void release(const WarpClock& w, u64 address) { released_at_[address].join(w.released); }

 private:
  static constexpr u64 page_bytes = 1024;
  std::unordered_map<u64, std::unique_ptr<std::array<Shadow, page_bytes>>> pages_;
  std::unordered_map<u64, Clock> released_at_;
};

}  // namespace emulator
