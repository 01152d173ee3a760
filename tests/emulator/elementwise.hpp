// SPDX-License-Identifier: Apache-2.0
// Instructions that treat every lane alike: operation F on operands of type T.
#pragma once
#include "warp.hpp"

namespace emulator {

template <class T>
T flush_subnormal(T v) {
  if constexpr (std::is_same_v<T, float>) {
    return std::fabs(v) < 0x1p-126f ? std::copysign(0.f, v) : v;
  } else {
    return v;
  }
}
template <class T>
T saturate(T v) {  // to [0, 1], NaN to 0
  return v > 0 ? std::min(v, T{1}) : T{0};
}
template <class T>
T relu(T v) {
  return v > 0 || v != v ? v : T{0};
}

template <int Arity, class F, class V>
V apply(V a, V b, V c) {
  if constexpr (Arity == 1) {
    return static_cast<V>(F{}(a));
  } else if constexpr (Arity == 2) {
    return static_cast<V>(F{}(a, b));
  } else {
    return static_cast<V>(F{}(a, b, c));
  }
}

/// x[0] = F(x[1], ...) in every active lane. flag: relu.
template <class T, class F, int Arity>
void elementwise(Warp& w, const Instruction& i) {
  using Slot = typename Format<T>::Slot;
  using Value = typename Format<T>::Value;
  Slot* d = lanes<Slot>(w, i.x[0]);
  const Slot* a = lanes<Slot>(w, i.x[1]);
  const Slot* b = lanes<Slot>(w, i.x[Arity > 1 ? 2 : 1]);
  const Slot* c = lanes<Slot>(w, i.x[Arity > 2 ? 3 : 1]);
  const auto value = [](Slot s) { return Format<T>::get(s); };
  if constexpr (std::is_floating_point_v<Value>) {
    const WithRounding mode(i.rounding);
    if (i.flush || i.saturate || i.flag) {
      const auto in = [&](Slot s) { return i.flush ? flush_subnormal(value(s)) : value(s); };
      for_lanes(w.active, [&](int l) {
        Value r = apply<Arity, F, Value>(in(a[l]), in(b[l]), in(c[l]));
        if (i.flush) r = flush_subnormal(r);
        if (i.saturate) r = saturate(r);
        if (i.flag) r = relu(r);
        d[l] = Format<T>::put(r);
      });
      return;
    }
  }
  for_lanes(w.active, [=](int l) {
    d[l] = Format<T>::put(apply<Arity, F, Value>(value(a[l]), value(b[l]), value(c[l])));
  });
}

/// The same on two 16-bit floats in one register.
template <class T, class F, int Arity>
void elementwise_pair(Warp& w, const Instruction& i) {
  u32* d = lanes<u32>(w, i.x[0]);
  const u32* a = lanes<u32>(w, i.x[1]);
  const u32* b = lanes<u32>(w, i.x[Arity > 1 ? 2 : 1]);
  const u32* c = lanes<u32>(w, i.x[Arity > 2 ? 3 : 1]);
  for_lanes(w.active, [&](int l) {
    u32 both = 0;
    for (int shift : {0, 16}) {
      const auto value = [=](u32 s) { return Format<T>::get(s >> shift & 0xffff); };
      double r = apply<Arity, F, double>(value(a[l]), value(b[l]), value(c[l]));
      if (i.saturate) r = saturate(r);
      if (i.flag) r = relu(r);
      both |= Format<T>::put(r) << shift;
    }
    d[l] = both;
  });
}

/// The instance for a type; null where it does not fit.
template <class F, int Arity>
Execute for_integer(Type t) {
  switch (t) {
    case Type::B16:
    case Type::U16:
      return elementwise<u16, F, Arity>;
    case Type::S16:
      return elementwise<s16, F, Arity>;
    case Type::B32:
    case Type::U32:
      return elementwise<u32, F, Arity>;
    case Type::S32:
      return elementwise<s32, F, Arity>;
    case Type::B64:
    case Type::U64:
      return elementwise<u64, F, Arity>;
    case Type::S64:
      return elementwise<s64, F, Arity>;
    default:
      return nullptr;
  }
}
template <class F, int Arity>
Execute for_float(Type t) {
  switch (t) {
    case Type::F32:
      return elementwise<float, F, Arity>;
    case Type::F64:
      return elementwise<double, F, Arity>;
    case Type::F16:
      return elementwise<Half, F, Arity>;
    case Type::Bf16:
      return elementwise<Bfloat16, F, Arity>;
    case Type::F16x2:
      return elementwise_pair<Half, F, Arity>;
    case Type::Bf16x2:
      return elementwise_pair<Bfloat16, F, Arity>;
    default:
      return nullptr;
  }
}

}  // namespace emulator
