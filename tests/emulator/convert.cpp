// SPDX-License-Identifier: Apache-2.0
// cvt: between number formats.
#include "elementwise.hpp"
#include "instructions.hpp"

namespace emulator {
namespace {

enum IntegralRounding : u8 { ToNearest, TowardZero, Downward, Upward };
double round_integral(double v, u8 mode) {
  switch (mode) {
    case ToNearest:
      return std::nearbyint(v);
    case TowardZero:
      return std::trunc(v);
    case Downward:
      return std::floor(v);
    default:
      return std::ceil(v);
  }
}

double read_float(Type t, u64 bits) {
  switch (t) {
    case Type::F16:
      return half_to_float(static_cast<u16>(bits));
    case Type::Bf16:
      return bfloat16_to_float(static_cast<u16>(bits));
    case Type::F32:
      return std::bit_cast<float>(static_cast<u32>(bits));
    default:
      return std::bit_cast<double>(bits);
  }
}
u64 write_float(Type t, double v, Rounding r) {
  switch (t) {
    case Type::F16:
      return r == Rounding::Nearest ? to_half(v) : v != v ? 0x7fffu : round_to(v, 5, 10, r);
    case Type::Bf16:
      return r == Rounding::Nearest ? to_bfloat16(v) : v != v ? 0x7fffu : round_to(v, 8, 7, r);
    case Type::F32: {
      const WithRounding mode(r);
      const volatile double exact = v;
      const volatile float rounded = static_cast<float>(exact);
      return std::bit_cast<u32>(static_cast<float>(rounded));
    }
    default:
      return std::bit_cast<u64>(v);
  }
}

u64 extend(u64 v, Type t) {
  switch (t) {
    case Type::B8:
    case Type::U8:
      return static_cast<u8>(v);
    case Type::S8:
      return static_cast<u64>(static_cast<s8>(v));
    case Type::S16:
      return static_cast<u64>(static_cast<s16>(v));
    case Type::S32:
      return static_cast<u64>(static_cast<s32>(v));
    default:
      return size_of(t) == 2 ? static_cast<u16>(v) : size_of(t) == 4 ? static_cast<u32>(v) : v;
  }
}
s128 lowest(Type t) { return is_signed(t) ? -(s128{1} << (8 * size_of(t) - 1)) : 0; }
s128 highest(Type t) { return (s128{1} << (8 * size_of(t) - (is_signed(t) ? 1 : 0))) - 1; }

u64 float_to_integer(double v, Type t,
                     u8 mode) {  // out of range: the nearest end; NaN: 0, or 2^63 for 64 bits
  if (v != v) return size_of(t) == 8 ? u64{1} << 63 : 0;
  const double whole = round_integral(v, mode);
  if (whole >= std::ldexp(1.0, static_cast<int>(8 * size_of(t)) - (is_signed(t) ? 1 : 0))) {
    return static_cast<u64>(highest(t));
  }
  if (whole <= static_cast<double>(lowest(t))) return static_cast<u64>(lowest(t));
  return static_cast<u64>(static_cast<s128>(whole));
}
u64 integer_to_float(u64 v, Type from, Type to, Rounding r) {
  if (to == Type::F32) {
    const WithRounding mode(r);
    const volatile u64 exact = v;
    const volatile float rounded =
        is_signed(from) ? static_cast<float>(static_cast<s64>(exact)) : static_cast<float>(exact);
    return std::bit_cast<u32>(static_cast<float>(rounded));
  }
  return write_float(to, is_signed(from) ? static_cast<double>(static_cast<s64>(v)) : static_cast<double>(v),
                     r);
}

// flag: rounds a float to an integral value, by mode; flag2: relu
u64 converted(const Instruction& i, u64 v) {
  const Type to = i.first_type, from = i.type;
  if (!is_float(from)) {
    v = extend(v, from);
    if (is_float(to)) return integer_to_float(v, from, to, i.rounding);
    if (!i.saturate) return extend(v, to);
    const s128 exact = is_signed(from) ? s128{static_cast<s64>(v)} : static_cast<s128>(v);
    return extend(static_cast<u64>(std::clamp(exact, lowest(to), highest(to))), to);
  }
  double x = read_float(from, v);
  if (i.flush && from == Type::F32) x = flush_subnormal(static_cast<float>(x));
  if (!is_float(to)) return extend(float_to_integer(x, to, i.mode), to);
  if (i.flag) x = round_integral(x, i.mode);
  if (i.saturate) x = saturate(x);
  if (i.flag2) x = relu(x);
  const u64 r = write_float(to, x, i.rounding);
  if (!i.flush || to != Type::F32) return r;
  return std::bit_cast<u32>(flush_subnormal(std::bit_cast<float>(static_cast<u32>(r))));
}

void convert(Warp& w, const Instruction& i) {
  for_lanes(w.active, [&](int l) { set(w, i.x[0], l, converted(i, get(w, i.x[1], l))); });
}
void half_to_single(Warp& w, const Instruction& i) {  // the usual one, vectorized
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  for_lanes(w.active, [=](int l) { d[l] = std::bit_cast<u32>(half_to_float(static_cast<u16>(a[l]))); });
}
void pair_from_singles(Warp& w, const Instruction& i) {  // x[0] = {upper: x[1], lower: x[2]}; flag2: relu
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* upper = lanes<u32>(w, i.x[1]);
  const u32* lower = lanes<u32>(w, i.x[2]);
  const Type half = i.first_type == Type::F16x2 ? Type::F16 : Type::Bf16;
  const auto rounded = [&](u32 bits) {
    const double v = std::bit_cast<float>(bits);
    return static_cast<u32>(write_float(half, i.flag2 ? relu(v) : v, i.rounding));
  };
  for_lanes(w.active, [&](int l) { d[l] = rounded(upper[l]) << 16 | rounded(lower[l]); });
}

}  // namespace

Execute find_convert(const Mnemonic& m, Instruction& i) {
  if (m.op != "cvt" || m.has("pack")) return nullptr;
  i.flag2 = m.has("relu");
  i.flag = true;
  i.mode = m.has("rni") ? ToNearest : m.has("rmi") ? Downward : m.has("rpi") ? Upward : TowardZero;
  if (i.mode == TowardZero && !m.has("rzi")) i.flag = false;
  if (is_packed(i.first_type)) return i.operands == 3 && i.type == Type::F32 ? pair_from_singles : nullptr;
  if (i.type == Type::F16 && i.first_type == Type::F32 && !i.flush && !i.saturate && !i.flag)
    return half_to_single;
  return convert;
}

}  // namespace emulator
