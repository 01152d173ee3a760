// SPDX-License-Identifier: Apache-2.0
// A kernel as the emulator runs it: PTX decoded once, names resolved to offsets.
#pragma once
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "numbers.hpp"

namespace emulator {

constexpr int warp_size = 32;

/// The type suffixes of PTX.
enum class Type : u8 {
  None,
  Pred,
  B8,
  B16,
  B32,
  B64,
  B128,
  U8,
  U16,
  U32,
  U64,
  S8,
  S16,
  S32,
  S64,
  F16,
  F16x2,
  Bf16,
  Bf16x2,
  F32,
  F64
};
/// Type::None if `name` is no type.
Type type_named(std::string_view name);

constexpr u32 size_of(Type t) {
  switch (t) {
    case Type::B8:
    case Type::U8:
    case Type::S8:
      return 1;
    case Type::B16:
    case Type::U16:
    case Type::S16:
    case Type::F16:
    case Type::Bf16:
      return 2;
    case Type::B64:
    case Type::U64:
    case Type::S64:
    case Type::F64:
      return 8;
    case Type::B128:
      return 16;
    default:
      return 4;
  }
}
constexpr bool is_signed(Type t) {
  return t == Type::S8 || t == Type::S16 || t == Type::S32 || t == Type::S64;
}
constexpr bool is_float(Type t) {
  return t == Type::F16 || t == Type::Bf16 || t == Type::F32 || t == Type::F64;
}
constexpr bool is_packed(Type t) { return t == Type::F16x2 || t == Type::Bf16x2; }

/// Shared and local memory lie in windows of the generic address space; everything else in it is a host pointer.
enum class Space : u8 { Generic, Global, Shared, Local, Constant, Param };
constexpr u64 shared_window = u64{1} << 56, local_window = u64{2} << 56, window_mask = u64{0xff} << 56;

struct Operand {
  enum class Kind : u8 { Reg, Constant, Pred, Address, Label, Sink };
  Kind kind = Kind::Sink;
  bool wide = false;      // reg: 8 bytes a lane instead of 4; address: such a base
  bool negated = false;   // pred: written with "!"
  bool has_base = false;  // address: `offset` is a register
  u32 offset = 0;         // bytes into the register file or the constants; label: the target
  s64 value = 0;          // constant: the value; address: the displacement
};

struct Warp;
struct Instruction;
using Execute = void (*)(Warp&, const Instruction&);

/// One decoded instruction. `mode` and `flag` mean what the family that executes it says.
struct Instruction {
  Execute execute = nullptr;
  std::vector<Operand> x;             // operands, vectors flattened
  std::array<u8, 8> first{}, size{};  // operand i is x[first[i]] .. x[first[i] + size[i] - 1]
  std::vector<u32> table;             // targets of brx, copies of a call
  u32 guard = 0;                      // offset of the predicate
  u32 pc = 0;
  u8 operands = 0;
  u8 mode = 0, mode2 = 0;
  Type type = Type::None;        // the last type suffix, usually the source's
  Type first_type = Type::None;  // the one before it, usually the destination's
  Space space = Space::Generic;
  Rounding rounding = Rounding::Nearest;
  bool guarded = false, guard_negated = false;
  bool flush = false, saturate = false, flag = false, flag2 = false;

  const Operand& operator[](int i) const { return x[first[static_cast<std::size_t>(i)]]; }
};

/// Where an instruction stood.
struct Source {
  std::string opcode, text;
  int line = 0;         // line of the PTX
  int source_line = 0;  // line of the program, 0 if unknown
};

struct Parameter {
  u32 offset, bytes;
};

/// A kernel with the functions that it calls.
struct Program {
  std::string name;
  std::vector<Instruction> code;
  std::vector<Source> sources;  // [i]: that of code[i]
  std::vector<u8> constants;    // each: 32 lanes of 4 bytes, then 32 lanes of 8
  std::vector<Parameter> parameters;
  std::vector<u8> parameter_values;
  u32 register_bytes = 0, local_bytes = 0;
  u32 reserved_shared_bytes = 0;  // what CUDA keeps for itself, in front of all
  u32 static_shared_bytes = 0;    // the dynamic part begins behind them
  u32 max_threads = 1024;         // .maxntid or .reqntid
  int architecture = 0;           // .target: 80 for sm_80
  u32 min_blocks = 0;             // .minnctapersm
  bool uses_async_proxy =
      false;  // has wgmma or bulk copies, which see shared memory through a proxy of their own
};

/// Special registers stand at the start of the register file, 128 bytes each.
enum class Special : u32 {
  TidX,
  TidY,
  TidZ,
  NtidX,
  NtidY,
  NtidZ,
  CtaidX,
  CtaidY,
  CtaidZ,
  NctaidX,
  NctaidY,
  NctaidZ,
  Laneid,
  Warpid,
  Nwarpid,
  Smid,
  Nsmid,
  LanemaskEq,
  LanemaskLt,
  LanemaskLe,
  LanemaskGt,
  LanemaskGe,
  DynamicSmemSize,
  TotalSmemSize,
  Clock,
  Count
};
constexpr u32 offset_of(Special s) { return static_cast<u32>(s) * 128; }
constexpr u32 clock64_offset = offset_of(Special::Count), first_register = clock64_offset + 256;

/// An opcode cut at its dots: "ld.global.v4.u32" has op "ld" and the other parts.
struct Mnemonic {
  std::string_view op;
  std::vector<std::string_view> parts;
  bool has(std::string_view part) const {
    for (std::string_view p : parts) {
      if (p == part) return true;
    }
    return false;
  }
};

/// Stops the launch with a message.
[[noreturn]] void fail(const std::string& message);

}  // namespace emulator
