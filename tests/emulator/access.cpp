// SPDX-License-Identifier: Apache-2.0
// ld, st, atom, red and fences.
#include <cstring>
#include <optional>

#include "elementwise.hpp"
#include "instructions.hpp"

namespace emulator {
namespace {

// What to add to every active lane's address, where one look shows all of them to be aligned and in bounds; otherwise
// each lane is to be looked at.
std::optional<u64> common_base(Warp& w, Space s, const u64* a, u32 bytes) {
  u64 low = ~u64{0}, high = 0, all = 0;
  for_lanes(w.active, [&](int l) {
    low = std::min(low, a[l]);
    high = std::max(high, a[l]);
    all |= a[l];
  });
  const Range* range = w.block->last_range;
  if ((all & (bytes - 1)) != 0) return std::nullopt;
  if (s == Space::Shared && low >= w.program->reserved_shared_bytes && high + bytes <= w.block->shared.size())
    return reinterpret_cast<u64>(w.block->shared.data());
  if (s == Space::Global && range != nullptr && low >= range->begin && high + bytes <= range->end) return 0;
  return std::nullopt;
}

// Calls f(lane, bytes) for every active lane's address, and counts the request.
template <class F>
void each_address(Warp& w, const Instruction& i, const Operand& where, u32 bytes, Access kind, F f) {
  u64 a[warp_size] = {};
  if (i.space != Space::Generic) {
    for_lanes(w.active, [&](int l) { a[l] = address(w, where, l); });
    if (const auto base = common_base(w, i.space, a, bytes)) {
      for_lanes(w.active, [&](int l) { f(l, reinterpret_cast<u8*>(*base + a[l])); });
    } else {
      for_lanes(w.active, [&](int l) { f(l, locate(w, i, i.space, a[l], bytes, l)); });
    }
    account(w, i, i.space, a, w.active, bytes, kind);
    return;
  }
  u32 global = 0, shared = 0;
  for_lanes(w.active, [&](int l) {
    a[l] = address(w, where, l);
    const Space s = resolve(Space::Generic, a[l]);
    if (s == Space::Global) global |= 1u << l;
    if (s == Space::Shared) shared |= 1u << l;
    f(l, locate(w, i, s, a[l], bytes, l));
  });
  account(w, i, Space::Global, a, global, bytes, kind);
  account(w, i, Space::Shared, a, shared, bytes, kind);
}

u64 read(const u8* from, u32 bytes, bool sign_extend) {
  u64 v = 0;
  std::memcpy(&v, from, bytes);
  const u32 unused = 64 - 8 * bytes;
  return sign_extend ? static_cast<u64>(static_cast<s64>(v << unused) >> unused) : v;
}

// A release publishes what the last fence covered; an acquire learns what was published there.
template <class F>
void each_global(Warp& w, const Operand& where, F f) {
  if (!w.block->grid->options->check_races) return;
  for_lanes(w.active, [&](int l) {
    u64 a = address(w, where, l);
    if (resolve(Space::Generic, a) == Space::Global) f(a);
  });
}

// flag: takes part in synchronization (volatile, relaxed, acquire, release); flag2: is itself a fence
void load(Warp& w, const Instruction& i) {
  const u32 bytes = size_of(i.type), count = i.size[0];
  const Operand* to = &i.x[0];
  const bool words = bytes == 4 && !to->wide;
  each_address(w, i, i[1], bytes * count, i.flag ? Access::AtomicRead : Access::Read,
               [&](int l, const u8* from) {
                 for (u32 k = 0; k < count; ++k, from += bytes) {
                   if (words && to[k].kind == Operand::Kind::Reg) {
                     std::memcpy(w.registers + to[k].offset + 4 * l, from, 4);
                   } else {
                     set(w, to[k], l, read(from, bytes, is_signed(i.type)));
                   }
                 }
               });
  if (!i.flag) return;
  each_global(w, i[1], [&](u64 a) { w.block->grid->shadow.acquire(w.clock, a); });
  if (i.flag2) w.clock.fence();
}
void store(Warp& w, const Instruction& i) {
  const u32 bytes = size_of(i.type), count = i.size[1];
  const Operand* from = &i[1];
  if (i.flag2) w.clock.fence();
  if (i.flag) each_global(w, i[0], [&](u64 a) { w.block->grid->shadow.release(w.clock, a); });
  each_address(w, i, i[0], bytes * count, i.flag ? Access::AtomicWrite : Access::Write, [&](int l, u8* to) {
    for (u32 k = 0; k < count; ++k, to += bytes) {
      const u64 v = get(w, from[k], l);
      std::memcpy(to, &v, bytes);
    }
  });
}

enum Update : u8 { Add, Min, Max, And, Or, Xor, Exchange, CompareAndSwap, Increment, Decrement };
constexpr std::pair<std::string_view, Update> updates[] = {
    {"add", Add},       {"min", Min},      {"max", Max},       {"and", And},
    {"or", Or},         {"xor", Xor},      {"exch", Exchange}, {"cas", CompareAndSwap},
    {"inc", Increment}, {"dec", Decrement}};

template <class T>
u64 update_float(u8 update, u64 old, u64 with) {
  using Slot = typename Format<T>::Slot;
  const auto a = Format<T>::get(static_cast<Slot>(old)), b = Format<T>::get(static_cast<Slot>(with));
  return Format<T>::put(update == Add ? a + b : update == Min ? std::fmin(a, b) : std::fmax(a, b));
}
template <class T>
u64 update_pair(u8 update, u64 old, u64 with) {
  return update_float<T>(update, old & 0xffff, with & 0xffff) |
         update_float<T>(update, old >> 16 & 0xffff, with >> 16 & 0xffff) << 16;
}
template <class T>
u64 update_integer(u8 update, u64 old, u64 with, u64 swap) {
  const auto a = static_cast<T>(old), b = static_cast<T>(with);
  switch (update) {
    case Add:
      return old + with;
    case Min:
      return static_cast<u64>(std::min(a, b));
    case Max:
      return static_cast<u64>(std::max(a, b));
    case And:
      return old & with;
    case Or:
      return old | with;
    case Xor:
      return old ^ with;
    case Exchange:
      return with;
    case CompareAndSwap:
      return a == b ? swap : old;
    case Increment:
      return a >= b ? 0 : old + 1;
    default:
      return a == 0 || a > b ? with : old - 1;
  }
}
u64 updated(Type t, u8 update, u64 old, u64 with, u64 swap) {
  switch (t) {
    case Type::F16x2:
      return update_pair<Half>(update, old, with);
    case Type::Bf16x2:
      return update_pair<Bfloat16>(update, old, with);
    case Type::F16:
      return update_float<Half>(update, old, with);
    case Type::Bf16:
      return update_float<Bfloat16>(update, old, with);
    case Type::F32:
      return update_float<float>(update, old, with);
    case Type::F64:
      return update_float<double>(update, old, with);
    case Type::S32:
      return update_integer<s32>(update, old, with, swap);
    case Type::S64:
      return update_integer<s64>(update, old, with, swap);
    default:
      break;
  }
  if (size_of(t) == 8) return update_integer<u64>(update, old, with, swap);
  return size_of(t) == 4 ? update_integer<u32>(update, old, with, swap)
                         : update_integer<u16>(update, old, with, swap);
}

// mode: the update; mode2: 1 for red, which has no result; flag: acquires and releases as fences too
void atomic(Warp& w, const Instruction& i) {
  const u32 bytes = size_of(i.type);
  const int where = i.mode2 != 0 ? 0 : 1;
  const u32 count = i.size[static_cast<std::size_t>(where) + 1];
  if (i.flag) w.clock.fence();
  each_global(w, i[where], [&](u64 a) {
    w.block->grid->shadow.acquire(w.clock, a);
    w.block->grid->shadow.release(w.clock, a);
  });
  if (i.flag) w.clock.fence();
  each_address(w, i, i[where], bytes * count, Access::AtomicWrite, [&](int l, u8* at) {
    for (u32 k = 0; k < count; ++k, at += bytes) {
      u64 old = 0;
      std::memcpy(&old, at, bytes);
      const u64 with = get(w, (&i[where + 1])[k], l),
                swap = i.operands > where + 2 ? get(w, i[where + 2], l) : 0;
      const u64 v = updated(i.type, i.mode, old, with, swap);
      std::memcpy(at, &v, bytes);
      if (where == 1) set(w, (&i[0])[k], l, old);
    }
  });
}
void reduce_warp(Warp& w, const Instruction& i) {  // redux.sync
  if (w.active == 0) return;
  const u32 named = named_lanes(w, i[2]);
  if (!gather(w, named)) return;
  const u32* a = lanes<u32>(w, i[1]);
  u32* d = lanes<u32>(w, i.x[0]);
  const u32 taking_part = w.active & named;
  u64 r = a[std::countr_zero(taking_part)];
  for_lanes(taking_part & (taking_part - 1), [&](int l) { r = updated(i.type, i.mode, r, a[l], 0); });
  for_lanes(taking_part, [&](int l) { d[l] = static_cast<u32>(r); });
}

void fence(Warp& w, const Instruction& i) {
  if (w.active != 0 && i.flag) w.clock.fence();
}

}  // namespace

Execute find_memory(const Mnemonic& m, Instruction& i) {
  const bool acquire_or_release = m.has("acquire") || m.has("release") || m.has("acq_rel");
  if (m.op == "ld" || m.op == "ldu" || m.op == "st") {
    i.flag = acquire_or_release || m.has("volatile") || m.has("relaxed");
    i.flag2 = acquire_or_release;
    return m.op == "st" ? store : load;
  }
  if ((m.op == "atom" || m.op == "red" || m.op == "redux") && !m.has("async")) {
    i.flag = acquire_or_release;
    i.mode2 = m.op == "red" ? 1 : 0;
    for (const auto& [name, update] : updates) {
      if (!m.has(name)) continue;
      i.mode = update;
      return m.op == "redux" ? reduce_warp : atomic;
    }
  }
  if (m.op == "membar" || m.op == "fence") {  // one for the block alone orders nothing between blocks
    i.flag = !m.has("cta");
    return fence;
  }
  return nullptr;
}

}  // namespace emulator
