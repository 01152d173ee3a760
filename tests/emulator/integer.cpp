// SPDX-License-Identifier: Apache-2.0
// Integer arithmetic. Wrap-around is computed in unsigned types.
#include <climits>
#include <type_traits>

#include "elementwise.hpp"
#include "instructions.hpp"

namespace emulator {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
  }
};
struct Subtract {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
  }
};
struct AddSaturated {
  s32 operator()(s32 a, s32 b) const {
    return static_cast<s32>(std::clamp<s64>(s64{a} + b, INT_MIN, INT_MAX));
  }
};
struct SubtractSaturated {
  s32 operator()(s32 a, s32 b) const {
    return static_cast<s32>(std::clamp<s64>(s64{a} - b, INT_MIN, INT_MAX));
  }
};
struct Multiply {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<u64>(a) * static_cast<u64>(b));
  }
};
struct MultiplyHigh {
  template <class T>
  T operator()(T a, T b) const {
    using Wide = std::conditional_t<std::is_signed_v<T>, s128, u128>;
    return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> (8 * sizeof(T)));
  }
};
template <class F>
struct ThenAdd {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(F{}(a, b), c);
  }
};
struct Divide {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return static_cast<T>(-1);
    if constexpr (std::is_signed_v<T>) {
      if (b == static_cast<T>(-1)) return Subtract{}(T{0}, a);
    }
    return static_cast<T>(a / b);
  }
};
struct Remainder {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>) {
      if (b == static_cast<T>(-1)) return 0;
    }
    return static_cast<T>(a % b);
  }
};
struct Minimum {
  template <class T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};
struct Maximum {
  template <class T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};
struct Absolute {
  template <class T>
  T operator()(T a) const {
    return a < 0 ? Subtract{}(T{0}, a) : a;
  }
};
struct Negate {
  template <class T>
  T operator()(T a) const {
    return Subtract{}(T{0}, a);
  }
};
struct SumOfDifference {  // sad
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(c, a < b ? Subtract{}(b, a) : Subtract{}(a, b));
  }
};

// mul.wide and mad.wide: x[0] is twice as wide as x[1] and x[2].
template <class T, class Wide, bool add>
void multiply_wide(Warp& w, const Instruction& i) {
  using Slot = typename Format<Wide>::Slot;
  Slot* d = lanes<Slot>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  const Slot* c = add ? lanes<Slot>(w, i.x[3]) : nullptr;
  for_lanes(w.active, [=](int l) {
    const Wide x = static_cast<T>(a[l]), y = static_cast<T>(b[l]);
    auto product = static_cast<Slot>(Multiply{}(x, y));
    if constexpr (add) product += c[l];
    d[l] = product;
  });
}
template <bool add>
Execute find_wide(Type t) {
  switch (t) {
    case Type::U16:
      return multiply_wide<u16, u32, add>;
    case Type::S16:
      return multiply_wide<s16, s32, add>;
    case Type::U32:
      return multiply_wide<u32, u64, add>;
    case Type::S32:
      return multiply_wide<s32, s64, add>;
    default:
      return nullptr;
  }
}

// Multi-word arithmetic with a carry flag in each lane. flag: reads the carry; flag2: writes it.
enum Chain : u8 { ChainAdd, ChainSubtract, ChainLow, ChainHigh };
template <class T>
void chain(Warp& w, const Instruction& i) {
  using Slot = typename Format<T>::Slot;
  constexpr int bits = 8 * sizeof(T);
  Slot* d = lanes<Slot>(w, i.x[0]);
  const Slot* a = lanes<Slot>(w, i.x[1]);
  const Slot* b = lanes<Slot>(w, i.x[2]);
  const Slot* c = i.mode >= ChainLow ? lanes<Slot>(w, i.x[3]) : nullptr;
  for_lanes(w.active, [&](int l) {
    const u128 x = a[l], y = b[l], in = i.flag ? w.carry >> l & 1 : 0;
    const u128 product = i.mode == ChainHigh ? x * y >> bits : static_cast<T>(x * y);
    u128 r = i.mode == ChainAdd ? x + y + in : i.mode == ChainSubtract ? x - y - in : product + c[l] + in;
    const bool out = i.mode == ChainSubtract ? x < y + in : (r >> bits & 1) != 0;
    d[l] = static_cast<Slot>(r);
    if (i.flag2) w.carry = (w.carry & ~(1u << l)) | (out ? 1u << l : 0u);
  });
}

