// SPDX-License-Identifier: Apache-2.0
// Float arithmetic. Instructions marked .approx give accurate results, not the hardware's last bits.
#include "elementwise.hpp"
#include "instructions.hpp"

namespace emulator {
namespace {

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Subtract {
  template <class T>
  T operator()(T a, T b) const {
    return a - b;
  }
};
struct Multiply {
  template <class T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct FusedMultiplyAdd {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
struct Divide {
  template <class T>
  T operator()(T a, T b) const {
    return a / b;
  }
};
// The other operand where one is NaN; -0 is below +0.
struct Minimum {
  template <class T>
  T operator()(T a, T b) const {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
  }
};
struct Maximum {
  template <class T>
  T operator()(T a, T b) const {
    if (a != a) return b;
    if (b != b) return a;
    if (a == b) return std::signbit(a) ? b : a;
    return a > b ? a : b;
  }
};
template <class F>
struct OrNan {
  template <class T>
  T operator()(T a, T b) const {
    return a != a || b != b ? static_cast<T>(NAN) : F{}(a, b);
  }
};
struct Absolute {
  template <class T>
  T operator()(T a) const {
    return std::fabs(a);
  }
};
struct Negate {
  template <class T>
  T operator()(T a) const {
    return -a;
  }
};
struct CopySign {
  template <class T>
  T operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};
struct Reciprocal {
  template <class T>
  T operator()(T a) const {
    return 1 / a;
  }
};
struct SquareRoot {
  template <class T>
  T operator()(T a) const {
    return std::sqrt(a);
  }
};
struct ReciprocalSquareRoot {
  template <class T>
  T operator()(T a) const {
    return static_cast<T>(1 / std::sqrt(static_cast<double>(a)));
  }
};
struct Sine {
  template <class T>
  T operator()(T a) const {
    return std::sin(a);
  }
};
struct Cosine {
  template <class T>
  T operator()(T a) const {
    return std::cos(a);
  }
};
struct Log2 {
  template <class T>
  T operator()(T a) const {
    return std::log2(a);
  }
};
struct Exp2 {
  template <class T>
  T operator()(T a) const {
    return std::exp2(a);
  }
};
struct HyperbolicTangent {
  template <class T>
  T operator()(T a) const {
    return std::tanh(a);
  }
};

// What exists for f32 alone, or is used with it alone.
template <class F>
Execute single(Type t) {
  return t == Type::F32 ? elementwise<float, F, 1> : nullptr;
}

}  // namespace

Execute find_floating(const Mnemonic& m, Instruction& i) {
  const Type t = i.type;
  if (m.op == "add") return for_float<Add, 2>(t);
  if (m.op == "sub") return for_float<Subtract, 2>(t);
  if (m.op == "mul") return for_float<Multiply, 2>(t);
  if (m.op == "fma" || m.op == "mad") {
    i.flag = m.has("relu");
    return for_float<FusedMultiplyAdd, 3>(t);
  }
  if (m.op == "div") return t == Type::F64 ? elementwise<double, Divide, 2> : elementwise<float, Divide, 2>;
  if (m.op == "min") return m.has("NaN") ? for_float<OrNan<Minimum>, 2>(t) : for_float<Minimum, 2>(t);
  if (m.op == "max") return m.has("NaN") ? for_float<OrNan<Maximum>, 2>(t) : for_float<Maximum, 2>(t);
  if (m.op == "abs") return for_float<Absolute, 1>(t);
  if (m.op == "neg") return for_float<Negate, 1>(t);
  if (m.op == "copysign") return for_float<CopySign, 2>(t);
  if (m.op == "rcp") return t == Type::F64 ? elementwise<double, Reciprocal, 1> : single<Reciprocal>(t);
  if (m.op == "sqrt") return t == Type::F64 ? elementwise<double, SquareRoot, 1> : single<SquareRoot>(t);
  if (m.op == "rsqrt")
    return t == Type::F64 ? elementwise<double, ReciprocalSquareRoot, 1> : single<ReciprocalSquareRoot>(t);
  if (m.op == "sin") return single<Sine>(t);
  if (m.op == "cos") return single<Cosine>(t);
  if (m.op == "lg2") return single<Log2>(t);
  if (m.op == "ex2") return single<Exp2>(t);
  if (m.op == "tanh") return single<HyperbolicTangent>(t);
  return nullptr;
}

}  // namespace emulator
