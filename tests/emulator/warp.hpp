// SPDX-License-Identifier: Apache-2.0
// A block of warps while it runs, and how instructions reach registers and memory.
//
// A warp is 32 lanes in lock-step. Lanes that diverge become fragments (pc, mask): the deepest call runs first, then
// the lowest pc, and fragments that meet merge. A .sync instruction waits until all lanes that it names have come.
// A register is an array of 32 lanes, 4 bytes each, 8 for 64-bit types; a predicate is a mask of 32 bits.
#pragma once
#include <array>
#include <cfenv>
#include <map>
#include <random>
#include <type_traits>
#include <vector>

#include "emulator.hpp"
#include "memory.hpp"
#include "program.hpp"
#include "races.hpp"

namespace emulator {

/// What happened at one instruction.
struct Tally {
  u64 executed = 0, requests = 0, sectors = 0, bytes = 0, shared_requests = 0, passes = 0, passes_ideal = 0;
};

struct Extent {
  u32 x = 1, y = 1, z = 1;
  u64 count() const { return u64{x} * y * z; }
};

/// What all blocks of a launch share.
struct Grid {
  const Program* program;
  const Options* options;
  Memory* memory;
  Extent grid, block;
  u32 dynamic_shared_bytes = 0;
  u64 number = 0;              // the launch, counted from 1
  u64 may_run_since = 0;       // launches with this number and later may not have ended; 0: all in front have
  std::vector<Tally> tallies;  // [i]: that of program->code[i]
  std::map<std::string, u64> races;  // text -> how often
  GlobalShadow shadow;
};

struct Fragment {
  u32 pc = 0, mask = 0;
  bool blocked = false;                    // waits for other lanes of its warp at a .sync instruction
  int barrier = -1;                        // waits at this barrier, its pc already behind it
  const Instruction* reduction = nullptr;  // the bar.red whose result it wants
  u32 awaited = 0;                         // 1 + the address of the mbarrier that it waits at, 0: none
  std::vector<u32> calls;                  // return addresses
};

/// Copies that cp.async has promised, of one lane. They land as late as the program allows.
struct AsyncCopies {
  struct Copy {
    u64 from;
    u32 to, bytes, source_bytes, group;
  };
  std::vector<Copy> queue;
  std::size_t done = 0;
  u32 group = 0;  // the open one
};

/// Products that wgmma has promised, of one warp. They are computed at the wait; until then their operands must stay.
struct AsyncProducts {
  struct Product {
    const Instruction* instruction;
    u64 matrix;          // descriptor of b
    bool accumulates;    // otherwise sums begin as zeros
    std::vector<u32> a;  // registers when it was issued, (4, 32)
    std::vector<u16> b;  // numbers when it was issued, (columns, 16)
    u32 group;
  };
  std::vector<Product> queue;
  u32 group = 0;           // the open one
  std::vector<u8> fenced;  // registers at the last wgmma.fence
  std::size_t issued = 0;  // by this warp
};

struct Block;
struct Warp {
  Block* block = nullptr;
  const Program* program = nullptr;
  u8* registers = nullptr;
  const u8* constants = nullptr;
  u8* local = nullptr;
  u32 index = 0, alive = 0;
  u32 pc = 0, mask = 0;  // the running fragment
  u32 active = 0;        // mask after the guard: the lanes that execute
  u32 carry = 0;
  bool stop = false;  // the running fragment cannot simply go on
  std::size_t current = 0;
  std::vector<Fragment> fragments;
  std::vector<u8> register_store, local_store;
  std::array<AsyncCopies, warp_size> copies;
  AsyncProducts products;
  u32 proxy_fences = 0;
  WarpClock clock;
  u32 random = 0;  // not 0: lanes run apart
  u64 steps = 0;

