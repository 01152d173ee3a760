// SPDX-License-Identifier: Apache-2.0
// Logic, shifts, bit fields and byte permutations.
#include "elementwise.hpp"
#include "instructions.hpp"

namespace emulator {
namespace {

struct And {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    return static_cast<T>(~a);
  }
};
struct LogicalNot {  // cnot
  template <class T>
  T operator()(T a) const {
    return a == 0 ? T{1} : T{0};
  }
};
struct Reverse {
  template <class T>
  T operator()(T a) const {
    T r = 0;
    for (std::size_t k = 0; k < 8 * sizeof(T); ++k) r = static_cast<T>(r << 1 | (a >> k & 1));
    return r;
  }
};

// Amounts of the width or more give 0 or the sign.
template <class T, bool left>
void shift(Warp& w, const Instruction& i) {
  using Slot = typename Format<T>::Slot;
  constexpr u32 bits = 8 * sizeof(T);
  Slot* d = lanes<Slot>(w, i.x[0]);
  const Slot* a = lanes<Slot>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  for_lanes(w.active, [=](int l) {
    const T v = Format<T>::get(a[l]);
    const u32 n = std::min(b[l], bits - 1);
    if constexpr (left) {
      d[l] = b[l] >= bits ? 0 : Format<T>::put(static_cast<T>(static_cast<Slot>(v) << n));
    } else {
      d[l] = b[l] >= bits && v >= 0 ? 0 : Format<T>::put(static_cast<T>(v >> n));
    }
  });
}
template <bool left>
Execute find_shift(Type t) {
  switch (t) {
    case Type::B16:
    case Type::U16:
      return shift<u16, left>;
    case Type::S16:
      return shift<s16, left>;
    case Type::B32:
    case Type::U32:
      return shift<u32, left>;
    case Type::S32:
      return shift<s32, left>;
    case Type::B64:
    case Type::U64:
      return shift<u64, left>;
    case Type::S64:
      return shift<s64, left>;
    default:
      return nullptr;
  }
}

// shf; flag: left, flag2: wrap
void funnel_shift(Warp& w, const Instruction& i) {
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  const u32* c = lanes<u32>(w, i.x[3]);
  for_lanes(w.active, [&](int l) {
    const u32 n = i.flag2 ? c[l] & 31 : std::min(c[l], 32u);
    const u64 v = u64{b[l]} << 32 | a[l];
    d[l] = static_cast<u32>(i.flag ? (n == 32 ? v << 32 : v << n) >> 32 : v >> n);
  });
}

template <class T>
void extract_field(Warp& w, const Instruction& i) {  // bfe
  using Slot = typename Format<T>::Slot;
  constexpr u32 bits = 8 * sizeof(T);
  Slot* d = lanes<Slot>(w, i.x[0]);
  const Slot* a = lanes<Slot>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  const u32* c = lanes<u32>(w, i.x[3]);
  for_lanes(w.active, [=](int l) {
    const u32 position = b[l] & 255, length = c[l] & 255;
    const Slot v = a[l];
    const bool negative =
        std::is_signed_v<T> && length != 0 && (v >> std::min(position + length - 1, bits - 1) & 1) != 0;
    const Slot field = position >= bits ? 0 : v >> position;
    const u32 kept = std::min(length, position >= bits ? 0 : bits - position);
    const Slot mask = kept >= bits ? ~Slot{0} : (Slot{1} << kept) - 1;
    d[l] = (field & mask) | (negative ? ~mask : Slot{0});
  });
}
template <class T>
void insert_field(Warp& w, const Instruction& i) {  // bfi
  constexpr u32 bits = 8 * sizeof(T);
  T* d = lanes<T>(w, i.x[0]);
  const T* a = lanes<T>(w, i.x[1]);
  const T* b = lanes<T>(w, i.x[2]);
  const u32* c = lanes<u32>(w, i.x[3]);
  const u32* e = lanes<u32>(w, i.x[4]);
  for_lanes(w.active, [=](int l) {
    const u32 position = c[l] & 255, length = e[l] & 255;
    const T ones = length >= bits ? ~T{0} : (T{1} << length) - 1;
    const T mask = position >= bits ? 0 : ones << position;
    d[l] = (b[l] & ~mask) | (position >= bits ? 0 : a[l] << position & mask);
  });
}

enum Count : u8 { CountOnes, CountLeadingZeros, FindHighest, FindShiftAmount };
template <class T>
void count_bits(Warp& w, const Instruction& i) {
  using U = std::make_unsigned_t<T>;
  u32* d = lanes<u32>(w, i.x[0]);
  const U* a = lanes<U>(w, i.x[1]);
  for_lanes(w.active, [&](int l) {
    const bool inverted = i.mode >= FindHighest && std::is_signed_v<T> && static_cast<T>(a[l]) < 0;
    const U v = inverted ? static_cast<U>(~a[l]) : a[l];
    const auto zeros = static_cast<u32>(std::countl_zero(v));
    switch (i.mode) {
      case CountOnes:
        d[l] = static_cast<u32>(std::popcount(v));
        break;
      case CountLeadingZeros:
        d[l] = zeros;
        break;
      case FindHighest:
        d[l] = v == 0 ? ~0u : static_cast<u32>(8 * sizeof(T)) - 1 - zeros;
        break;
      default:
        d[l] = v == 0 ? ~0u : zeros;
    }
  });
}
Execute find_count(Type t) {
  if (size_of(t) == 8) return is_signed(t) ? count_bits<s64> : count_bits<u64>;
  return is_signed(t) ? count_bits<s32> : count_bits<u32>;
}

void make_mask(Warp& w, const Instruction& i) {  // bmsk; flag: wrap
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  for_lanes(w.active, [&](int l) {
    const u32 position = i.flag ? a[l] & 31 : a[l], length = i.flag ? b[l] & 31 : std::min(b[l], 32u);
    d[l] = position >= 32 ? 0 : static_cast<u32>(((u64{1} << length) - 1) << position);
  });
}

// The table is made a sum of minterms once per instruction; the usual tables are two or three operations.
void any_logic(Warp& w, const Instruction& i) {  // lop3
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  const u32* c = lanes<u32>(w, i.x[3]);
  const auto table = static_cast<u32>(i.x[4].value);
  switch (table) {
    case 0xc0:
      return for_lanes(w.active, [=](int l) { d[l] = a[l] & b[l]; });
    case 0x80:
      return for_lanes(w.active, [=](int l) { d[l] = a[l] & b[l] & c[l]; });
    case 0xea:
      return for_lanes(w.active, [=](int l) { d[l] = (a[l] & b[l]) | c[l]; });
    case 0xf8:
      return for_lanes(w.active, [=](int l) { d[l] = a[l] | (b[l] & c[l]); });
    case 0x6a:
      return for_lanes(w.active, [=](int l) { d[l] = (a[l] & b[l]) ^ c[l]; });
    case 0x96:
      return for_lanes(w.active, [=](int l) { d[l] = a[l] ^ b[l] ^ c[l]; });
    case 0xfe:
      return for_lanes(w.active, [=](int l) { d[l] = a[l] | b[l] | c[l]; });
    default:
      break;
  }
  u32 keep[8];
  for (u32 k = 0; k < 8; ++k) keep[k] = (table >> k & 1) != 0 ? ~0u : 0u;
  for_lanes(w.active, [&](int l) {
    u32 r = 0;
    for (u32 k = 0; k < 8; ++k) {
      r |= keep[k] & ((k & 4) != 0 ? a[l] : ~a[l]) & ((k & 2) != 0 ? b[l] : ~b[l]) &
           ((k & 1) != 0 ? c[l] : ~c[l]);
    }
    d[l] = r;
  });
}

enum Permutation : u8 { BySelector, Forward4, Backward4, Replicate8, EdgeLeft, EdgeRight, Replicate16 };
void permute(Warp& w, const Instruction& i) {  // prmt
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  const u32* c = lanes<u32>(w, i.x[3]);
  for_lanes(w.active, [&](int l) {
    const u64 v = u64{b[l]} << 32 | a[l];
    const u32 base = c[l] & 3;
    u32 r = 0;
    for (u32 k = 0; k < 4; ++k) {
      u32 from = c[l] >> (4 * k) & 15;
      switch (i.mode) {
        case BySelector:
          break;
        case Forward4:
          from = base + k;
          break;
        case Backward4:
          from = (base + 8 - k) & 7;
          break;
        case Replicate8:
          from = base;
          break;
        case EdgeLeft:
          from = std::max(base, k);
          break;
        case EdgeRight:
          from = std::min(base, k);
          break;
        default:
          from = (base & 1) * 2 + (k & 1);
      }
      u32 byte = static_cast<u32>(v >> (8 * (from & 7))) & 255;
      if (i.mode == BySelector && (from & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
      r |= byte << (8 * k);
    }
    d[l] = r;
  });
}

}  // namespace

Execute find_bits(const Mnemonic& m, Instruction& i) {
  const Type t = i.type;
  if (t == Type::Pred) return nullptr;
  if (m.op == "and") return for_integer<And, 2>(t);
  if (m.op == "or") return for_integer<Or, 2>(t);
  if (m.op == "xor") return for_integer<Xor, 2>(t);
  if (m.op == "not") return for_integer<Not, 1>(t);
  if (m.op == "cnot") return for_integer<LogicalNot, 1>(t);
  if (m.op == "shl") return find_shift<true>(t);
  if (m.op == "shr") return find_shift<false>(t);
  if (m.op == "shf") {
    i.flag = m.has("l");
    i.flag2 = m.has("wrap");
    return funnel_shift;
  }
  if (m.op == "bfe") {
    if (size_of(t) == 8) return is_signed(t) ? extract_field<s64> : extract_field<u64>;
    return is_signed(t) ? extract_field<s32> : extract_field<u32>;
  }
  if (m.op == "bfi") return size_of(t) == 8 ? insert_field<u64> : insert_field<u32>;
  if (m.op == "popc" || m.op == "clz" || m.op == "bfind") {
    i.mode = m.op == "popc" ? CountOnes : m.op == "clz" ? CountLeadingZeros : FindHighest;
    if (m.has("shiftamt")) i.mode = FindShiftAmount;
    return find_count(t);
  }
  if (m.op == "brev") return size_of(t) == 8 ? elementwise<u64, Reverse, 1> : elementwise<u32, Reverse, 1>;
  if (m.op == "bmsk") {
    i.flag = m.has("wrap");
    return make_mask;
  }
  if (m.op == "lop3") return i.size[0] == 1 ? any_logic : nullptr;
  if (m.op == "prmt") {
    constexpr std::string_view names[] = {"", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"};
    for (u8 k = 1; k < 7; ++k) {
      if (m.has(names[k])) i.mode = k;
    }
    return permute;
  }
  return nullptr;
}

}  // namespace emulator
