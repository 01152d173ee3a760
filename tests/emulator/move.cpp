// SPDX-License-Identifier: Apache-2.0
// mov, cvta, isspacep.
#include "instructions.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

template <class T>
void move(Warp& w, const Instruction& i) {
  T* d = lanes<T>(w, i.x[0]);
  const T* a = lanes<T>(w, i.x[1]);
  for_lanes(w.active, [=](int l) { d[l] = a[l]; });
}
void move_predicate(Warp& w, const Instruction& i) { set_predicate(w, i.x[0], predicate_value(w, i.x[1])); }
void read_clock(Warp& w, const Instruction& i) {
  for_lanes(w.active, [&](int l) { set(w, i.x[0], l, w.steps); });
}

u64 ones(u32 bits) { return bits == 64 ? ~u64{0} : (u64{1} << bits) - 1; }
void pack(Warp& w, const Instruction& i) {  // mov.b64 d, {a, b}
  const u32 parts = i.size[1], bits = 8 * size_of(i.type) / parts;
  for_lanes(w.active, [&](int l) {
    u64 v = 0;
    for (u32 k = 0; k < parts; ++k) v |= (get(w, i.x[i.first[1] + k], l) & ones(bits)) << (bits * k);
    set(w, i.x[0], l, v);
  });
}
void unpack(Warp& w, const Instruction& i) {  // mov.b64 {a, b}, d
  const u32 parts = i.size[0], bits = 8 * size_of(i.type) / parts;
  for_lanes(w.active, [&](int l) {
    const u64 v = get(w, i[1], l);
    for (u32 k = 0; k < parts; ++k) set(w, i.x[k], l, v >> (bits * k) & ones(bits));
  });
}

u64 window_of(Space s) { return s == Space::Shared ? shared_window : s == Space::Local ? local_window : 0; }
void convert_address(Warp& w, const Instruction& i) {  // cvta; flag: to the space
  const u64 window = window_of(i.space);
  for_lanes(w.active, [&](int l) {
    const u64 v = get(w, i.x[1], l);
    set(w, i.x[0], l, i.flag ? v & ~(window != 0 ? window_mask : 0) : v | window);
  });
}
void is_in_space(Warp& w, const Instruction& i) {
  u32 r = 0;
  for_lanes(w.active, [&](int l) {
    u64 a = get(w, i.x[1], l);
    r |= (resolve(Space::Generic, a) == i.space ? 1u : 0u) << l;
  });
  set_predicate(w, i.x[0], r);
}

}  // namespace

Execute find_move(const Mnemonic& m, Instruction& i) {
  if (m.op == "cvta") {
    i.flag = m.has("to");
    return convert_address;
  }
  if (m.op == "isspacep") return is_in_space;
  if (m.op != "mov") return nullptr;
  if (i.type == Type::Pred) return move_predicate;
  if (i.size[1] > 1) return pack;
  if (i.size[0] > 1) return unpack;
  if (i.x[1].kind == Operand::Kind::Label) return nullptr;
  const bool is_register = i.x[1].kind == Operand::Kind::Reg;
  if (is_register && (i.x[1].offset == clock64_offset || i.x[1].offset == offset_of(Special::Clock)))
    return read_clock;
  return size_of(i.type) == 8 ? move<u64> : move<u32>;
}

}  // namespace emulator
