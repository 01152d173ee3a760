// SPDX-License-Identifier: Apache-2.0
// Comparisons, selection, and logic on predicates.
#include "elementwise.hpp"
#include "instructions.hpp"

namespace emulator {
namespace {

// An unordered comparison (a NaN takes part) is false, or true for those that end in U.
enum Comparison : u8 { Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan };
constexpr std::pair<std::string_view, Comparison> comparisons[] = {
    {"eq", Eq},   {"ne", Ne},   {"lt", Lt},   {"le", Le},   {"gt", Gt},   {"ge", Ge},
    {"lo", Lt},   {"ls", Le},   {"hi", Gt},   {"hs", Ge},   {"equ", Equ}, {"neu", Neu},
    {"ltu", Ltu}, {"leu", Leu}, {"gtu", Gtu}, {"geu", Geu}, {"num", Num}, {"nan", Nan}};

template <class V>
bool holds(u8 comparison, V a, V b) {
  bool unordered = false;
  if constexpr (std::is_floating_point_v<V>) unordered = a != a || b != b;
  if (comparison == Num) return !unordered;
  if (unordered) return comparison >= Equ;
  switch (comparison) {
    case Eq:
    case Equ:
      return a == b;
    case Ne:
    case Neu:
      return a != b;
    case Lt:
    case Ltu:
      return a < b;
    case Le:
    case Leu:
      return a <= b;
    case Gt:
    case Gtu:
      return a > b;
    case Ge:
    case Geu:
      return a >= b;
    default:
      return false;
  }
}

// The lanes in which the comparison of x[1] and x[2] holds; of a packed type, that of the half at `shift`.
template <class T>
u32 compare(Warp& w, const Instruction& i, int shift = 0) {
  using Slot = typename Format<T>::Slot;
  using Value = typename Format<T>::Value;
  const Slot* a = lanes<Slot>(w, i[1]);
  const Slot* b = lanes<Slot>(w, i[2]);
  u32 r = 0;
  const auto all_lanes = [&](auto comparison) {
    for (int l = 0; l < warp_size; ++l) {
      Value p = Format<T>::get(a[l] >> shift), q = Format<T>::get(b[l] >> shift);
      if (i.flush) p = flush_subnormal(p), q = flush_subnormal(q);
      r |= (holds(comparison, p, q) ? 1u : 0u) << l;
    }
  };
  switch (i.mode) {  // constants let the usual ones be vectorized
    case Eq:
      all_lanes(std::integral_constant<u8, Eq>{});
      break;
    case Ne:
      all_lanes(std::integral_constant<u8, Ne>{});
      break;
    case Lt:
      all_lanes(std::integral_constant<u8, Lt>{});
      break;
    case Ge:
      all_lanes(std::integral_constant<u8, Ge>{});
      break;
    default:
      all_lanes(i.mode);
  }
  return r;
}
u32 compare_any(Warp& w, const Instruction& i, int shift = 0) {
  switch (i.type) {
    case Type::B16:
    case Type::U16:
      return compare<u16>(w, i);
    case Type::S16:
      return compare<s16>(w, i);
    case Type::B32:
    case Type::U32:
      return compare<u32>(w, i);
    case Type::S32:
      return compare<s32>(w, i);
    case Type::B64:
    case Type::U64:
      return compare<u64>(w, i);
    case Type::S64:
      return compare<s64>(w, i);
    case Type::F32:
      return compare<float>(w, i);
    case Type::F64:
      return compare<double>(w, i);
    case Type::F16:
    case Type::F16x2:
      return compare<Half>(w, i, shift);
    case Type::Bf16:
    case Type::Bf16x2:
      return compare<Bfloat16>(w, i, shift);
    default:
      fail_at(w, i, -1, "comparison of this type");
  }
}

enum Combination : u8 { Alone, And, Or, Xor };
u32 combined(u8 mode, u32 a, u32 b) {
  return mode == And ? a & b : mode == Or ? a | b : mode == Xor ? a ^ b : a;
}

// setp; mode2: how operand 3 takes part. x[0] may be p|q: q is the opposite, or the upper halves' result.
void set_predicates(Warp& w, const Instruction& i) {
  const u32 other = i.operands > 3 ? predicate_value(w, i[3]) : 0;
  const u32 result = compare_any(w, i);
  const u32 second = i.size[0] < 2 ? 0 : is_packed(i.type) ? compare_any(w, i, 16) : ~result;
  set_predicate(w, i.x[0], combined(i.mode2, result, other));
  if (i.size[0] == 2) set_predicate(w, i.x[1], combined(i.mode2, second, other));
}

// set: 1.0 or all bits where it holds
void set_value(Warp& w, const Instruction& i) {
  const u32 low = compare_any(w, i), high = is_packed(i.type) ? compare_any(w, i, 16) : 0;
  u32* d = lanes<u32>(w, i.x[0]);
  u32 one = is_packed(i.type) ? 0xffffu : ~0u;
  if (i.first_type == Type::F32) one = 0x3f800000;
  if (i.first_type == Type::F16 || i.first_type == Type::F16x2) one = 0x3c00;
  if (i.first_type == Type::Bf16 || i.first_type == Type::Bf16x2) one = 0x3f80;
  for_lanes(w.active,
            [=](int l) { d[l] = ((low >> l & 1) != 0 ? one : 0) | ((high >> l & 1) != 0 ? one << 16 : 0); });
}

template <class T>
void select(Warp& w, const Instruction& i) {  // selp
  T* d = lanes<T>(w, i.x[0]);
  const T* a = lanes<T>(w, i.x[1]);
  const T* b = lanes<T>(w, i.x[2]);
  const u32 p = predicate_value(w, i.x[3]);
  for_lanes(w.active, [=](int l) { d[l] = (p >> l & 1) != 0 ? a[l] : b[l]; });
}
template <class T>
void select_by_sign(Warp& w, const Instruction& i) {  // slct
  T* d = lanes<T>(w, i.x[0]);
  const T* a = lanes<T>(w, i.x[1]);
  const T* b = lanes<T>(w, i.x[2]);
  const u32* c = lanes<u32>(w, i.x[3]);
  for_lanes(w.active, [&](int l) {
    const bool positive = i.type == Type::F32 ? std::bit_cast<float>(c[l]) >= 0 : static_cast<s32>(c[l]) >= 0;
    d[l] = positive ? a[l] : b[l];
  });
}

void logic(Warp& w, const Instruction& i) {
  set_predicate(w, i.x[0], combined(i.mode, predicate_value(w, i.x[1]), predicate_value(w, i.x[2])));
}
void invert(Warp& w, const Instruction& i) { set_predicate(w, i.x[0], ~predicate_value(w, i.x[1])); }

}  // namespace

Execute find_compare(const Mnemonic& m, Instruction& i) {
  const auto combination = [&] { return m.has("and") ? And : m.has("or") ? Or : m.has("xor") ? Xor : Alone; };
  if (m.op == "setp" || m.op == "set") {
    for (const auto& [name, comparison] : comparisons) {
      if (m.parts[0] != name) continue;
      i.mode = comparison;
      i.mode2 = combination();
      return m.op == "setp" ? set_predicates : set_value;
    }
    return nullptr;
  }
  if (m.op == "selp" && i.type != Type::Pred) return size_of(i.type) == 8 ? select<u64> : select<u32>;
  if (m.op == "slct") return size_of(i.first_type) == 8 ? select_by_sign<u64> : select_by_sign<u32>;
  if (i.type != Type::Pred) return nullptr;
  if (m.op == "not") return invert;
  i.mode = m.op == "and" ? And : m.op == "or" ? Or : m.op == "xor" ? Xor : Alone;
  return i.mode != Alone ? logic : nullptr;
}

}  // namespace emulator