// flag, flag2: a, b signed; mode: 4 or 2 products; mode2: dp2a.hi
void dot_product(Warp& w, const Instruction& i) {
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[2]);
  const u32* c = lanes<u32>(w, i.x[3]);
  const auto part = [](u32 v, int index, int bits, bool is_signed) {
    const u32 up = v << (32 - bits * (index + 1));
    return is_signed ? static_cast<s32>(up) >> (32 - bits) : static_cast<s32>(up >> (32 - bits));
  };
  for_lanes(w.active, [&](int l) {
    u32 sum = c[l];
    for (int k = 0; k < i.mode; ++k) {
      const s32 x = part(a[l], k, 32 / i.mode, i.flag), y = part(b[l], k + 2 * i.mode2, 8, i.flag2);
      sum += static_cast<u32>(x * y);
    }
    d[l] = sum;
  });
}

}  // namespace

Execute find_integer(const Mnemonic& m, Instruction& i) {
  const Type t = i.type;
  if (is_float(t) || is_packed(t) || t == Type::Pred) return nullptr;
  const auto chained = [&](Chain kind, std::string_view with_carry) -> Execute {
    i.mode = kind;
    i.flag = m.op == with_carry;
    i.flag2 = m.has("cc");
    return size_of(t) == 8 ? chain<u64> : chain<u32>;
  };
  if (m.op == "addc" || (m.op == "add" && m.has("cc"))) return chained(ChainAdd, "addc");
  if (m.op == "subc" || (m.op == "sub" && m.has("cc"))) return chained(ChainSubtract, "subc");
  if (m.op == "madc" || (m.op == "mad" && m.has("cc"))) {
    return chained(m.has("hi") ? ChainHigh : ChainLow, "madc");
  }
  if (m.op == "add") return i.saturate ? elementwise<s32, AddSaturated, 2> : for_integer<Add, 2>(t);
  if (m.op == "sub") return i.saturate ? elementwise<s32, SubtractSaturated, 2> : for_integer<Subtract, 2>(t);
  if (m.op == "mul") {
    if (m.has("wide")) return find_wide<false>(t);
    return m.has("hi") ? for_integer<MultiplyHigh, 2>(t) : for_integer<Multiply, 2>(t);
  }
  if (m.op == "mad") {
    if (m.has("wide")) return find_wide<true>(t);
    return m.has("hi") ? for_integer<ThenAdd<MultiplyHigh>, 3>(t) : for_integer<ThenAdd<Multiply>, 3>(t);
  }
  if (m.op == "div") return for_integer<Divide, 2>(t);
  if (m.op == "rem") return for_integer<Remainder, 2>(t);
  if (m.op == "min") return for_integer<Minimum, 2>(t);
  if (m.op == "max") return for_integer<Maximum, 2>(t);
  if (m.op == "abs") return for_integer<Absolute, 1>(t);
  if (m.op == "neg") return for_integer<Negate, 1>(t);
  if (m.op == "sad") return for_integer<SumOfDifference, 3>(t);
  if (m.op == "dp4a" || m.op == "dp2a") {
    i.mode = m.op == "dp4a" ? 4 : 2;
    i.mode2 = m.has("hi");
    i.flag = is_signed(i.first_type);
    i.flag2 = is_signed(t);
    return dot_product;
  }
  return nullptr;
}

}  // namespace emulator