  Fragment& fragment() { return fragments[current]; }
};

struct Barrier {
  u32 arrived = 0, expected = 0;
  u32 votes = 0;
  bool all = true, any = false;
  WarpClock clock;
};

/// An mbarrier.
struct SharedBarrier {
  u32 threads = 0, pending = 0;  // arrivals that a phase takes, and that this one still needs
  s64 bytes = 0;                 // announced and not there yet
  u32 phase = 0;
  WarpClock arrived, ended;  // in this phase, in the last one
};

/// A copy that cp.async.bulk has promised. It lands as late as the program allows, or at some time (Options::seed).
struct BulkCopy {
  const Instruction* instruction;
  u64 from;
  u32 to, bytes, barrier;
  WarpClock clock;  // time of the warp that asked for it
};

/// Who last wrote 16 bytes of shared memory by an ordinary instruction, which wgmma and bulk copies see after a fence.
struct OrdinaryWrite {
  u32 warp = 0;    // 1 + its index, 0: nobody
  u32 fences = 0;  // that this warp had executed before
};

struct Block {
  Grid* grid = nullptr;
  Extent id;
  std::vector<u8> shared;
  std::vector<Shadow> shared_shadow;
  std::vector<Warp> warps;
  std::array<Barrier, 16> barriers;
  std::map<u32, SharedBarrier> shared_barriers;  // by their address
  std::vector<BulkCopy> bulk_copies;
  std::vector<OrdinaryWrite> ordinary_writes;              // each 16 bytes; empty: not wanted
  std::map<u32, std::vector<u32>> products_of_warpgroups;  // warpgroup -> pcs of its products
  Range* last_range = nullptr;
  bool waited = false;  // at griddepcontrol.wait
  u64 steps = 0;
  std::mt19937 random;
};

/// Stops the launch; says where.
[[noreturn]] void fail_at(const Warp& w, const Instruction& i, int lane, const std::string& what);

/// Calls f(lane) for the lanes of `mask`. Distinct registers never overlap, so full warps may be vectorized.
template <class F>
void for_lanes(u32 mask, F f) {
  if (mask == ~0u) {
#if !defined(__clang__)
#  pragma GCC ivdep
#endif
    for (int l = 0; l < warp_size; ++l) f(l);
  } else {
    for (u32 m = mask; m != 0; m &= m - 1) f(std::countr_zero(m));
  }
}

// ---- registers
template <class T>
T* lanes(Warp& w, const Operand& o) {
  if (o.kind == Operand::Kind::Constant) {
    return reinterpret_cast<T*>(const_cast<u8*>(w.constants) + o.offset + (sizeof(T) == 8 ? 128 : 0));
  }
  return reinterpret_cast<T*>(w.registers + o.offset);
}
inline u32& predicate(Warp& w, const Operand& o) { return *reinterpret_cast<u32*>(w.registers + o.offset); }
inline u32 predicate_value(Warp& w, const Operand& o) {
  if (o.kind == Operand::Kind::Constant) return o.value != 0 ? ~0u : 0u;
  return o.negated ? ~predicate(w, o) : predicate(w, o);
}
inline void set_predicate(Warp& w, const Operand& o, u32 value) {
  if (o.kind == Operand::Kind::Sink) return;
  u32& p = predicate(w, o);
  p = (p & ~w.active) | (value & w.active);
}
inline u64 get(Warp& w, const Operand& o, int lane) {
  return o.wide || o.kind == Operand::Kind::Constant ? lanes<u64>(w, o)[lane] : lanes<u32>(w, o)[lane];
}
inline void set(Warp& w, const Operand& o, int lane, u64 value) {
  if (o.kind == Operand::Kind::Sink) return;
  if (o.wide) {
    lanes<u64>(w, o)[lane] = value;
  } else {
    lanes<u32>(w, o)[lane] = static_cast<u32>(value);
  }
}

/// How a lane's slot holds a T: Slot is its storage, Value what is computed with.
struct Half {};
struct Bfloat16 {};
template <class T>
struct Format {
  using Slot = std::conditional_t<sizeof(T) == 8, u64, u32>;
  using Value = T;
  static Value get(Slot s) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::bit_cast<T>(s);
    } else {
      return static_cast<T>(s);
    }
  }
  static Slot put(Value v) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::bit_cast<Slot>(v);
    } else {
      return static_cast<std::make_unsigned_t<T>>(v);
    }
  }
};
template <>
struct Format<Half> {
  using Slot = u32;
  using Value = double;
  static Value get(Slot s) { return half_to_float(static_cast<u16>(s)); }
  static Slot put(Value v) { return to_half(v); }
};
template <>
struct Format<Bfloat16> {
  using Slot = u32;
  using Value = double;
  static Value get(Slot s) { return bfloat16_to_float(static_cast<u16>(s)); }
  static Slot put(Value v) { return to_bfloat16(v); }
};

/// The host's rounding mode while it lives.
class WithRounding {
 public:
  explicit WithRounding(Rounding r) : changed_(r != Rounding::Nearest) {
    if (!changed_) return;
    before_ = std::fegetround();
    std::fesetround(r == Rounding::Zero ? FE_TOWARDZERO : r == Rounding::Down ? FE_DOWNWARD : FE_UPWARD);
  }
  WithRounding(const WithRounding&) = delete;
  WithRounding& operator=(const WithRounding&) = delete;
  ~WithRounding() {
    if (changed_) std::fesetround(before_);
  }

 private:
  bool changed_;
  int before_ = 0;
};

// ---- memory
inline u64 address(Warp& w, const Operand& o, int lane) {
  if (!o.has_base) return static_cast<u64>(o.value);
  const u64 base = o.wide ? lanes<u64>(w, o)[lane] : u64{lanes<u32>(w, o)[lane]};
  return base + static_cast<u64>(o.value);
}
/// The space of an address; a generic one loses its window.
Space resolve(Space s, u64& address);
/// Checks bounds and alignment; returns where the bytes are.
u8* locate(Warp& w, const Instruction& i, Space s, u64 address, u32 bytes, int lane);
/// Fails if the instruction touches registers of products under way.
void check_products(Warp& w, const Instruction& i);
/// Lets one bulk copy land, the oldest or a random one; false if none is under way.
bool land_bulk_copy(Block& b);
/// Fails unless `bytes` bytes of shared memory are visible to wgmma and bulk copies.
void check_proxy(Warp& w, const Instruction& i, u64 address, u32 bytes);
/// Notes a race that was found, if any.
void record_race(Block& b, const Instruction& i, Race found);
/// Checks an access to shared memory for races.
void note_shared(Block& b, const WarpClock& clock, const Instruction& i, u64 address, u32 bytes, bool write,
                 bool atomic = false);
enum class Access : u8 { Read, Write, AtomicRead, AtomicWrite };
/// Counts one request of the lanes in `mask`, `bytes` bytes each, and checks it for races.
void account(Warp& w, const Instruction& i, Space s, const u64* addresses, u32 mask, u32 bytes,
             Access access);

// ---- waiting
/// True when all lanes of `needed` are here; otherwise the fragment waits and comes back to this instruction.
bool gather(Warp& w, u32 needed);
/// The lanes that a .sync instruction names: the first active lane's value of `o`.
inline u32 named_lanes(Warp& w, const Operand& o) { return lanes<u32>(w, o)[std::countr_zero(w.active)]; }
/// Releases barriers that wait only for warps that have ended.
void release_barriers(Block& b);
/// Carries out a lane's copies of groups before `limit`.
void finish_copies(Warp& w, int lane, u32 limit);

}  // namespace emulator
