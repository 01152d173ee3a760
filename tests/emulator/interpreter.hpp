// SPDX-License-Identifier: Apache-2.0
// Executes the PTX that nvcc emits, on the CPU, warp by warp.
//
// What it is for: running the real device code of a CUDA library on a machine
// without a GPU, checking its results, and counting what can be counted without
// one (global-memory sectors, shared-memory bank conflicts, instruction mix).
//
// Model
//  * A warp is 32 lanes in lock-step. Lanes that diverge become fragments
//    (pc, mask); the deepest call, then the lowest pc runs first, fragments that
//    meet at a pc merge. A .sync instruction waits until all lanes it names have
//    arrived; if they never can, that is reported as an error.
//  * A register is one 32-lane array: 4 bytes a lane, 8 for 64-bit types;
//    a predicate is one 32-bit mask.
//  * Global addresses are host pointers, each access checked against the known
//    allocations and for alignment. Shared and local memory lie in windows of
//    the generic address space.
//  * cp.async writes shared memory as late as the program allows (at the wait),
//    so a missing wait gives wrong data. Shared memory starts as 0xff bytes.
//  * Approximate instructions (ex2.approx, rcp.approx, ...) give the correctly
//    rounded or libm result, not the hardware's last bits.
//  * mma.sync sums exactly by default; see MmaMode for the hardware's rounding.
//

#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cfenv>
#include <climits>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <vector>
#if defined(__F16C__)
#  include <immintrin.h>
#endif

namespace ptx {

using std::string;
using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

constexpr int kWarp = 32;
constexpr u64 kSharedWindow = 1ull << 56, kLocalWindow = 2ull << 56, kWindowMask = 0xffull << 56;

[[noreturn]] void fail(const char* fmt, ...) {
  char buf[2048];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(buf, sizeof buf, fmt, ap);
  va_end(ap);
  throw std::runtime_error(buf);
}

// ---------------------------------------------------------------- small floats
inline float half_to_float(u16 h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  u32 s = (h & 0x8000u) << 16, e = (h >> 10) & 31, m = h & 1023;
  if (e == 31) return std::bit_cast<float>(s | 0x7f800000u | (m << 13));
  float v = e ? std::bit_cast<float>(((e + 112) << 23) | (m << 13)) : float(m) * 0x1p-24f;
  return std::bit_cast<float>(std::bit_cast<u32>(v) | s);
#endif
}
// Rounds to float with the last bit sticky, so that a second rounding is exact.
inline float to_float_odd(double d) {
  float f = float(d);
  if (double(f) == d || d != d || std::isinf(f)) return f;
  u32 b = std::bit_cast<u32>(f);
  if (std::fabs(double(f)) > std::fabs(d)) --b;
  return std::bit_cast<float>(b | 1);
}
enum class Rnd : u8 { rn, rz, rm, rp, rna };
// Rounds to a format of ebits exponent and mbits fraction bits (IEEE-like, with
// infinities). Used where the fast paths below do not apply.
inline u32 to_small(double d, int ebits, int mbits, Rnd r) {
  u32 sign = std::signbit(d) ? 1u << (ebits + mbits) : 0;
  const int bias = (1 << (ebits - 1)) - 1;
  const u32 inf = ((1u << ebits) - 1) << mbits;
  if (d != d) return inf | ((1u << mbits) - 1);
  double a = std::fabs(d);
  if (std::isinf(a)) return sign | inf;
  if (a == 0) return sign;
  int e = std::max(std::ilogb(a), 1 - bias);
  double q = std::ldexp(a, mbits - e), f = std::floor(q), rem = q - f;
  bool neg = sign != 0, up = false;
  switch (r) {
    case Rnd::rn:
      up = rem > 0.5 || (rem == 0.5 && std::fmod(f, 2) == 1);
      break;
    case Rnd::rna:
      up = rem >= 0.5;
      break;
    case Rnd::rz:
      break;
    case Rnd::rm:
      up = neg && rem > 0;
      break;
    case Rnd::rp:
      up = !neg && rem > 0;
      break;
  }
  u64 m = u64(f) + up;  // hidden bit included for normals
  u64 bits = m >= (1ull << mbits) ? (u64(e + bias - 1) << mbits) + m : m;
  if (bits >= inf) bits = (r == Rnd::rz || (r == Rnd::rm && !neg) || (r == Rnd::rp && neg)) ? inf - 1 : inf;
  return sign | u32(bits);
}
inline u16 float_to_half(float f) {
#if defined(__F16C__)
  return f != f ? 0x7fff : _cvtss_sh(f, _MM_FROUND_TO_NEAREST_INT);
#else
  return u16(to_small(f, 5, 10, Rnd::rn));
#endif
}
inline u16 double_to_half(double d) { return float_to_half(to_float_odd(d)); }
inline float bf16_to_float(u16 h) { return std::bit_cast<float>(u32(h) << 16); }
inline u16 double_to_bf16(double d) {
  if (d != d) return 0x7fff;
  u32 b = std::bit_cast<u32>(to_float_odd(d));
  return u16((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
inline float e4m3_to_float(u8 b) {
  int e = (b >> 3) & 15, m = b & 7;
  if ((b & 0x7f) == 0x7f) return NAN;
  float v = e ? std::ldexp(1.f + m / 8.f, e - 7) : std::ldexp(m / 8.f, -6);
  return b & 0x80 ? -v : v;
}
inline float e5m2_to_float(u8 b) { return half_to_float(u16(b << 8)); }
inline u8 float_to_e4m3(float f) {  // satfinite
  if (f != f) return 0x7f;
  if (std::fabs(f) >= 464.f) return u8((std::signbit(f) ? 0x80 : 0) | 0x7e);
  u32 v = to_small(f, 5, 3, Rnd::rn);  // wider exponent: never infinite here
  // to_small used bias 15; redo with bias 7 through scaling of subnormals
  double a = std::fabs(double(f));
  if (a == 0) return std::signbit(f) ? 0x80 : 0;
  int e = std::max(std::ilogb(a), -6);
  double q = std::nearbyint(std::ldexp(a, 3 - e));
  v = q >= 8 ? (u32(e + 6) << 3) + u32(q) : u32(q);
  if (v > 0x7e) v = 0x7e;
  return u8((std::signbit(f) ? 0x80 : 0) | v);
}
inline u8 float_to_e5m2(float f) {  // satfinite
  if (f != f) return 0x7f;
  u32 v = to_small(f, 5, 2, Rnd::rn);
  if ((v & 0x7f) > 0x7b) v = (v & 0x80) | 0x7b;
  return u8(v);
}

// ---------------------------------------------------------------------- types
enum class Ty : u8 {
  none,
  pred,
  b8,
  b16,
  b32,
  b64,
  b128,
  u8_,
  u16_,
  u32_,
  u64_,
  s8_,
  s16_,
  s32_,
  s64_,
  f16,
  f16x2,
  bf16,
  bf16x2,
  tf32,
  f32,
  f64,
  e4m3,
  e5m2,
  e4m3x2,
  e5m2x2,
  s4,
  u4
};
const std::map<string, Ty> kTypes = {
    {"pred", Ty::pred},     {"b8", Ty::b8},         {"b16", Ty::b16},   {"b32", Ty::b32},
    {"b64", Ty::b64},       {"b128", Ty::b128},     {"u8", Ty::u8_},    {"u16", Ty::u16_},
    {"u32", Ty::u32_},      {"u64", Ty::u64_},      {"s8", Ty::s8_},    {"s16", Ty::s16_},
    {"s32", Ty::s32_},      {"s64", Ty::s64_},      {"f16", Ty::f16},   {"f16x2", Ty::f16x2},
    {"bf16", Ty::bf16},     {"bf16x2", Ty::bf16x2}, {"tf32", Ty::tf32}, {"f32", Ty::f32},
    {"f64", Ty::f64},       {"e4m3", Ty::e4m3},     {"e5m2", Ty::e5m2}, {"e4m3x2", Ty::e4m3x2},
    {"e5m2x2", Ty::e5m2x2}, {"s4", Ty::s4},         {"u4", Ty::u4}};
int size_of(Ty t) {
  switch (t) {
    case Ty::b8:
    case Ty::u8_:
    case Ty::s8_:
      return 1;
    case Ty::b16:
    case Ty::u16_:
    case Ty::s16_:
    case Ty::f16:
    case Ty::bf16:
    case Ty::e4m3x2:
    case Ty::e5m2x2:
      return 2;
    case Ty::b64:
    case Ty::u64_:
    case Ty::s64_:
    case Ty::f64:
      return 8;
    case Ty::b128:
      return 16;
    default:
      return 4;
  }
}
bool is_signed(Ty t) { return t == Ty::s8_ || t == Ty::s16_ || t == Ty::s32_ || t == Ty::s64_; }
bool is_float(Ty t) { return t == Ty::f16 || t == Ty::bf16 || t == Ty::f32 || t == Ty::f64 || t == Ty::tf32; }

enum class Space : u8 { generic, global, shared, local, constant, param };

// ------------------------------------------------------------- program objects
struct Warp;
struct Inst;
using Fn = void (*)(Warp&, const Inst&);

struct Opnd {
  enum Kind : u8 { None, Reg, Const, Pred, Addr, Label, Sink } kind = None;
  bool wide = false;     // Reg: 8 bytes a lane
  bool neg = false;      // Pred: "!"
  bool hasBase = false;  // Addr: off is a register
  u32 off = 0;           // byte offset in the register file or constant pool; Label: target
  s64 imm = 0;           // Addr: displacement; Const: the value
};

struct Inst {
  Fn fn = nullptr;
  Ty ty = Ty::none, ty2 = Ty::none;  // last and previous type suffix: "cvt.<ty2>.<ty>"
  Space space = Space::generic;
  Rnd rnd = Rnd::rn;
  u8 vec = 1, sub = 0, sub2 = 0, sub3 = 0;
  bool ftz = false, sat = false, flag = false, flag2 = false;
  bool guarded = false, guardNeg = false;
  bool poll = false;  // may be a spin on another block: ends the warp's turn
  u32 guard = 0;
  u32 pc = 0;
  std::vector<Opnd> x;            // operands, vectors flattened
  std::array<u8, 8> at{}, cnt{};  // operand i is x[at[i]] .. x[at[i]+cnt[i]-1]
  u8 nops = 0;
  std::vector<u32> table;  // brx targets, or call copy list
  string opcode, text;
  int line = 0, locFile = 0, locLine = 0;
  const Opnd& o(int i) const { return x[at[i]]; }
};

struct Param {
  string name;
  u32 offset, size;
};
struct Entry {
  string name;
  std::vector<Param> params;
  u32 paramBytes = 0, start = 0;
  u32 sharedBytes = 0;
  bool ready = false;
};

// Per instruction: global requests with their bytes and sectors, shared requests with their passes.
struct Stat {
  u64 exec = 0, lanes = 0, requests = 0, sectors = 0, bytes = 0, sharedRequests = 0, waves = 0,
      wavesIdeal = 0;
  void add(const Stat& s) {
    exec += s.exec;
    lanes += s.lanes;
    requests += s.requests;
    sectors += s.sectors;
    bytes += s.bytes;
    sharedRequests += s.sharedRequests;
    waves += s.waves;
    wavesIdeal += s.wavesIdeal;
  }
};

enum class MmaMode : u8 {
  exact,   // sum in double, one rounding to the destination
  ampere,  // sm_80..89: 8 products a step, aligned to the largest, 24 fraction bits kept, truncated
  hopper,  // sm_90+: 16 products a step, 25 fraction bits kept, truncated
};

struct Options {
  MmaMode mma = MmaMode::exact;
  bool profile = true;     // count sectors and bank conflicts
  bool racecheck = false;  // report unordered shared-memory accesses of different warps
  int threads = 1;         // host threads, each runs whole thread blocks
  u64 maxSteps = 0;        // warp instructions per block before giving up; 0: no limit
  u64 resident = 0;        // blocks in flight at once (they may wait for each other); 0: one a host thread
  u32 seed = 0;            // not 0: random order of warps, and lanes that run apart within a warp
};

struct Dim3 {
  u32 x = 1, y = 1, z = 1;
  u64 count() const { return u64(x) * y * z; }
};

// --------------------------------------------------------------- device memory
class Memory {
 public:
  // Adds a range that kernels may touch. The caller keeps it alive.
  void add(const void* p, size_t n, string name = "") { map_[u64(p)] = {n, std::move(name)}; }
  void remove(const void* p) { map_.erase(u64(p)); }
  void* alloc(size_t n) {
    void* p = std::aligned_alloc(512, (n + 1023) / 512 * 512);
    if (!p) fail("out of host memory");
    std::memset(p, 0xff, n);
    add(p, n);
    return p;
  }
  void free(void* p) {
    remove(p);
    std::free(p);
  }
  bool inside(u64 a, u32 n, u64& lo, u64& hi) const {
    auto it = map_.upper_bound(a);
    if (it == map_.begin()) return false;
    --it;
    lo = it->first;
    hi = lo + it->second.size;
    return a + n <= hi;
  }

 private:
  struct Range {
    size_t size;
    string name;
  };
  std::map<u64, Range> map_;
};

// -------------------------------------------------------------------- lexer
struct Tok {
  string s;
  int line;
};

std::vector<Tok> lex(const string& t) {
  std::vector<Tok> out;
  int line = 1;
  size_t i = 0, n = t.size();
  auto word = [](char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
  };
  while (i < n) {
    char c = t[i];
    if (c == '\n') {
      ++line;
      ++i;
    } else if (isspace((unsigned char)c) || c == 0)
      ++i;
    else if (c == '/' && t[i + 1] == '/') {
      while (i < n && t[i] != '\n') ++i;
    } else if (c == '/' && t[i + 1] == '*') {
      while (i < n && !(t[i] == '*' && t[i + 1] == '/')) {
        line += t[i] == '\n';
        ++i;
      }
      i += 2;
    } else if (c == '"') {
      size_t j = i + 1;
      while (j < n && t[j] != '"') ++j;
      out.push_back({t.substr(i, j + 1 - i), line});
      i = j + 1;
    } else if (word(c)) {
      size_t j = i;
      while (j < n && (word(t[j]) || (t[j] == ':' && t[j + 1] == ':' && word(t[j + 2])) ||
                       (t[j] == ':' && j > i && t[j - 1] == ':' && word(t[j + 1]))))
        ++j;
      out.push_back({t.substr(i, j - i), line});
      i = j;
    } else {
      out.push_back({string(1, c), line});
      ++i;
    }
  }
  return out;
}

std::vector<string> split_dots(const string& s) {
  std::vector<string> v;
  size_t b = 0;
  for (size_t i = 0; i <= s.size(); ++i)
    if (i == s.size() || s[i] == '.') {
      if (i > b) v.push_back(s.substr(b, i - b));
      b = i + 1;
    }
  return v;
}

// ----------------------------------------------------------------- the module
struct Symbol {
  Space space;
  u64 value;
  u32 size;
};  // value: address or offset

class Module {
 public:
  explicit Module(const string& text) { parse(lex(text)); }
  static Module load(const string& path) {
    std::ifstream f(path);
    if (!f) fail("cannot open %s", path.c_str());
    std::stringstream s;
    s << f.rdbuf();
    return Module(s.str());
  }
  Entry& entry(const string& name) {
    auto it = entries.find(name);
    if (it == entries.end()) fail("no kernel named %s", name.c_str());
    return it->second;
  }
  // Runs a kernel; args[i] points at the value of parameter i.
  void launch(const string& kernel, Dim3 grid, Dim3 block, u32 dynShared,
              const std::vector<const void*>& args, const Options& opt = {});
  void report(FILE* f, size_t top = 12) const;
  void summary(FILE* f) const;  // one line: totals by class, sectors read and written, shared passes

  std::map<string, Entry> entries;
  std::vector<Inst> code;
  std::vector<Stat> stats;
  std::map<string, u64> races;
  Memory memory;
  string target, version;
  // Layout shared by all kernels of the module (no recursion: every function has its own registers and frame).
  u32 regBytes = 0, localBytes = 0;
  std::vector<u8> constants;
  std::vector<u8> params = std::vector<u8>(32768);
  std::unordered_map<string, Symbol> globals;
  u32 dynSharedOffset = 0;

 private:
  friend struct Parser;
  void parse(std::vector<Tok> toks);
  std::vector<std::unique_ptr<u8[]>> storage_;
};

// Special registers live at fixed places at the start of the register file.
enum Sreg : u32 {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLane,
  kWarpid,
  kNwarpid,
  kSmid,
  kNsmid,
  kMaskEq,
  kMaskLt,
  kMaskLe,
  kMaskGt,
  kMaskGe,
  kClock,
  kClockHi,
  kDynSmem,
  kTotalSmem,
  kZero,
  kOne,
  kEnvreg1,
  kEnvreg2,
  kSregCount
};
constexpr u32 kClock64Off = kSregCount * 128, kFirstReg = kClock64Off + 256;
const std::map<string, u32> kSregs = {{"%tid.x", kTidX},
                                      {"%tid.y", kTidY},
                                      {"%tid.z", kTidZ},
                                      {"%ntid.x", kNtidX},
                                      {"%ntid.y", kNtidY},
                                      {"%ntid.z", kNtidZ},
                                      {"%ctaid.x", kCtaidX},
                                      {"%ctaid.y", kCtaidY},
                                      {"%ctaid.z", kCtaidZ},
                                      {"%nctaid.x", kNctaidX},
                                      {"%nctaid.y", kNctaidY},
                                      {"%nctaid.z", kNctaidZ},
                                      {"%laneid", kLane},
                                      {"%warpid", kWarpid},
                                      {"%nwarpid", kNwarpid},
                                      {"%smid", kSmid},
                                      {"%nsmid", kNsmid},
                                      {"%lanemask_eq", kMaskEq},
                                      {"%lanemask_lt", kMaskLt},
                                      {"%lanemask_le", kMaskLe},
                                      {"%lanemask_gt", kMaskGt},
                                      {"%lanemask_ge", kMaskGe},
                                      {"%clock", kClock},
                                      {"%clock_hi", kClockHi},
                                      {"%envreg1", kEnvreg1},
                                      {"%envreg2", kEnvreg2},
                                      {"%dynamic_smem_size", kDynSmem},
                                      {"%total_smem_size", kTotalSmem},
                                      {"%cluster_ctarank", kZero},
                                      {"%cluster_ctaid.x", kZero},
                                      {"%cluster_ctaid.y", kZero},
                                      {"%cluster_ctaid.z", kZero},
                                      {"%cluster_nctaid.x", kOne},
                                      {"%cluster_nctaid.y", kOne},
                                      {"%cluster_nctaid.z", kOne},
                                      {"%cluster_nctarank", kOne}};

// ------------------------------------------------------------- execution state
struct Frag {
  u32 pc = 0, mask = 0;
  bool blocked = false;  // waits for other lanes of the warp at a .sync instruction
  int barrier = -1;      // waits at this barrier (pc already past it)
  const Inst* red = nullptr;
  std::vector<u32> stack;
};

struct AsyncCopy {
  u32 shared, bytes, srcBytes, group;
  u64 global;
};
struct AsyncQueue {
  std::vector<AsyncCopy> q;
  size_t head = 0;
  u32 group = 0;
};  // of one lane; `group` is the open one

struct Cta;
struct Warp {
  Cta* cta = nullptr;
  Module* mod = nullptr;
  u8* regs = nullptr;
  const u8* pool = nullptr;
  u8* local = nullptr;
  u32 index = 0, alive = 0;
  u32 pc = 0, mask = 0;  // of the running fragment
  u32 execMask = 0;      // mask with the guard applied
  bool yield = false;    // the running fragment must stop here
  u32 carry = 0;
  std::vector<Frag> frags;
  size_t cur = 0;
  std::vector<u8> regStore, localStore;
  std::array<AsyncQueue, kWarp> async;
  u32 rng = 0;             // not 0: lanes are split at random
  std::vector<u32> clock;  // vector clock, one entry a warp
  // A spin on another block: the last polling load, what it read where, and the instructions since.
  u32 spinPc = ~0u;
  u64 spinAddr = 0, spinValue = 0;
  std::vector<std::pair<u32, u32>> spinTrace;
  u64 steps = 0;
};

struct Barrier {
  u32 arrived = 0, expected = 0;
  u32 pop = 0, allAnd = 1, anyOr = 0;
  std::vector<u32> clock;
};
struct Shadow {
  u32 write = 0, read = 0, read2 = 0;
};  // (clock << 6 | warp + 1), 0: never

struct Cta {
  Module* mod;
  const Options* opt;
  std::vector<Stat>* stats;
  std::map<string, u64>* races;
  std::mutex* atomics;
  Dim3 grid, block, id;
  std::vector<u8> shared;
  std::vector<Shadow> shadow;
  std::vector<Warp> warps;
  std::array<Barrier, 16> bars;
  u64 loCache = 1, hiCache = 0, spent = 0;
  std::mt19937 rng;
};

[[noreturn]] void fail_at(const Warp& w, const Inst& I, int lane, const string& what) {
  const Cta& c = *w.cta;
  fail("%s\n  at PTX line %d: %s\n  block (%u,%u,%u) warp %u lane %d%s", what.c_str(), I.line, I.text.c_str(),
       c.id.x, c.id.y, c.id.z, w.index, lane,
       I.locLine ? (" source line " + std::to_string(I.locLine)).c_str() : "");
}

template <class S>
S* R(Warp& w, const Opnd& o) {
  if (o.kind == Opnd::Const) return (S*)(w.pool + o.off + (sizeof(S) == 8 ? 128 : 0));
  return (S*)(w.regs + o.off);
}
inline u32& P(Warp& w, const Opnd& o) { return *(u32*)(w.regs + o.off); }
inline u32 pred_value(Warp& w, const Opnd& o) {
  if (o.kind == Opnd::Const) return o.imm ? ~0u : 0u;
  u32 v = P(w, o);
  return o.neg ? ~v : v;
}
template <class F>
inline void each(u32 mask, F f) {
  if (mask == ~0u)
    for (int l = 0; l < kWarp; ++l) f(l);
  else
    for (u32 m = mask; m; m &= m - 1) f(std::countr_zero(m));
}
inline u64 get_any(Warp& w, const Opnd& o, int l) {
  return o.wide ? R<u64>(w, o)[l] : o.kind == Opnd::Const ? R<u64>(w, o)[l] : R<u32>(w, o)[l];
}
inline void set_any(Warp& w, const Opnd& o, int l, u64 v) {
  if (o.kind == Opnd::Sink) return;
  if (o.wide)
    R<u64>(w, o)[l] = v;
  else
    R<u32>(w, o)[l] = u32(v);
}

// Value traits: S is the lane slot, C the type computed in.
struct F16 {};
struct BF16 {};
template <class T>
struct Tr {
  using S = std::conditional_t<sizeof(T) == 8, u64, u32>;
  using C = T;
  static C get(S s) {
    if constexpr (std::is_floating_point_v<T>)
      return std::bit_cast<T>(s);
    else
      return T(s);
  }
  static S put(C c) {
    if constexpr (std::is_floating_point_v<T>)
      return std::bit_cast<S>(c);
    else
      return S(std::make_unsigned_t<T>(c));
  }
};
template <>
struct Tr<F16> {
  using S = u32;
  using C = double;
  static C get(S s) { return half_to_float(u16(s)); }
  static S put(C c) { return double_to_half(c); }
};
template <>
struct Tr<BF16> {
  using S = u32;
  using C = double;
  static C get(S s) { return bf16_to_float(u16(s)); }
  static S put(C c) { return double_to_bf16(c); }
};

template <class C>
C flush(C v) {
  if constexpr (std::is_same_v<C, float>)
    return std::fabs(v) < 0x1p-126f ? std::copysign(0.f, v) : v;
  else
    return v;
}
template <class C>
C clamp01(C v) {
  return v != v ? C(0) : v < 0 ? C(0) : v > 1 ? C(1) : v;
}
struct RoundGuard {
  int old;
  bool on;
  explicit RoundGuard(Rnd r) : old(0), on(r != Rnd::rn) {
    if (!on) return;
    old = std::fegetround();
    std::fesetround(r == Rnd::rz ? FE_TOWARDZERO : r == Rnd::rm ? FE_DOWNWARD : FE_UPWARD);
  }
  ~RoundGuard() {
    if (on) std::fesetround(old);
  }
};

// ---------------------------------------------------------- lane-wise templates
template <class T, class F>
void un(Warp& w, const Inst& I) {
  using X = Tr<T>;
  using S = typename X::S;
  S* d = R<S>(w, I.x[0]);
  const S* a = R<S>(w, I.x[1]);
  RoundGuard g(I.rnd);
  if (I.ftz || I.sat) {
    each(w.execMask, [&](int l) {
      auto v = X::get(a[l]);
      if (I.ftz) v = flush(v);
      auto r = F{}(v);
      if (I.ftz) r = flush(r);
      if constexpr (std::is_floating_point_v<decltype(r)>) {
        if (I.sat) r = clamp01(r);
      }
      d[l] = X::put(r);
    });
  } else
    each(w.execMask, [&](int l) { d[l] = X::put(F{}(X::get(a[l]))); });
}
template <class T, class F>
void bin(Warp& w, const Inst& I) {
  using X = Tr<T>;
  using S = typename X::S;
  using C = typename X::C;
  S* d = R<S>(w, I.x[0]);
  const S *a = R<S>(w, I.x[1]), *b = R<S>(w, I.x[2]);
  if constexpr (std::is_floating_point_v<C>) {
    RoundGuard g(I.rnd);
    if (I.ftz || I.sat) {
      each(w.execMask, [&](int l) {
        C p = X::get(a[l]), q = X::get(b[l]);
        if (I.ftz) p = flush(p), q = flush(q);
        C r = F{}(p, q);
        if (I.ftz) r = flush(r);
        if (I.sat) r = clamp01(r);
        d[l] = X::put(r);
      });
      return;
    }
    each(w.execMask, [&](int l) { d[l] = X::put(F{}(X::get(a[l]), X::get(b[l]))); });
  } else
    each(w.execMask, [&](int l) { d[l] = X::put(C(F{}(X::get(a[l]), X::get(b[l])))); });
}
template <class T, class F>
void tri(Warp& w, const Inst& I) {
  using X = Tr<T>;
  using S = typename X::S;
  using C = typename X::C;
  S* d = R<S>(w, I.x[0]);
  const S *a = R<S>(w, I.x[1]), *b = R<S>(w, I.x[2]), *c = R<S>(w, I.x[3]);
  if constexpr (std::is_floating_point_v<C>) {
    RoundGuard g(I.rnd);
    if (I.ftz || I.sat || I.flag) {
      each(w.execMask, [&](int l) {
        C p = X::get(a[l]), q = X::get(b[l]), s = X::get(c[l]);
        if (I.ftz) p = flush(p), q = flush(q), s = flush(s);
        C r = F{}(p, q, s);
        if (I.ftz) r = flush(r);
        if (I.sat) r = clamp01(r);
        if (I.flag && !(r > 0)) r = r != r ? r : 0;
        d[l] = X::put(r);
      });
      return;
    }
  }
  each(w.execMask, [&](int l) { d[l] = X::put(C(F{}(X::get(a[l]), X::get(b[l]), X::get(c[l])))); });
}
// Two 16-bit floats in one register.
template <class T, class F, int N>
void packed(Warp& w, const Inst& I) {
  using X = Tr<T>;
  u32* d = R<u32>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[N > 1 ? 2 : 1]), *c = R<u32>(w, I.x[N > 2 ? 3 : 1]);
  each(w.execMask, [&](int l) {
    u32 r = 0;
    for (int h = 0; h < 2; ++h) {
      double p = X::get(a[l] >> (16 * h) & 0xffff), q = X::get(b[l] >> (16 * h) & 0xffff),
             s = X::get(c[l] >> (16 * h) & 0xffff), v;
      if constexpr (N == 1)
        v = F{}(p);
      else if constexpr (N == 2)
        v = F{}(p, q);
      else
        v = F{}(p, q, s);
      if (I.sat) v = clamp01(v);
      if (I.flag && !(v > 0)) v = v != v ? v : 0;
      r |= X::put(v) << (16 * h);
    }
    d[l] = r;
  });
}
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return T(std::make_unsigned_t<T>(a) + std::make_unsigned_t<T>(b));
    else
      return a + b;
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return T(std::make_unsigned_t<T>(a) - std::make_unsigned_t<T>(b));
    else
      return a - b;
  }
};
struct AddSat {
  template <class T>
  T operator()(T a, T b) const {
    return T(std::clamp<s64>(s64(a) + s64(b), INT_MIN, INT_MAX));
  }
};
struct SubSat {
  template <class T>
  T operator()(T a, T b) const {
    return T(std::clamp<s64>(s64(a) - s64(b), INT_MIN, INT_MAX));
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>)
      return T(u64(a) * u64(b));
    else
      return a * b;
  }
};
struct MulHi {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (sizeof(T) == 8) {
      if constexpr (std::is_signed_v<T>)
        return T((__int128(a) * b) >> 64);
      else
        return T(((unsigned __int128)a * b) >> 64);
    } else {
      using W = std::conditional_t<std::is_signed_v<T>, s64, u64>;
      return T((W(a) * W(b)) >> (8 * sizeof(T)));
    }
  }
};
struct MadLo {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(Mul{}(a, b), c);
  }
};
struct MadHi {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(MulHi{}(a, b), c);
  }
};
struct Fma {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      if (b == 0) return T(-1);
      if constexpr (std::is_signed_v<T>)
        if (b == T(-1)) return T(0 - std::make_unsigned_t<T>(a));
      return T(a / b);
    } else
      return a / b;
  }
};
struct Rem {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if constexpr (std::is_signed_v<T>)
      if (b == T(-1)) return 0;
    return T(a % b);
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      if (a != a) return b;
      if (b != b) return a;
      if (a == b) return std::signbit(a) ? a : b;
    }
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      if (a != a) return b;
      if (b != b) return a;
      if (a == b) return std::signbit(a) ? b : a;
    }
    return a > b ? a : b;
  }
};
struct MinNan {
  template <class T>
  T operator()(T a, T b) const {
    if (a != a || b != b) return T(NAN);
    return Min{}(a, b);
  }
};
struct MaxNan {
  template <class T>
  T operator()(T a, T b) const {
    if (a != a || b != b) return T(NAN);
    return Max{}(a, b);
  }
};
struct Abs {
  template <class T>
  T operator()(T a) const {
    if constexpr (std::is_integral_v<T>)
      return a < 0 ? T(0 - std::make_unsigned_t<T>(a)) : a;
    else
      return std::fabs(a);
  }
};
struct Neg {
  template <class T>
  T operator()(T a) const {
    if constexpr (std::is_integral_v<T>)
      return T(0 - std::make_unsigned_t<T>(a));
    else
      return -a;
  }
};
struct Copysign {
  template <class T>
  T operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};
struct And {
  template <class T>
  T operator()(T a, T b) const {
    return a & b;
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return a ^ b;
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    return T(~a);
  }
};
struct Cnot {
  template <class T>
  T operator()(T a) const {
    return T(a == 0);
  }
};
struct Mov {
  template <class T>
  T operator()(T a) const {
    return a;
  }
};
struct Brev {
  template <class T>
  T operator()(T a) const {
    T r = 0;
    for (size_t i = 0; i < 8 * sizeof(T); ++i) r |= T((a >> i) & 1) << (8 * sizeof(T) - 1 - i);
    return r;
  }
};
struct Sad {
  template <class T>
  T operator()(T a, T b, T c) const {
    return T(c + (a < b ? b - a : a - b));
  }
};
struct Rcp {
  template <class T>
  T operator()(T a) const {
    return 1 / a;
  }
};
struct Sqrt {
  template <class T>
  T operator()(T a) const {
    return std::sqrt(a);
  }
};
struct Rsqrt {
  template <class T>
  T operator()(T a) const {
    return T(1 / std::sqrt(double(a)));
  }
};
struct Sin {
  template <class T>
  T operator()(T a) const {
    return std::sin(a);
  }
};
struct Cos {
  template <class T>
  T operator()(T a) const {
    return std::cos(a);
  }
};
struct Lg2 {
  template <class T>
  T operator()(T a) const {
    return std::log2(a);
  }
};
struct Ex2 {
  template <class T>
  T operator()(T a) const {
    return std::exp2(a);
  }
};
struct Tanh {
  template <class T>
  T operator()(T a) const {
    return std::tanh(a);
  }
};

// Picks an instance by instruction type; null where the type does not fit.
#define INT_CASES(OP, ...)       \
  case Ty::u16_:                 \
  case Ty::b16:                  \
    return OP<u16, __VA_ARGS__>; \
  case Ty::s16_:                 \
    return OP<s16, __VA_ARGS__>; \
  case Ty::u32_:                 \
  case Ty::b32:                  \
    return OP<u32, __VA_ARGS__>; \
  case Ty::s32_:                 \
    return OP<s32, __VA_ARGS__>; \
  case Ty::u64_:                 \
  case Ty::b64:                  \
    return OP<u64, __VA_ARGS__>; \
  case Ty::s64_:                 \
    return OP<s64, __VA_ARGS__>;
template <class F>
Fn int_bin(Ty t) {
  switch (t) { INT_CASES(bin, F) default : return nullptr; }
}
template <class F>
Fn int_un(Ty t) {
  switch (t) { INT_CASES(un, F) default : return nullptr; }
}
template <class F>
Fn int_tri(Ty t) {
  switch (t) { INT_CASES(tri, F) default : return nullptr; }
}
template <class F>
Fn flt_un(Ty t) {
  switch (t) {
    case Ty::f32:
      return un<float, F>;
    case Ty::f64:
      return un<double, F>;
    case Ty::f16:
      return un<F16, F>;
    case Ty::bf16:
      return un<BF16, F>;
    case Ty::f16x2:
      return packed<F16, F, 1>;
    case Ty::bf16x2:
      return packed<BF16, F, 1>;
    default:
      return nullptr;
  }
}
template <class F>
Fn flt_bin(Ty t) {
  switch (t) {
    case Ty::f32:
      return bin<float, F>;
    case Ty::f64:
      return bin<double, F>;
    case Ty::f16:
      return bin<F16, F>;
    case Ty::bf16:
      return bin<BF16, F>;
    case Ty::f16x2:
      return packed<F16, F, 2>;
    case Ty::bf16x2:
      return packed<BF16, F, 2>;
    default:
      return nullptr;
  }
}
template <class F>
Fn flt_tri(Ty t) {
  switch (t) {
    case Ty::f32:
      return tri<float, F>;
    case Ty::f64:
      return tri<double, F>;
    case Ty::f16:
      return tri<F16, F>;
    case Ty::bf16:
      return tri<BF16, F>;
    case Ty::f16x2:
      return packed<F16, F, 3>;
    case Ty::bf16x2:
      return packed<BF16, F, 3>;
    default:
      return nullptr;
  }
}
template <class F>
Fn any_bin(Ty t) {
  Fn f = int_bin<F>(t);
  return f ? f : flt_bin<F>(t);
}
template <class F>
Fn any_un(Ty t) {
  Fn f = int_un<F>(t);
  return f ? f : flt_un<F>(t);
}

// mul.wide, mad.wide: T source, W destination
template <class T, class W, bool mad>
void wide(Warp& w, const Inst& I) {
  using S = std::conditional_t<sizeof(W) == 8, u64, u32>;
  S* d = R<S>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[2]);
  const S* c = mad ? R<S>(w, I.x[3]) : nullptr;
  each(w.execMask, [&](int l) {
    S r = S(W(T(a[l])) * W(T(b[l])));
    if constexpr (mad) r += c[l];
    d[l] = r;
  });
}
template <bool mad>
Fn wide_fn(Ty t) {
  switch (t) {
    case Ty::u16_:
      return wide<u16, u32, mad>;
    case Ty::s16_:
      return wide<s16, s32, mad>;
    case Ty::u32_:
      return wide<u32, u64, mad>;
    case Ty::s32_:
      return wide<s32, s64, mad>;
    default:
      return nullptr;
  }
}
// Shifts clamp: an amount of the width or more gives 0 or the sign.
template <class T, bool left>
void shift(Warp& w, const Inst& I) {
  using X = Tr<T>;
  using S = typename X::S;
  S* d = R<S>(w, I.x[0]);
  const S* a = R<S>(w, I.x[1]);
  const u32* b = R<u32>(w, I.x[2]);
  constexpr u32 n = 8 * sizeof(T);
  each(w.execMask, [&](int l) {
    T v = X::get(a[l]);
    if constexpr (left)
      d[l] = X::put(b[l] >= n ? T(0) : T(std::make_unsigned_t<T>(v) << b[l]));
    else
      d[l] = X::put(b[l] >= n ? T(v < 0 ? -1 : 0) : T(v >> b[l]));
  });
}
template <bool left>
Fn shift_fn(Ty t) {
  switch (t) {
    case Ty::b16:
    case Ty::u16_:
      return shift<u16, left>;
    case Ty::s16_:
      return shift<s16, left>;
    case Ty::b32:
    case Ty::u32_:
      return shift<u32, left>;
    case Ty::s32_:
      return shift<s32, left>;
    case Ty::b64:
    case Ty::u64_:
      return shift<u64, left>;
    case Ty::s64_:
      return shift<s64, left>;
    default:
      return nullptr;
  }
}
void op_shf(Warp& w, const Inst& I) {  // flag: left, flag2: wrap
  u32* d = R<u32>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[2]), *c = R<u32>(w, I.x[3]);
  each(w.execMask, [&](int l) {
    u32 n = I.flag2 ? c[l] & 31 : std::min(c[l], 32u);
    u64 v = u64(b[l]) << 32 | a[l];
    d[l] = I.flag ? u32((n == 32 ? v << 32 : v << n) >> 32) : u32(v >> n);
  });
}
// Carry chain, one flag a lane. sub: 0 add 1 sub 2 mad.lo 3 mad.hi; flag: uses carry; flag2: sets it
template <class T>
void carry_op(Warp& w, const Inst& I) {
  using S = typename Tr<T>::S;
  S* d = R<S>(w, I.x[0]);
  const S *a = R<S>(w, I.x[1]), *b = R<S>(w, I.x[2]);
  const S* c = I.sub >= 2 ? R<S>(w, I.x[3]) : nullptr;
  each(w.execMask, [&](int l) {
    unsigned __int128 x = T(a[l]), y = T(b[l]), r;
    u32 cin = I.flag ? w.carry >> l & 1 : 0;
    bool out;
    constexpr int n = 8 * sizeof(T);
    if (I.sub == 0) {
      r = x + y + cin;
      out = (r >> n) & 1;
    } else if (I.sub == 1) {
      r = x - y - cin;
      out = x < y + cin;
    } else {
      unsigned __int128 p = x * y;
      p = I.sub == 2 ? T(p) : T(p >> n);
      r = p + T(c[l]) + cin;
      out = (r >> n) & 1;
    }
    d[l] = S(T(r));
    if (I.flag2) w.carry = (w.carry & ~(1u << l)) | u32(out) << l;
  });
}
template <class T>
void bfe(Warp& w, const Inst& I) {
  using X = Tr<T>;
  using S = typename X::S;
  constexpr int n = 8 * sizeof(T);
  S* d = R<S>(w, I.x[0]);
  const S* a = R<S>(w, I.x[1]);
  const u32 *b = R<u32>(w, I.x[2]), *c = R<u32>(w, I.x[3]);
  each(w.execMask, [&](int l) {
    u32 pos = b[l] & 255, len = c[l] & 255;
    using U = std::make_unsigned_t<T>;
    U v = U(a[l]), r = 0;
    if (len) {
      bool sign = std::is_signed_v<T> && (v >> std::min<u32>(pos + len - 1, n - 1) & 1);
      r = pos >= n ? 0 : v >> pos;
      if (len < n) {
        U m = (U(1) << len) - 1;
        r = sign ? r | ~m : r & m;
      }
      if (sign && pos)
        for (u32 i = pos >= n ? 0 : n - pos; i < n; ++i) r |= U(1) << i;
    }
    d[l] = X::put(T(r));
  });
}
template <class T>
void bfi(Warp& w, const Inst& I) {
  using S = typename Tr<T>::S;
  constexpr u32 n = 8 * sizeof(T);
  S* d = R<S>(w, I.x[0]);
  const S *a = R<S>(w, I.x[1]), *b = R<S>(w, I.x[2]);
  const u32 *p = R<u32>(w, I.x[3]), *q = R<u32>(w, I.x[4]);
  each(w.execMask, [&](int l) {
    u32 pos = p[l] & 255, len = q[l] & 255;
    if (!len || pos >= n) {
      d[l] = b[l];
      return;
    }
    S m = (len >= n ? ~S(0) : (S(1) << len) - 1) << pos;
    d[l] = (b[l] & ~m) | ((a[l] << pos) & m);
  });
}
template <class T, int which>
void bits_count(Warp& w, const Inst& I) {  // 0 popc 1 clz 2 bfind 3 bfind.shiftamt
  using X = Tr<T>;
  using S = typename X::S;
  using U = std::make_unsigned_t<T>;
  u32* d = R<u32>(w, I.x[0]);
  const S* a = R<S>(w, I.x[1]);
  each(w.execMask, [&](int l) {
    U v = U(a[l]);
    if (which == 0)
      d[l] = std::popcount(v);
    else if (which == 1)
      d[l] = std::countl_zero(v);
    else {
      if (std::is_signed_v<T> && T(v) < 0) v = U(~v);
      d[l] = !v ? ~0u : which == 2 ? 8 * sizeof(T) - 1 - std::countl_zero(v) : std::countl_zero(v);
    }
  });
}
void op_bmsk(Warp& w, const Inst& I) {  // flag: wrap
  u32* d = R<u32>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[2]);
  each(w.execMask, [&](int l) {
    u32 pos = I.flag ? a[l] & 31 : a[l], len = I.flag ? b[l] & 31 : std::min(b[l], 32u);
    u32 m = len >= 32 ? ~0u : (1u << len) - 1;
    d[l] = pos >= 32 ? 0 : m << pos;
  });
}
void op_szext(Warp& w, const Inst& I) {  // flag: wrap, flag2: signed
  u32* d = R<u32>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[2]);
  each(w.execMask, [&](int l) {
    u32 n = I.flag ? b[l] & 31 : std::min(b[l], 32u);
    if (n == 0)
      d[l] = 0;
    else if (n == 32)
      d[l] = a[l];
    else
      d[l] = I.flag2 ? u32(s32(a[l] << (32 - n)) >> (32 - n)) : a[l] & ((1u << n) - 1);
  });
}
void op_lop3(Warp& w, const Inst& I) {
  u32* d = R<u32>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[2]), *c = R<u32>(w, I.x[3]);
  u32 lut = u32(I.x[4].imm);
  each(w.execMask, [&](int l) {
    u32 r = 0, x = a[l], y = b[l], z = c[l];
    for (int i = 0; i < 8; ++i)
      if (lut >> i & 1) r |= (i & 4 ? x : ~x) & (i & 2 ? y : ~y) & (i & 1 ? z : ~z);
    d[l] = r;
  });
}
void op_prmt(Warp& w, const Inst& I) {  // sub: 0 default 1 f4e 2 b4e 3 rc8 4 ecl 5 ecr 6 rc16
  u32* d = R<u32>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[2]), *c = R<u32>(w, I.x[3]);
  each(w.execMask, [&](int l) {
    u64 v = u64(b[l]) << 32 | a[l];
    u32 s = c[l], r = 0, k = s & 3;
    for (u32 i = 0; i < 4; ++i) {
      u32 sel;
      switch (I.sub) {
        case 0:
          sel = s >> (4 * i) & 15;
          break;
        case 1:
          sel = k + i;
          break;
        case 2:
          sel = (k + 8 - i) & 7;
          break;
        case 3:
          sel = k;
          break;
        case 4:
          sel = std::max(k, i);
          break;
        case 5:
          sel = std::min(k, i);
          break;
        default:
          sel = (k & 1) * 2 + (i & 1);
          break;
      }
      u32 byte = u32(v >> (8 * (sel & 7))) & 255;
      if (I.sub == 0 && sel & 8) byte = byte & 128 ? 255 : 0;
      r |= byte << (8 * i);
    }
    d[l] = r;
  });
}
void op_dp4a(Warp& w, const Inst& I) {  // flag: a signed, flag2: b signed; sub: 4 or 2 (dp2a), sub2: hi
  u32* d = R<u32>(w, I.x[0]);
  const u32 *a = R<u32>(w, I.x[1]), *b = R<u32>(w, I.x[2]), *c = R<u32>(w, I.x[3]);
  each(w.execMask, [&](int l) {
    u32 r = c[l];
    auto byte = [](u32 v, int i, bool s) {
      u32 x = v >> (8 * i) & 255;
      return s ? s32(s8(x)) : s32(x);
    };
    if (I.sub == 4)
      for (int i = 0; i < 4; ++i) r += u32(byte(a[l], i, I.flag) * byte(b[l], i, I.flag2));
    else
      for (int i = 0; i < 2; ++i) {
        u32 x = a[l] >> (16 * i) & 0xffff;
        r += u32((I.flag ? s32(s16(x)) : s32(x)) * byte(b[l], i + 2 * I.sub2, I.flag2));
      }
    d[l] = r;
  });
}
template <class T>
void op_mov(Warp& w, const Inst& I) {
  T* d = R<T>(w, I.x[0]);
  const T* a = R<T>(w, I.x[1]);
  each(w.execMask, [&](int l) { d[l] = a[l]; });
}
void op_mov_clock(Warp& w, const Inst& I) {
  each(w.execMask, [&](int l) { set_any(w, I.x[0], l, w.steps); });
}
void op_mov_pred(Warp& w, const Inst& I) {
  u32 v = pred_value(w, I.x[1]);
  u32& d = P(w, I.x[0]);
  d = (d & ~w.execMask) | (v & w.execMask);
}
void op_pack(Warp& w, const Inst& I) {  // mov.bN d, {a, b, ...}
  int n = I.cnt[1], bits = 8 * size_of(I.ty) / n;
  u64 m = bits == 64 ? ~0ull : (1ull << bits) - 1;
  each(w.execMask, [&](int l) {
    u64 v = 0;
    for (int i = 0; i < n; ++i) v |= (get_any(w, I.x[I.at[1] + i], l) & m) << (bits * i);
    set_any(w, I.x[0], l, v);
  });
}
void op_unpack(Warp& w, const Inst& I) {
  int n = I.cnt[0], bits = 8 * size_of(I.ty) / n;
  u64 m = bits == 64 ? ~0ull : (1ull << bits) - 1;
  each(w.execMask, [&](int l) {
    u64 v = get_any(w, I.o(1), l);
    for (int i = 0; i < n; ++i) set_any(w, I.x[i], l, v >> (bits * i) & m);
  });
}
template <class T>
void op_selp(Warp& w, const Inst& I) {
  T* d = R<T>(w, I.x[0]);
  const T *a = R<T>(w, I.x[1]), *b = R<T>(w, I.x[2]);
  u32 p = pred_value(w, I.x[3]);
  each(w.execMask, [&](int l) { d[l] = p >> l & 1 ? a[l] : b[l]; });
}
template <class T>
void op_slct(Warp& w, const Inst& I) {  // ty2 data, ty condition
  T* d = R<T>(w, I.x[0]);
  const T *a = R<T>(w, I.x[1]), *b = R<T>(w, I.x[2]);
  const u32* c = R<u32>(w, I.x[3]);
  each(w.execMask, [&](int l) {
    d[l] = (I.ty == Ty::f32 ? std::bit_cast<float>(c[l]) >= 0 : s32(c[l]) >= 0) ? a[l] : b[l];
  });
}
// ---------------------------------------------------------------- comparisons
enum Cmp : u8 { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NANC };
template <class C>
bool compare(u8 c, C a, C b) {
  bool un = false;
  if constexpr (std::is_floating_point_v<C>) un = a != a || b != b;
  switch (c) {
    case EQ:
      return !un && a == b;
    case NE:
      return !un && a != b;
    case LT:
      return !un && a < b;
    case LE:
      return !un && a <= b;
    case GT:
      return !un && a > b;
    case GE:
      return !un && a >= b;
    case EQU:
      return un || a == b;
    case NEU:
      return un || a != b;
    case LTU:
      return un || a < b;
    case LEU:
      return un || a <= b;
    case GTU:
      return un || a > b;
    case GEU:
      return un || a >= b;
    case NUM:
      return !un;
    default:
      return un;
  }
}
template <class T, int half = 0>
u32 compare_mask(Warp& w, const Inst& I, const Opnd& A, const Opnd& B) {
  using X = Tr<T>;
  using S = typename X::S;
  using C = typename X::C;
  const S *a = R<S>(w, A), *b = R<S>(w, B);
  u32 r = 0;
  auto go = [&](auto cmp) {
    for (int l = 0; l < kWarp; ++l) {
      C p = X::get(S(a[l] >> (16 * half))), q = X::get(S(b[l] >> (16 * half)));
      if (I.ftz) p = flush(p), q = flush(q);
      r |= u32(cmp(p, q)) << l;
    }
  };
  switch (I.sub) {
    case EQ:
      go([](C p, C q) { return compare<C>(EQ, p, q); });
      break;
    case NE:
      go([](C p, C q) { return compare<C>(NE, p, q); });
      break;
    case LT:
      go([](C p, C q) { return compare<C>(LT, p, q); });
      break;
    case GE:
      go([](C p, C q) { return compare<C>(GE, p, q); });
      break;
    default:
      go([&](C p, C q) { return compare<C>(I.sub, p, q); });
  }
  return r;
}
u32 compare_typed(Warp& w, const Inst& I, const Opnd& a, const Opnd& b, Ty t, bool hi = false) {
  switch (t) {
    case Ty::u16_:
    case Ty::b16:
      return compare_mask<u16>(w, I, a, b);
    case Ty::s16_:
      return compare_mask<s16>(w, I, a, b);
    case Ty::u32_:
    case Ty::b32:
      return compare_mask<u32>(w, I, a, b);
    case Ty::s32_:
      return compare_mask<s32>(w, I, a, b);
    case Ty::u64_:
    case Ty::b64:
      return compare_mask<u64>(w, I, a, b);
    case Ty::s64_:
      return compare_mask<s64>(w, I, a, b);
    case Ty::f32:
      return compare_mask<float>(w, I, a, b);
    case Ty::f64:
      return compare_mask<double>(w, I, a, b);
    case Ty::f16:
      return compare_mask<F16>(w, I, a, b);
    case Ty::bf16:
      return compare_mask<BF16>(w, I, a, b);
    case Ty::f16x2:
      return hi ? compare_mask<F16, 1>(w, I, a, b) : compare_mask<F16>(w, I, a, b);
    case Ty::bf16x2:
      return hi ? compare_mask<BF16, 1>(w, I, a, b) : compare_mask<BF16>(w, I, a, b);
    default:
      fail("setp: type");
  }
}
void op_setp(Warp& w, const Inst& I) {  // sub2: 0 none 1 and 2 or 3 xor; operand 0 may be p|q
  bool two = I.cnt[0] == 2, packed2 = I.ty == Ty::f16x2 || I.ty == Ty::bf16x2;
  const Opnd &a = I.o(1), &b = I.o(2);
  u32 c = I.nops > 3 ? pred_value(w, I.o(3)) : 0;
  auto combine = [&](u32 v) { return I.sub2 == 1 ? v & c : I.sub2 == 2 ? v | c : I.sub2 == 3 ? v ^ c : v; };
  auto put = [&](const Opnd& d, u32 v) {
    if (d.kind == Opnd::Sink) return;
    u32& p = P(w, d);
    p = (p & ~w.execMask) | (v & w.execMask);
  };
  u32 v = compare_typed(w, I, a, b, I.ty);
  u32 v2 = packed2 ? compare_typed(w, I, a, b, I.ty, true) : ~v;
  put(I.x[0], combine(v));
  if (two) put(I.x[1], combine(v2));
}
void op_set(Warp& w, const Inst& I) {  // set.cmp.dtype.stype
  u32 v = compare_typed(w, I, I.x[1], I.x[2], I.ty), v2 = 0;
  bool packed2 = I.ty == Ty::f16x2 || I.ty == Ty::bf16x2;
  if (packed2) v2 = compare_typed(w, I, I.x[1], I.x[2], I.ty, true);
  u32* d = R<u32>(w, I.x[0]);
  each(w.execMask, [&](int l) {
    bool t = v >> l & 1, h = v2 >> l & 1;
    switch (I.ty2) {
      case Ty::f32:
        d[l] = t ? 0x3f800000 : 0;
        break;
      case Ty::f16:
        d[l] = t ? 0x3c00 : 0;
        break;
      case Ty::bf16:
        d[l] = t ? 0x3f80 : 0;
        break;
      case Ty::f16x2:
        d[l] = (t ? 0x3c00 : 0) | (h ? 0x3c000000 : 0);
        break;
      case Ty::bf16x2:
        d[l] = (t ? 0x3f80 : 0) | (h ? 0x3f800000 : 0);
        break;
      default:
        d[l] = packed2 ? (t ? 0xffff : 0) | (h ? 0xffff0000 : 0) : t ? ~0u : 0;
    }
  });
}
void op_pred_logic(Warp& w, const Inst& I) {  // sub: 0 and 1 or 2 xor 3 not
  u32 a = pred_value(w, I.x[1]), b = I.sub == 3 ? 0 : pred_value(w, I.x[2]);
  u32 v = I.sub == 0 ? a & b : I.sub == 1 ? a | b : I.sub == 2 ? a ^ b : ~a;
  u32& d = P(w, I.x[0]);
  d = (d & ~w.execMask) | (v & w.execMask);
}
void op_selp_pred(Warp& w, const Inst& I) { fail_at(w, I, -1, "selp on predicates"); }
// ------------------------------------------------------------------- cvt
double load_float(Ty t, u64 v) {
  switch (t) {
    case Ty::f16:
      return half_to_float(u16(v));
    case Ty::bf16:
      return bf16_to_float(u16(v));
    case Ty::f32:
    case Ty::tf32:
      return std::bit_cast<float>(u32(v));
    default:
      return std::bit_cast<double>(v);
  }
}
u64 store_float(Ty t, double d, Rnd r) {
  switch (t) {
    case Ty::f16:
      return r == Rnd::rn                      ? double_to_half(d)
             : to_small(d, 5, 10, r) == 0x7fff ? 0x7fff
                                               : to_small(d, 5, 10, r);
    case Ty::bf16:
      return r == Rnd::rn ? double_to_bf16(d) : to_small(d, 8, 7, r);
    case Ty::tf32:
      return to_small(d, 8, 10, r) << 13;
    case Ty::f32: {
      RoundGuard g(r);
      volatile double x = d;
      volatile float f = float(x);
      return std::bit_cast<u32>(float(f));
    }
    default:
      return std::bit_cast<u64>(d);
  }
}
u64 float_to_int(double v, Ty t, int mode) {  // mode 0 rni 1 rzi 2 rmi 3 rpi
  if (v != v) return t == Ty::s64_ || t == Ty::u64_ ? 1ull << 63 : 0;
  v = mode == 0 ? std::nearbyint(v) : mode == 1 ? std::trunc(v) : mode == 2 ? std::floor(v) : std::ceil(v);
  int n = 8 * size_of(t);
  if (is_signed(t)) {
    double hi = std::ldexp(1.0, n - 1);
    if (v >= hi) return n == 64 ? u64(LLONG_MAX) : (1ull << (n - 1)) - 1;
    if (v < -hi) return u64(-1) << (n - 1);
    return u64(s64(v));
  }
  if (v <= 0) return 0;
  if (v >= std::ldexp(1.0, n)) return n == 64 ? ~0ull : (1ull << n) - 1;
  return u64(v);
}
u64 extend(u64 v, Ty t) {
  switch (size_of(t) * (is_signed(t) ? -1 : 1)) {
    case 1:
      return u8(v);
    case 2:
      return u16(v);
    case 4:
      return u32(v);
    case -1:
      return u64(s64(s8(v)));
    case -2:
      return u64(s64(s16(v)));
    case -4:
      return u64(s64(s32(v)));
    default:
      return v;
  }
}
void op_cvt(
    Warp& w,
    const Inst& I) {  // ty2 destination, ty source, sub: integer rounding, flag: integral rounding asked
  Ty d = I.ty2, s = I.ty;
  each(w.execMask, [&](int l) {
    u64 v = get_any(w, I.x[1], l), r;
    if (is_float(s)) {
      double x = load_float(s, v);
      if (I.ftz && s == Ty::f32) x = flush(float(x));
      if (is_float(d)) {
        if (I.flag)
          x = I.sub == 0   ? std::nearbyint(x)
              : I.sub == 1 ? std::trunc(x)
              : I.sub == 2 ? std::floor(x)
                           : std::ceil(x);
        if (I.sat) x = clamp01(x);
        if (I.flag2 && !(x > 0)) x = x != x ? x : 0;
        r = store_float(d, x, I.rnd);
        if (I.ftz && d == Ty::f32) r = std::bit_cast<u32>(flush(std::bit_cast<float>(u32(r))));
      } else
        r = float_to_int(x, d, I.sub);
    } else {
      v = extend(v, s);
      if (is_float(d)) {
        if (d == Ty::f32) {
          RoundGuard g(I.rnd);
          volatile float f = is_signed(s) ? float(s64(v)) : float(v);
          r = std::bit_cast<u32>(float(f));
        } else {
          double x = is_signed(s) ? double(s64(v)) : double(v);
          r = store_float(d, x, I.rnd);
        }
      } else if (I.sat) {
        __int128 x = is_signed(s) ? __int128(s64(v)) : __int128(v);
        int n = 8 * size_of(d);
        __int128 hi = is_signed(d) ? (__int128(1) << (n - 1)) - 1 : (__int128(1) << n) - 1,
                 lo = is_signed(d) ? -(__int128(1) << (n - 1)) : 0;
        r = u64(s64(x > hi ? hi : x < lo ? lo : x));
      } else
        r = extend(v, d);
    }
    // A narrow result in a wider register is extended by the destination type.
    set_any(w, I.x[0], l, is_float(d) ? r : extend(r, d));
  });
}
void op_cvt_pack(Warp& w, const Inst& I) {  // cvt.rn.{f16x2,bf16x2,e4m3x2,e5m2x2}.f32 d, hi, lo
  each(w.execMask, [&](int l) {
    float hi = std::bit_cast<float>(R<u32>(w, I.x[1])[l]), lo = std::bit_cast<float>(R<u32>(w, I.x[2])[l]);
    if (I.flag2) {
      hi = hi > 0 || hi != hi ? hi : 0;
      lo = lo > 0 || lo != lo ? lo : 0;
    }
    u32 r;
    switch (I.ty2) {
      case Ty::f16x2:
        r = u32(store_float(Ty::f16, hi, I.rnd)) << 16 | u32(store_float(Ty::f16, lo, I.rnd));
        break;
      case Ty::bf16x2:
        r = u32(store_float(Ty::bf16, hi, I.rnd)) << 16 | u32(store_float(Ty::bf16, lo, I.rnd));
        break;
      case Ty::e4m3x2:
        r = u32(float_to_e4m3(hi)) << 8 | float_to_e4m3(lo);
        break;
      default:
        r = u32(float_to_e5m2(hi)) << 8 | float_to_e5m2(lo);
    }
    R<u32>(w, I.x[0])[l] = r;
  });
}
void op_cvt_fp8(Warp& w, const Inst& I) {  // e4m3x2/e5m2x2 <-> f16x2
  each(w.execMask, [&](int l) {
    u32 v = R<u32>(w, I.x[1])[l], r = 0;
    for (int h = 0; h < 2; ++h) {
      if (I.ty2 == Ty::f16x2) {
        u8 b = u8(v >> (8 * h));
        float f = I.ty == Ty::e4m3x2 ? e4m3_to_float(b) : e5m2_to_float(b);
        r |= u32(float_to_half(f)) << (16 * h);
      } else {
        float f = half_to_float(u16(v >> (16 * h)));
        r |= u32(I.ty2 == Ty::e4m3x2 ? float_to_e4m3(f) : float_to_e5m2(f)) << (8 * h);
      }
    }
    R<u32>(w, I.x[0])[l] = r;
  });
}
// ------------------------------------------------------------------ memory
inline u64 address(Warp& w, const Opnd& o, int l) {
  if (!o.hasBase) return u64(o.imm);
  return (o.wide ? R<u64>(w, o)[l] : u64(R<u32>(w, o)[l])) + u64(o.imm);
}
// Splits a generic address; the space is decided per lane.
inline Space resolve(Space s, u64& a) {
  if (s != Space::generic) return s;
  if ((a & kWindowMask) == kSharedWindow) {
    a &= ~kWindowMask;
    return Space::shared;
  }
  if ((a & kWindowMask) == kLocalWindow) {
    a &= ~kWindowMask;
    return Space::local;
  }
  return Space::global;
}
u8* locate(Warp& w, const Inst& I, Space s, u64 a, u32 n, int lane) {
  if (a & (n - 1))
    fail_at(
        w, I, lane, "misaligned address 0x" + [&] {
          char b[20];
          snprintf(b, 20, "%llx", (unsigned long long)a);
          return string(b);
        }());
  switch (s) {
    case Space::shared:
      if (a + n > w.cta->shared.size())
        fail_at(w, I, lane,
                "shared address " + std::to_string(a) + " beyond " + std::to_string(w.cta->shared.size()) +
                    " bytes");
      return w.cta->shared.data() + a;
    case Space::local:
      if (a + n > w.mod->localBytes) fail_at(w, I, lane, "local address out of range");
      return w.local + size_t(lane) * w.mod->localBytes + a;
    case Space::param:
      return (u8*)a;
    default:
      if (a >= w.cta->loCache && a + n <= w.cta->hiCache) return (u8*)a;
      if (!w.mod->memory.inside(a, n, w.cta->loCache, w.cta->hiCache)) {
        w.cta->loCache = 1;
        w.cta->hiCache = 0;
        char b[64];
        snprintf(b, 64, "global address 0x%llx outside every allocation", (unsigned long long)a);
        fail_at(w, I, lane, b);
      }
      return (u8*)a;
  }
}
// Distinct 32-byte sectors of one warp request.
// An access is aligned and at most 32 bytes, so it lies in one sector.
u32 count_sectors(const u64* a, u32 mask) {
  u64 s[kWarp];
  int n = 0;
  for (u32 m = mask; m; m &= m - 1) {
    u64 x = a[std::countr_zero(m)] >> 5;
    if (n && s[n - 1] == x) continue;
    s[n++] = x;
  }
  std::sort(s, s + n);
  return u32(std::unique(s, s + n) - s);
}
// Shared-memory passes: 32 banks of 4 bytes; 8-byte accesses go by half warps,
// 16-byte ones by quarter warps; equal words in a bank are one access.
u32 count_waves(const u64* a, u32 mask, u32 bytes, u32& ideal) {
  int group = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8, words = std::max(1u, bytes / 4);
  u32 total = 0;
  ideal = 0;
  for (int g = 0; g < kWarp; g += group) {
    u32 seen[kWarp][8];
    u8 cnt[kWarp] = {};
    u32 most = 0;
    bool any = false;
    for (int l = g; l < g + group; ++l) {
      if (!(mask >> l & 1)) continue;
      any = true;
      for (int k = 0; k < words; ++k) {
        u32 word = u32(a[l] >> 2) + k, bank = word & 31;
        bool dup = false;
        for (u32 i = 0; i < cnt[bank] && i < 8; ++i) dup |= seen[bank][i] == word;
        if (dup) continue;
        if (cnt[bank] < 8) seen[bank][cnt[bank]] = word;
        most = std::max<u32>(most, ++cnt[bank]);
      }
    }
    if (any) {
      total += most;
      ++ideal;
    }
  }
  return total;
}
void note_race(Warp& w, const Inst& I, const char* kind) {
  string key = string(kind) + " at PTX line " + std::to_string(I.line) +
               (I.locLine ? " (source line " + std::to_string(I.locLine) + ")" : "") + ": " + I.text;
  std::lock_guard<std::mutex> g(*w.cta->atomics);
  ++(*w.cta->races)[key];
}
void check_race(Warp& w, const Inst& I, u64 a, u32 n, bool write) {
  Cta& c = *w.cta;
  u32 me = w.clock[w.index] << 6 | (w.index + 1);
  auto ordered = [&](u32 s) {
    u32 t = (s & 63) - 1;
    return s == 0 || t == w.index || w.clock[t] >= s >> 6;
  };
  for (u64 i = a; i < a + n; ++i) {
    Shadow& s = c.shadow[i];
    if (!ordered(s.write)) {
      note_race(w, I, write ? "write after unordered write" : "read after unordered write");
    }
    if (write) {
      if (!ordered(s.read) || !ordered(s.read2)) note_race(w, I, "write after unordered read");
      s.write = me;
      s.read = s.read2 = 0;
    } else {
      if (s.write == 0) note_race(w, I, "read of uninitialised shared memory");
      if ((s.read & 63) != (me & 63) && s.read) s.read2 = s.read;
      s.read = me;
    }
  }
}
// Bookkeeping of one warp-wide request. Returns the space of lane l in sp[l].
void account(Warp& w, const Inst& I, Space space, u64* a, u32 mask, u32 bytes, bool write,
             bool atomic = false) {
  if (!mask) return;
  Cta& c = *w.cta;
  if (c.opt->profile && (space == Space::global || space == Space::shared)) {
    Stat& s = (*c.stats)[I.pc];
    if (space == Space::shared) {
      u32 ideal;
      ++s.sharedRequests;
      s.waves += count_waves(a, mask, bytes, ideal);
      s.wavesIdeal += ideal;
    } else {
      ++s.requests;
      s.bytes += u64(bytes) * u64(std::popcount(mask));
      s.sectors += count_sectors(a, mask);
    }
  }
  if (c.opt->racecheck && space == Space::shared && !atomic)
    each(mask, [&](int l) { check_race(w, I, a[l], bytes, write); });
}
template <class F>
void access(Warp& w, const Inst& I, const Opnd& ad, u32 bytes, bool write, F f) {
  u64 a[kWarp];
  if (I.space != Space::generic) {
    each(w.execMask, [&](int l) {
      a[l] = address(w, ad, l);
      f(l, locate(w, I, I.space, a[l], bytes, l));
    });
    account(w, I, I.space, a, w.execMask, bytes, write);
    return;
  }
  u32 m[2] = {0, 0};
  each(w.execMask, [&](int l) {
    a[l] = address(w, ad, l);
    Space s = resolve(Space::generic, a[l]);
    if (s == Space::global)
      m[0] |= 1u << l;
    else if (s == Space::shared)
      m[1] |= 1u << l;
    f(l, locate(w, I, s, a[l], bytes, l));
  });
  account(w, I, Space::global, a, m[0], bytes, write);
  account(w, I, Space::shared, a, m[1], bytes, write);
}
void op_ld(Warp& w, const Inst& I) {
  int n = size_of(I.ty), k = I.cnt[0];
  const Opnd& ad = I.o(1);
  bool simple = n == 4 && !I.x[0].wide;
  access(w, I, ad, u32(n * k), false, [&](int l, const u8* p) {
    for (int i = 0; i < k; ++i, p += n) {
      if (simple && I.x[i].kind == Opnd::Reg && !I.x[i].wide) {
        u32 v;
        std::memcpy(&v, p, 4);
        R<u32>(w, I.x[i])[l] = v;
        continue;
      }
      u64 v = 0;
      std::memcpy(&v, p, n);
      set_any(w, I.x[i], l, is_signed(I.ty) ? extend(v, I.ty) : v);
    }
  });
}
void op_st(Warp& w, const Inst& I) {
  int n = size_of(I.ty), k = I.cnt[1];
  access(w, I, I.o(0), u32(n * k), true, [&](int l, u8* p) {
    for (int i = 0; i < k; ++i, p += n) {
      u64 v = get_any(w, I.x[I.at[1] + i], l);
      std::memcpy(p, &v, n);
    }
  });
}
enum Atom : u8 { AAdd, AMin, AMax, AAnd, AOr, AXor, AExch, ACas, AInc, ADec };
u64 atom_apply(const Inst& I, u64 old, u64 b, u64 c) {
  Ty t = I.ty;
  if (t == Ty::f16x2 || t == Ty::bf16x2) {
    u32 r = 0;
    for (int h = 0; h < 2; ++h) {
      u16 x = u16(old >> (16 * h)), y = u16(b >> (16 * h));
      auto op = [&](double p, double q) {
        return I.sub == AMin ? Min{}(p, q) : I.sub == AMax ? Max{}(p, q) : p + q;
      };
      r |= u32(t == Ty::f16x2 ? double_to_half(op(half_to_float(x), half_to_float(y)))
                              : double_to_bf16(op(bf16_to_float(x), bf16_to_float(y))))
           << (16 * h);
    }
    return r;
  }
  if (is_float(t) && I.sub <= AMax) {
    double p = load_float(t, old), q = load_float(t, b);
    if (I.sub == AAdd)
      return t == Ty::f32 ? std::bit_cast<u32>(float(p) + float(q)) : store_float(t, p + q, Rnd::rn);
    return store_float(t, I.sub == AMin ? Min{}(p, q) : Max{}(p, q), Rnd::rn);
  }
  u64 x = extend(old, t), y = extend(b, t);
  switch (I.sub) {
    case AAdd:
      return x + y;
    case AMin:
      return is_signed(t) ? u64(std::min(s64(x), s64(y))) : std::min(x, y);
    case AMax:
      return is_signed(t) ? u64(std::max(s64(x), s64(y))) : std::max(x, y);
    case AAnd:
      return x & y;
    case AOr:
      return x | y;
    case AXor:
      return x ^ y;
    case AExch:
      return y;
    case ACas:
      return x == y ? c : x;
    case AInc:
      return x >= y ? 0 : x + 1;
    default:
      return x == 0 || x > y ? y : x - 1;
  }
}
void op_atom(Warp& w, const Inst& I) {  // flag: red (no result)
  int n = size_of(I.ty), base = I.flag ? 0 : 1;
  const Opnd& ad = I.o(base);
  int k = I.cnt[base + 1];
  u64 a[kWarp];
  u32 m[2] = {0, 0};
  each(w.execMask, [&](int l) {
    a[l] = address(w, ad, l);
    Space s = resolve(I.space, a[l]);
    (s == Space::shared ? m[1] : m[0]) |= 1u << l;
    u8* p = locate(w, I, s, a[l], u32(n * k), l);
    std::lock_guard<std::mutex> g(*w.cta->atomics);
    for (int i = 0; i < k; ++i, p += n) {
      u64 old = 0;
      std::memcpy(&old, p, n);
      u64 b = get_any(w, I.x[I.at[base + 1] + i], l),
          c = I.nops > base + 2 ? get_any(w, I.o(base + 2), l) : 0;
      u64 v = atom_apply(I, old, b, c);
      std::memcpy(p, &v, n);
      if (!I.flag) set_any(w, I.x[I.at[0] + i], l, old);
    }
  });
  account(w, I, Space::global, a, m[0], u32(n * k), true, true);
  account(w, I, Space::shared, a, m[1], u32(n * k), true, true);
}
void op_cvta(Warp& w, const Inst& I) {  // flag: to
  u64 base = I.space == Space::shared ? kSharedWindow : I.space == Space::local ? kLocalWindow : 0;
  each(w.execMask, [&](int l) {
    u64 v = get_any(w, I.x[1], l);
    set_any(w, I.x[0], l, I.flag ? v & ~(base ? kWindowMask : 0) : v | base);
  });
}
void op_isspacep(Warp& w, const Inst& I) {
  u32 v = 0;
  each(w.execMask, [&](int l) {
    u64 a = get_any(w, I.x[1], l);
    Space s = resolve(Space::generic, a);
    v |= u32(s == I.space) << l;
  });
  u32& d = P(w, I.x[0]);
  d = (d & ~w.execMask) | v;
}
// --------------------------------------------------------------- async copies
// Carries out a lane's copies of the groups before `limit`.
void finish_copies(Warp& w, int lane, u32 limit) {
  AsyncQueue& a = w.async[size_t(lane)];
  for (; a.head < a.q.size() && a.q[a.head].group < limit; ++a.head) {
    const AsyncCopy& c = a.q[a.head];
    u8* d = w.cta->shared.data() + c.shared;
    std::memcpy(d, (const void*)c.global, c.srcBytes);
    std::memset(d + c.srcBytes, 0, c.bytes - c.srcBytes);
  }
  if (a.head == a.q.size()) {
    a.q.clear();
    a.head = 0;
  }
}
void op_cp_async(Warp& w,
                 const Inst& I) {  // cp.async.{ca,cg}.shared.global [d], [s], bytes {, src-bytes | ignore}
  u64 d[kWarp], s[kWarp];
  u32 bytes = u32(I.o(2).imm), srcMask = 0;
  each(w.execMask, [&](int l) {
    d[l] = address(w, I.o(0), l);
    s[l] = address(w, I.o(1), l);
    locate(w, I, Space::shared, d[l], bytes, l);
    u32 src = bytes;
    if (I.nops > 3) {
      const Opnd& o = I.o(3);
      if (o.kind == Opnd::Pred)
        src = pred_value(w, o) >> l & 1 ? 0 : bytes;
      else
        src = std::min<u32>(bytes, u32(get_any(w, o, l)));
    }
    if (src) {
      srcMask |= 1u << l;
      if (s[l] & (bytes - 1)) fail_at(w, I, l, "misaligned cp.async source");
      u64 lo, hi;
      if (!w.mod->memory.inside(s[l], src, lo, hi))
        fail_at(w, I, l, "cp.async source outside every allocation");
    }
    AsyncQueue& q = w.async[size_t(l)];
    q.q.push_back({u32(d[l]), bytes, src, q.group, s[l]});
  });
  account(w, I, Space::global, s, srcMask, bytes, false);
  account(w, I, Space::shared, d, w.execMask, bytes, true);
}
void op_policy(Warp& w, const Inst& I) {
  each(w.execMask, [&](int l) { set_any(w, I.x[0], l, 0); });
}  // createpolicy: a cache hint, without effect here
void op_cp_commit(Warp& w, const Inst&) {
  each(w.execMask, [&](int l) { ++w.async[size_t(l)].group; });
}
void op_cp_wait(Warp& w, const Inst& I) {  // flag: wait_all
  u32 keep = I.flag ? 0 : u32(I.o(0).imm);
  each(w.execMask, [&](int l) {
    u32 g = w.async[size_t(l)].group;
    finish_copies(w, l, I.flag ? ~0u : g > keep ? g - keep : 0);
  });
}
// ------------------------------------------------------------ warp-wide ops
// True when all lanes of `need` are here; otherwise the fragment waits.
bool gather_lanes(Warp& w, u32 need) {
  need &= w.alive;
  if ((w.mask & need) == need) return true;
  w.frags[w.cur].blocked = true;
  w.yield = true;
  --w.pc;
  return false;
}
void op_shfl(Warp& w, const Inst& I) {  // sub: 0 up 1 down 2 bfly 3 idx ; operands d[|p], a, b, c, membermask
  const u32 *a = R<u32>(w, I.o(1)), *b = R<u32>(w, I.o(2)), *c = R<u32>(w, I.o(3)), *mm = R<u32>(w, I.o(4));
  if (!w.execMask) return;
  u32 need = mm[std::countr_zero(w.execMask)];
  if (!gather_lanes(w, need)) return;
  u32 out[kWarp], pred = 0;
  each(w.execMask, [&](int lane) {
    u32 cv = c[lane] & 31, seg = (c[lane] >> 8) & 31, bv = b[lane] & 31;
    u32 maxL = (u32(lane) & seg) | (cv & ~seg), minL = u32(lane) & seg;
    s32 j;
    bool ok;
    switch (I.sub) {
      case 0:
        j = lane - s32(bv);
        ok = j >= s32(maxL);
        break;
      case 1:
        j = lane + s32(bv);
        ok = j <= s32(maxL);
        break;
      case 2:
        j = lane ^ s32(bv);
        ok = j <= s32(maxL);
        break;
      default:
        j = s32(minL | (bv & ~seg));
        ok = j <= s32(maxL);
        break;
    }
    if (!ok) j = lane;
    if (!(w.execMask >> j & 1)) j = lane;  // an inactive source is undefined on the GPU
    out[lane] = a[j];
    pred |= u32(ok) << lane;
  });
  u32* d = R<u32>(w, I.x[0]);
  if (I.x[0].kind != Opnd::Sink) each(w.execMask, [&](int l) { d[l] = out[l]; });
  if (I.cnt[0] == 2 && I.x[1].kind != Opnd::Sink) {
    u32& p = P(w, I.x[1]);
    p = (p & ~w.execMask) | pred;
  }
}
void op_vote(Warp& w, const Inst& I) {  // sub: 0 all 1 any 2 uni 3 ballot
  if (!w.execMask) return;
  u32 need = R<u32>(w, I.o(2))[std::countr_zero(w.execMask)];
  if (!gather_lanes(w, need)) return;
  u32 v = pred_value(w, I.o(1)) & w.execMask & need, all = w.execMask & need;
  bool r = I.sub == 0 ? v == all : I.sub == 1 ? v != 0 : v == all || v == 0;
  if (I.sub == 3) {
    u32* d = R<u32>(w, I.x[0]);
    each(w.execMask, [&](int l) { d[l] = v; });
  } else {
    u32& d = P(w, I.x[0]);
    d = (d & ~w.execMask) | (r ? w.execMask : 0);
  }
}
void op_match(Warp& w, const Inst& I) {  // flag: all
  if (!w.execMask) return;
  u32 need = R<u32>(w, I.o(2))[std::countr_zero(w.execMask)];
  if (!gather_lanes(w, need)) return;
  u32 m = w.execMask & need, out[kWarp];
  bool all = true;
  each(m, [&](int l) {
    u32 r = 0;
    each(m, [&](int k) {
      if (get_any(w, I.o(1), k) == get_any(w, I.o(1), l)) r |= 1u << k;
    });
    out[l] = r;
    all &= r == m;
  });
  each(m, [&](int l) { R<u32>(w, I.x[0])[l] = I.flag ? (all ? m : 0) : out[l]; });
  if (I.flag && I.cnt[0] == 2 && I.x[1].kind != Opnd::Sink) {
    u32& p = P(w, I.x[1]);
    p = (p & ~w.execMask) | (all ? w.execMask : 0);
  }
}
void op_redux(Warp& w, const Inst& I) {
  if (!w.execMask) return;
  u32 need = R<u32>(w, I.o(2))[std::countr_zero(w.execMask)];
  if (!gather_lanes(w, need)) return;
  const u32* a = R<u32>(w, I.o(1));
  u32 m = w.execMask & need;
  u64 r = 0;
  bool first = true;
  each(m, [&](int l) {
    r = first ? a[l] : u32(atom_apply(I, r, a[l], 0));
    first = false;
  });
  u32* d = R<u32>(w, I.x[0]);
  each(m, [&](int l) { d[l] = u32(r); });
}
void op_activemask(Warp& w, const Inst& I) {
  u32* d = R<u32>(w, I.x[0]);
  each(w.execMask, [&](int l) { d[l] = w.mask; });
}
void op_elect(Warp& w, const Inst& I) {
  u32 need = R<u32>(w, I.o(1))[std::countr_zero(w.execMask)];
  if (!gather_lanes(w, need)) return;
  u32 lead = std::countr_zero(w.execMask & need);
  if (I.x[0].kind != Opnd::Sink) {
    u32* d = R<u32>(w, I.x[0]);
    each(w.execMask, [&](int l) { d[l] = lead; });
  }
  if (I.cnt[0] == 2) {
    u32& p = P(w, I.x[1]);
    p = (p & ~w.execMask) | (1u << lead & w.execMask);
  }
}
void op_warpsync(Warp& w, const Inst& I) {
  if (w.execMask) gather_lanes(w, R<u32>(w, I.o(0))[std::countr_zero(w.execMask)]);
}
void op_nop(Warp&, const Inst&) {}
// ldmatrix / stmatrix: matrix i takes its 8 row addresses from lanes 8i..8i+7.
void op_ldmatrix(Warp& w, const Inst& I) {  // vec: matrices, flag: trans, flag2: store
  if (!gather_lanes(w, ~0u)) return;
  const Opnd& ad = I.flag2 ? I.o(0) : I.o(1);
  int first = I.flag2 ? I.at[1] : 0;
  u64 a[kWarp];
  for (int i = 0; i < I.vec; ++i) {
    u16* row[8];
    u32 lanes = 0xffu << (8 * i);
    for (int r = 0; r < 8; ++r) {
      int l = 8 * i + r;
      a[l] = address(w, ad, l);
      resolve(Space::generic, a[l]);
      row[r] = (u16*)locate(w, I, Space::shared, a[l], 16, l);
    }
    account(w, I, Space::shared, a, lanes, 16, I.flag2);
    u32* d = R<u32>(w, I.x[first + i]);
    for (int l = 0; l < kWarp; ++l) {
      int g = l >> 2, t = (l & 3) * 2;
      u16 *lo = I.flag ? &row[t][g] : &row[g][t], *hi = I.flag ? &row[t + 1][g] : &row[g][t + 1];
      if (I.flag2) {
        *lo = u16(d[l]);
        *hi = u16(d[l] >> 16);
      } else
        d[l] = u32(*hi) << 16 | *lo;
    }
  }
}
void op_movmatrix(Warp& w, const Inst& I) {
  if (!gather_lanes(w, ~0u)) return;
  const u32* a = R<u32>(w, I.x[1]);
  u32* d = R<u32>(w, I.x[0]);
  u16 m[8][8];
  for (int l = 0; l < kWarp; ++l) {
    m[l >> 2][(l & 3) * 2] = u16(a[l]);
    m[l >> 2][(l & 3) * 2 + 1] = u16(a[l] >> 16);
  }
  for (int l = 0; l < kWarp; ++l) d[l] = u32(m[(l & 3) * 2 + 1][l >> 2]) << 16 | m[(l & 3) * 2][l >> 2];
}
// One step of the tensor core's sum: every term is cut to `frac` fraction bits
// relative to the largest exponent, then added exactly, then cut to float.
float fused_sum(const double* p, const int* e, int n, float c, int frac) {
  double acc = c;
  int emax = c == 0 ? -126 : std::max(std::ilogb(c), -126);
  bool odd = c != c || std::isinf(c);
  for (int i = 0; i < n; ++i) {
    odd |= p[i] != p[i] || std::isinf(p[i]);
    acc += p[i];
    emax = std::max(emax, e[i]);
  }
  if (odd || acc != acc) return float(acc);
  double sum = 0;
  auto cut = [&](double v) { return std::trunc(std::ldexp(v, frac - emax)); };
  for (int i = 0; i < n; ++i) sum += cut(p[i]);
  sum += cut(c);
  sum = std::ldexp(sum, emax - frac);
  RoundGuard g(Rnd::rz);
  volatile double s = sum;
  return float(s);
}
void op_mma(Warp& w, const Inst& I) {
  // sub: k, sub2: bits an element; ty2: A type, ty: B type; space unused; flag: f16 result; flag2: f16 C; sat: integer saturation
  if (!gather_lanes(w, ~0u)) return;
  const int K = I.sub, bits = I.sub2, per = 32 / bits;
  const int na = I.cnt[1], nb = I.cnt[2];
  static thread_local double A[16][64], B[64][8], C[16][8];
  auto value = [&](Ty t, u32 v) -> double {
    switch (t) {
      case Ty::f16:
        return half_to_float(u16(v));
      case Ty::bf16:
        return bf16_to_float(u16(v));
      case Ty::tf32:
        return std::bit_cast<float>(v & ~0x1fffu);
      case Ty::e4m3:
        return e4m3_to_float(u8(v));
      case Ty::e5m2:
        return e5m2_to_float(u8(v));
      case Ty::s8_:
        return s8(v);
      case Ty::u8_:
        return u8(v);
      case Ty::s4:
        return s32(v << 28) >> 28;
      case Ty::u4:
        return v & 15;
      default:
        fail_at(w, I, -1, "mma: element type");
    }
  };
  const u32 em = bits == 32 ? ~0u : (1u << bits) - 1;
  for (int i = 0; i < na; ++i) {
    const u32* r = R<u32>(w, I.x[I.at[1] + i]);
    for (int l = 0; l < kWarp; ++l)
      for (int j = 0; j < per; ++j)
        A[(l >> 2) + 8 * (i & 1)][(i >> 1) * 4 * per + (l & 3) * per + j] =
            value(I.ty2, r[l] >> (bits * j) & em);
  }
  for (int i = 0; i < nb; ++i) {
    const u32* r = R<u32>(w, I.x[I.at[2] + i]);
    for (int l = 0; l < kWarp; ++l)
      for (int j = 0; j < per; ++j)
        B[i * 4 * per + (l & 3) * per + j][l >> 2] = value(I.ty, r[l] >> (bits * j) & em);
  }
  const bool integer = bits == 8 ? (I.ty == Ty::s8_ || I.ty == Ty::u8_) : bits == 4;
  auto at = [](int l, int i, int& row, int& col) {
    row = (l >> 2) + 8 * (i >> 1);
    col = (l & 3) * 2 + (i & 1);
  };
  for (int l = 0; l < kWarp; ++l)
    for (int i = 0; i < 4; ++i) {
      int r, c;
      at(l, i, r, c);
      const Opnd& o = I.x[I.at[3] + (I.flag2 ? i >> 1 : i)];
      u32 v = R<u32>(w, o)[l];
      C[r][c] = integer   ? double(s32(v))
                : I.flag2 ? double(half_to_float(u16(v >> (16 * (i & 1)))))
                          : double(std::bit_cast<float>(v));
    }
  MmaMode mode = w.cta->opt->mma;
  if (integer || mode == MmaMode::exact) {
    for (int r = 0; r < 16; ++r)
      for (int k = 0; k < K; ++k) {
        double a = A[r][k];
        for (int c = 0; c < 8; ++c) C[r][c] += a * B[k][c];
      }
  } else {
    int step = mode == MmaMode::ampere && 2 * 4 * per == K ? K / 2 : K,
        frac = mode == MmaMode::ampere ? 24 : 25;
    for (int r = 0; r < 16; ++r)
      for (int c = 0; c < 8; ++c) {
        float s = float(C[r][c]);
        for (int k0 = 0; k0 < K; k0 += step) {
          double p[64];
          int e[64];
          for (int k = 0; k < step; ++k) {
            double a = A[r][k0 + k], b = B[k0 + k][c];
            p[k] = a * b;
            e[k] = p[k] == 0 ? -126 : std::ilogb(a) + std::ilogb(b);
          }
          s = fused_sum(p, e, step, s, frac);
          if (I.flag) s = half_to_float(float_to_half(s));
        }
        C[r][c] = s;
      }
  }
  for (int l = 0; l < kWarp; ++l)
    for (int i = 0; i < 4; ++i) {
      int r, c;
      at(l, i, r, c);
      double v = C[r][c];
      u32* d = R<u32>(w, I.x[I.flag ? i >> 1 : i]);
      if (integer) {
        s64 x = s64(v);
        if (I.sat) x = std::clamp<s64>(x, INT_MIN, INT_MAX);
        d[l] = u32(x);
      } else if (I.flag) {
        u32 h = double_to_half(v);
        d[l] = i & 1 ? (d[l] & 0xffff) | h << 16 : (d[l] & 0xffff0000) | h;
      } else
        d[l] = std::bit_cast<u32>(float(v));
    }
}
// ------------------------------------------------------------- control flow
void op_bra(Warp& w, const Inst& I) {
  u32 taken = w.execMask, rest = w.mask & ~taken;
  if (!taken) return;
  if (!rest) {
    w.pc = I.o(0).off;
    return;
  }
  Frag f;
  f.pc = I.o(0).off;
  f.mask = taken;
  f.stack = w.frags[w.cur].stack;
  w.mask = rest;
  w.frags[w.cur].mask = rest;
  w.frags[w.cur].pc = w.pc;
  w.frags.push_back(std::move(f));
  w.yield = true;
}
void op_brx(Warp& w, const Inst& I) {
  const u32* idx = R<u32>(w, I.o(0));
  std::map<u32, u32> to;
  each(w.execMask, [&](int l) {
    if (idx[l] >= I.table.size()) fail_at(w, I, l, "brx index");
    to[I.table[idx[l]]] |= 1u << l;
  });
  u32 rest = w.mask & ~w.execMask;
  if (!rest && to.size() == 1) {
    w.pc = to.begin()->first;
    return;
  }
  Frag base = w.frags[w.cur];
  base.blocked = false;
  bool first = true;
  if (rest) {
    w.frags[w.cur].mask = w.mask = rest;
    w.frags[w.cur].pc = w.pc;
    first = false;
  }
  for (auto [pc, m] : to) {
    if (first) {
      w.frags[w.cur].mask = w.mask = m;
      w.frags[w.cur].pc = w.pc = pc;
      first = false;
    } else {
      Frag f = base;
      f.pc = pc;
      f.mask = m;
      w.frags.push_back(f);
    }
  }
  w.yield = true;
}
void release_barriers(Cta& c);
void op_exit(Warp& w, const Inst& I);
void op_ret(Warp& w, const Inst& I) {
  if (w.frags[w.cur].stack.empty()) {
    op_exit(w, I);
    return;
  }
  u32 m = w.execMask, rest = w.mask & ~m;
  if (!m) return;
  Frag f = w.frags[w.cur];
  f.pc = f.stack.back();
  f.stack.pop_back();
  f.mask = m;
  if (rest) {
    w.frags[w.cur].mask = rest;
    w.frags[w.cur].pc = w.pc;
    w.frags.push_back(std::move(f));
  } else {
    w.pc = f.pc;
    w.frags[w.cur] = std::move(f);
  }
  w.mask = w.frags[w.cur].mask;
  w.yield = true;
}
void op_exit(Warp& w, const Inst&) {
  u32 m = w.execMask;
  if (!m) return;
  w.alive &= ~m;
  w.mask &= ~m;
  w.frags[w.cur].mask = w.mask;
  w.frags[w.cur].pc = w.pc;
  for (Frag& f : w.frags) f.blocked = false;
  if (!w.mask) w.frags.erase(w.frags.begin() + long(w.cur));
  w.yield = true;
  if (!w.alive) release_barriers(*w.cta);
}
// call: table holds (dst, src, bytes) copies into the callee's parameters; imm of x[0] indexes builtins
void op_call(Warp& w, const Inst& I) {
  for (size_t i = 0; i + 2 < I.table.size(); i += 3)
    each(w.execMask, [&](int l) {
      u8* p = w.local + size_t(l) * w.mod->localBytes;
      std::memcpy(p + I.table[i], p + I.table[i + 1], I.table[i + 2]);
    });
  u32 m = w.execMask, rest = w.mask & ~m;
  if (!m) return;
  Frag f = w.frags[w.cur];
  f.stack.push_back(w.pc);
  f.pc = I.o(0).off;
  f.mask = m;
  if (f.stack.size() > 64) fail_at(w, I, -1, "call depth (recursion is not supported)");
  if (rest) {
    w.frags[w.cur].mask = rest;
    w.frags[w.cur].pc = w.pc;
    w.frags.push_back(std::move(f));
  } else {
    w.pc = f.pc;
    w.frags[w.cur] = std::move(f);
  }
  w.mask = w.frags[w.cur].mask;
  w.yield = true;
}
void op_copy_ret(Warp& w, const Inst& I) {  // after a call: result area to the caller's variable
  for (size_t i = 0; i + 2 < I.table.size(); i += 3)
    each(w.execMask, [&](int l) {
      u8* p = w.local + size_t(l) * w.mod->localBytes;
      std::memcpy(p + I.table[i], p + I.table[i + 1], I.table[i + 2]);
    });
}
const char* device_string(Warp& w, const Inst& I, u64 a, int l) {
  Space s = resolve(Space::generic, a);
  return (const char*)locate(w, I, s, a, 1, l);
}
void op_vprintf(Warp& w, const Inst& I) {  // table: offsets of the two parameters and of the result
  each(w.execMask, [&](int l) {
    u8* p = w.local + size_t(l) * w.mod->localBytes;
    u64 f, a;
    std::memcpy(&f, p + I.table[0], 8);
    std::memcpy(&a, p + I.table[1], 8);
    const char* s = device_string(w, I, f, l);
    const u8* arg = a ? (const u8*)device_string(w, I, a, l) : nullptr;
    size_t off = 0;
    string out;
    auto take = [&](size_t n) {
      off = (off + n - 1) / n * n;
      u64 v = 0;
      std::memcpy(&v, arg + off, n);
      off += n;
      return v;
    };
    for (; *s; ++s) {
      if (*s != '%') {
        out += *s;
        continue;
      }
      if (s[1] == '%') {
        out += '%';
        ++s;
        continue;
      }
      string spec = "%";
      int longs = 0;
      for (++s; *s && !strchr("diouxXcfFeEgGaAsp", *s); ++s) {
        if (*s == 'l')
          ++longs;
        else if (*s == '*')
          spec += std::to_string(s32(take(4)));
        else
          spec += *s;
      }
      char b[512] = "";
      if (strchr("fFeEgGaA", *s)) {
        spec += *s;
        snprintf(b, 512, spec.c_str(), std::bit_cast<double>(take(8)));
      } else if (*s == 's') {
        spec += 's';
        snprintf(b, 512, spec.c_str(), device_string(w, I, take(8), l));
      } else if (*s == 'p') {
        spec += 'p';
        snprintf(b, 512, spec.c_str(), (void*)take(8));
      } else if (longs) {
        spec += "ll";
        spec += *s;
        snprintf(b, 512, spec.c_str(), (long long)take(8));
      } else {
        spec += *s;
        snprintf(b, 512, spec.c_str(), int(take(4)));
      }
      out += b;
      if (!*s) break;
    }
    fputs(out.c_str(), stdout);
  });
}
void op_assertfail(Warp& w, const Inst& I) {
  if (!w.execMask) return;
  int l = std::countr_zero(w.execMask);
  u8* p = w.local + size_t(l) * w.mod->localBytes;
  u64 m, f;
  u32 line;
  std::memcpy(&m, p + I.table[0], 8);
  std::memcpy(&f, p + I.table[1], 8);
  std::memcpy(&line, p + I.table[2], 4);
  fail_at(w, I, l,
          string("device assert: ") + device_string(w, I, m, l) + " (" + device_string(w, I, f, l) + ":" +
              std::to_string(line) + ")");
}
void op_trap(Warp& w, const Inst& I) {
  if (w.execMask) fail_at(w, I, std::countr_zero(w.execMask), "trap");
}
void op_unsupported(Warp& w, const Inst& I) {
  if (w.execMask) fail_at(w, I, -1, "instruction not supported");
}

void complete(Cta& c, int id) {
  Barrier& b = c.bars[id];
  if (c.opt->racecheck) {
    for (Warp& w : c.warps)
      for (Frag& f : w.frags)
        if (f.barrier == id)
          for (size_t i = 0; i < b.clock.size(); ++i) w.clock[i] = std::max(w.clock[i], b.clock[i]);
    b.clock.assign(c.warps.size(), 0);
  }
  for (Warp& w : c.warps)
    for (Frag& f : w.frags)
      if (f.barrier == id) {
        if (f.red) {
          const Inst& I = *f.red;
          u32 m = f.mask;
          if (I.sub2 == 1)
            each(m, [&](int l) { R<u32>(w, I.x[0])[l] = b.pop; });
          else {
            u32& p = P(w, I.x[0]);
            u32 v = (I.sub2 == 2 ? b.allAnd : b.anyOr) ? m : 0;
            p = (p & ~m) | v;
          }
        }
        f.barrier = -1;
        f.red = nullptr;
      }
  b.arrived = b.expected = 0;
  b.pop = 0;
  b.allAnd = 1;
  b.anyOr = 0;
}
u32 live_threads(const Cta& c) {
  u32 n = 0;
  for (const Warp& w : c.warps) n += w.alive ? kWarp : 0;
  return n;
}
void release_barriers(Cta& c) {
  for (int i = 0; i < 16; ++i)
    if (c.bars[i].arrived && c.bars[i].arrived >= (c.bars[i].expected ? c.bars[i].expected : live_threads(c)))
      complete(c, i);
}
void op_bar(Warp& w, const Inst& I) {  // sub: 0 sync 1 arrive 2 red; sub2: red op 1 popc 2 and 3 or
  if (!w.execMask) return;
  if (!gather_lanes(w, ~0u)) return;
  if (w.execMask != w.mask) fail_at(w, I, -1, "barrier under a divergent guard");
  int first = I.sub == 2 ? 1 : 0, lane = std::countr_zero(w.mask);
  u32 id = u32(get_any(w, I.o(first), lane));
  int rest = I.nops - first - (I.sub == 2 ? 1 : 0);
  u32 count = rest > 1 ? u32(get_any(w, I.o(first + 1), lane)) : 0;
  if (id >= 16) fail_at(w, I, lane, "barrier number");
  Barrier& b = w.cta->bars[id];
  if (b.arrived && b.expected != count) fail_at(w, I, lane, "barrier used with different thread counts");
  b.expected = count;
  b.arrived += kWarp;
  Frag& f = w.frags[w.cur];
  if (I.sub == 2) {
    u32 v = pred_value(w, I.o(I.nops - 1)) & w.mask;
    b.pop += u32(std::popcount(v));
    b.allAnd &= v == w.mask;
    b.anyOr |= v != 0;
    f.red = &I;
  }
  if (w.cta->opt->racecheck) {
    if (b.clock.empty()) b.clock.assign(w.cta->warps.size(), 0);
    for (size_t i = 0; i < b.clock.size(); ++i) b.clock[i] = std::max(b.clock[i], w.clock[i]);
    ++w.clock[w.index];
  }
  if (I.sub != 1) {
    f.barrier = int(id);
    f.pc = w.pc;
    w.yield = true;
  }
  u32 want = count ? count : live_threads(*w.cta);
  if (b.arrived > want) fail_at(w, I, lane, "more threads at the barrier than it expects");
  if (b.arrived == want) complete(*w.cta, int(id));
}

// ---------------------------------------------------------------- scheduling
// Joins fragments that met, then picks: deepest call first, then lowest pc.
bool pick(Warp& w) {
  auto& v = w.frags;
  for (size_t i = 0; v.size() > 1 && i < v.size(); ++i)
    for (size_t j = i + 1; j < v.size();) {
      if (v[i].pc != v[j].pc || v[i].barrier >= 0 || v[j].barrier >= 0 || v[i].stack != v[j].stack) {
        ++j;
        continue;
      }
      v[i].mask |= v[j].mask;
      v[i].blocked = false;
      v.erase(v.begin() + long(j));
    }
  size_t best = v.size();
  for (size_t i = 0; i < v.size(); ++i) {
    if (v[i].blocked || v[i].barrier >= 0) continue;
    if (best == v.size() || v[i].stack.size() > v[best].stack.size() ||
        (v[i].stack.size() == v[best].stack.size() && v[i].pc < v[best].pc))
      best = i;
  }
  if (best == v.size()) return false;
  w.cur = best;
  w.pc = v[best].pc;
  w.mask = v[best].mask;
  return true;
}
// With a seed, now and then lets some lanes run ahead of the rest, as the GPU may:
// code that relies on lock-step without __syncwarp then goes wrong. Returns by how many instructions.
u32 split_lanes(Warp& w) {
  if (!w.rng) return 0;
  auto next = [&] {
    w.rng ^= w.rng << 13;
    w.rng ^= w.rng >> 17;
    w.rng ^= w.rng << 5;
    return w.rng;
  };
  if (w.frags.size() > 3 || next() % 4) return 0;
  u32 ahead = w.mask & next() & (next() | next());
  if (!ahead || ahead == w.mask) return 0;
  Frag rest = w.frags[w.cur];
  rest.mask = w.mask & ~ahead;
  w.frags[w.cur].mask = w.mask = ahead;
  w.frags.push_back(std::move(rest));
  return 1 + next() % 40;
}
// A load or atomic that may wait for another block. It ends the warp's turn; a load that comes round
// again to the same address and value is a spin, which is not counted (its number means nothing here).
void poll(Warp& w, const Inst& I, Stat& s, Stat* stats) {
  const bool load = I.opcode[0] == 'l' && w.execMask;
  const int lane = load ? std::countr_zero(w.execMask) : 0;
  const Stat before = s;
  const u64 at = load ? address(w, I.o(1), lane) : 0;
  ++s.exec;
  s.lanes += u64(std::popcount(w.execMask));
  I.fn(w, I);
  const u64 value = load ? get_any(w, I.x[0], lane) : 0;
  if (load && w.spinPc == I.pc && w.spinAddr == at && w.spinValue == value) {
    s = before;
    for (auto& [pc, lanes] : w.spinTrace) {
      --stats[pc].exec;
      stats[pc].lanes -= lanes;
    }
  }
  w.spinPc = load ? I.pc : ~0u;
  w.spinAddr = at;
  w.spinValue = value;
  w.spinTrace.clear();
  if (w.cur < w.frags.size()) w.frags[w.cur].pc = w.pc;
}
// Runs a warp until it blocks or the budget is spent. Returns false when it cannot go on now.
bool run_warp(Warp& w, u64 budget) {
  const Inst* code = w.mod->code.data();
  Stat* stats = w.cta->stats->data();
  while (budget) {
    if (!pick(w)) return false;
    u32 next = ~0u;  // the pc where another fragment waits to be joined
    for (size_t i = 0; i < w.frags.size(); ++i)
      if (i != w.cur && w.frags[i].barrier < 0 && w.frags[i].stack.size() == w.frags[w.cur].stack.size() &&
          w.frags[i].pc > w.pc)
        next = std::min(next, w.frags[i].pc);
    u32 lead = split_lanes(w);
    bool alone = w.frags.size() == 1;
    w.yield = false;
    while (budget) {
      const Inst& I = code[w.pc];
      ++w.pc;
      --budget;
      ++w.steps;
      w.execMask = w.mask;
      if (I.guarded) {
        u32 p = *(u32*)(w.regs + I.guard);
        w.execMask &= I.guardNeg ? ~p : p;
      }
      Stat& s = stats[I.pc];
      if (I.poll && w.cta->opt->resident) {
        poll(w, I, s, stats);
        return true;
      }
      ++s.exec;
      s.lanes += u64(std::popcount(w.execMask));
      if (w.spinPc != ~0u) {
        if (w.spinTrace.size() < 64)
          w.spinTrace.push_back({I.pc, u32(std::popcount(w.execMask))});
        else
          w.spinPc = ~0u;
      }
      I.fn(w, I);
      if (w.yield) break;
      if (lead) {
        if (--lead == 0) break;
      } else if (!alone && (w.pc >= next || w.pc <= I.pc)) {
        w.frags[w.cur].pc = w.pc;
        break;
      }
    }
    if (!w.yield) {
      if (w.cur < w.frags.size()) w.frags[w.cur].pc = w.pc;
    } else if (w.cur < w.frags.size() && w.frags[w.cur].blocked) {
      w.frags[w.cur].pc = w.pc;
      --stats[w.pc].exec;
    }
  }
  return true;
}
// Gives every warp of the block one turn. Returns false when the block has ended.
bool step_cta(Cta& c) {
  bool progress = false, all = true;
  std::vector<u32> order(c.warps.size());
  for (u32 i = 0; i < order.size(); ++i) order[i] = i;
  if (c.opt->seed) std::shuffle(order.begin(), order.end(), c.rng);
  for (u32 i : order) {
    Warp& w = c.warps[i];
    if (!w.alive) continue;
    all = false;
    u64 before = w.steps;
    run_warp(w, c.opt->seed ? 1 + c.rng() % 200 : 100000);
    if (w.steps != before) progress = true;
    c.spent += w.steps - before;
  }
  if (all) return false;
  if (!progress) {
    string s = "deadlock in block (" + std::to_string(c.id.x) + "," + std::to_string(c.id.y) + "," +
               std::to_string(c.id.z) + "):";
    for (Warp& w : c.warps)
      for (Frag& f : w.frags) {
        const Inst& I = c.mod->code[f.barrier >= 0 ? f.pc - 1 : f.pc];
        char b[400];
        snprintf(b, 400, "\n  warp %u lanes %08x wait at PTX line %d: %s", w.index, f.mask, I.line,
                 I.text.c_str());
        if (s.size() < 1500) s += b;
      }
    fail("%s", s.c_str());
  }
  if (c.opt->maxSteps && c.spent > c.opt->maxSteps)
    fail("block (%u,%u,%u) ran more than %llu warp instructions", c.id.x, c.id.y, c.id.z,
         (unsigned long long)c.opt->maxSteps);
  return true;
}

void Module::launch(const string& kernel, Dim3 grid, Dim3 block, u32 dynShared,
                    const std::vector<const void*>& args, const Options& opt) {
  Entry& e = entry(kernel);
  if (args.size() != e.params.size())
    fail("%s takes %zu parameters, %zu given", kernel.c_str(), e.params.size(), args.size());
  for (size_t i = 0; i < args.size(); ++i)
    std::memcpy(params.data() + e.params[i].offset, args[i], e.params[i].size);
  u64 threads = block.count(), blocks = grid.count();
  if (!threads || threads > 1024 || !blocks) fail("bad launch shape");
  u32 nw = u32((threads + kWarp - 1) / kWarp);
  u32 sharedBytes = dynSharedOffset + dynShared;
  std::atomic<u64> nextBlock{0};
  // cooperative_groups::this_grid() finds its barrier here: {size, barrier, ...}
  alignas(64) static u8 workspace[256];
  std::memset(workspace, 0, sizeof workspace);
  memory.add(workspace, sizeof workspace, "grid workspace");
  const int n = int(std::min<u64>(u64(std::max(1, opt.threads)), blocks));
  const u64 slots = opt.resident ? (std::min(opt.resident, blocks) + u64(n) - 1) / u64(n) : 1;
  std::mutex atomics, merge;
  std::exception_ptr error;
  auto worker = [&] {
    std::vector<Stat> st(code.size());
    std::map<string, u64> rc;
    try {
      std::vector<std::unique_ptr<Cta>> live;
      auto create = [&] {
        auto p = std::make_unique<Cta>();
        Cta& c = *p;
        c.mod = this;
        c.opt = &opt;
        c.stats = &st;
        c.races = &rc;
        c.atomics = &atomics;
        c.grid = grid;
        c.block = block;
        c.warps.resize(nw);
        for (Warp& w : c.warps) {
          w.regStore.resize(regBytes + 64);
          w.localStore.resize(size_t(localBytes) * kWarp + 64);
        }
        return p;
      };
      auto start = [&](Cta& c) {  // puts the next block of the grid in c
        u64 b = nextBlock++;
        if (b >= blocks) return false;
        c.spent = 0;
        c.rng.seed(opt.seed);
        c.id = {u32(b % grid.x), u32(b / grid.x % grid.y), u32(b / grid.x / grid.y)};
        c.shared.assign(sharedBytes, 0xff);
        if (opt.racecheck) c.shadow.assign(sharedBytes, {});
        c.bars = {};
        for (u32 i = 0; i < nw; ++i) {
          Warp& w = c.warps[i];
          w.cta = &c;
          w.mod = this;
          w.index = i;
          w.pool = constants.data();
          w.regs = (u8*)((u64(w.regStore.data()) + 63) & ~63ull);
          w.local = (u8*)((u64(w.localStore.data()) + 15) & ~15ull);
          w.alive = threads - u64(i) * kWarp >= kWarp ? ~0u : (1u << (threads - u64(i) * kWarp)) - 1;
          w.frags.assign(1, Frag{});
          w.frags[0].pc = e.start;
          w.frags[0].mask = w.alive;
          w.async = {};
          w.rng = opt.seed ? (opt.seed * 2654435761u + u32(b) * 40503u + i * 2246822519u) | 1 : 0;
          w.clock.assign(nw, 0);
          w.clock[i] = 1;
          w.steps = 0;
          w.spinPc = ~0u;
          w.spinTrace.clear();
          auto S = [&](u32 r, int l) -> u32& { return ((u32*)(w.regs + r * 128))[l]; };
          for (int l = 0; l < kWarp; ++l) {
            u32 t = i * kWarp + u32(l);
            S(kTidX, l) = t % block.x;
            S(kTidY, l) = t / block.x % block.y;
            S(kTidZ, l) = t / block.x / block.y;
            S(kNtidX, l) = block.x;
            S(kNtidY, l) = block.y;
            S(kNtidZ, l) = block.z;
            S(kCtaidX, l) = c.id.x;
            S(kCtaidY, l) = c.id.y;
            S(kCtaidZ, l) = c.id.z;
            S(kNctaidX, l) = grid.x;
            S(kNctaidY, l) = grid.y;
            S(kNctaidZ, l) = grid.z;
            S(kLane, l) = u32(l);
            S(kWarpid, l) = i;
            S(kNwarpid, l) = 64;
            S(kSmid, l) = 0;
            S(kNsmid, l) = 1;
            S(kMaskEq, l) = 1u << l;
            S(kMaskLt, l) = (1u << l) - 1;
            S(kMaskLe, l) = (2u << l) - 1;
            S(kMaskGt, l) = ~((2u << l) - 1);
            S(kMaskGe, l) = ~((1u << l) - 1);
            S(kClock, l) = S(kClockHi, l) = 0;
            S(kDynSmem, l) = dynShared;
            S(kTotalSmem, l) = sharedBytes;
            S(kZero, l) = 0;
            S(kOne, l) = 1;
            S(kEnvreg1, l) = u32(u64(workspace) >> 32);
            S(kEnvreg2, l) = u32(u64(workspace));
          }
        }
        return true;
      };
      for (u64 i = 0; i < slots; ++i) {
        auto p = create();
        if (!start(*p)) break;
        live.push_back(std::move(p));
      }
      while (!live.empty())
        for (size_t i = 0; i < live.size();) {
          if (!step_cta(*live[i]) && !start(*live[i]))
            live.erase(live.begin() + long(i));
          else
            ++i;
        }
    } catch (...) {
      std::lock_guard<std::mutex> g(merge);
      if (!error) error = std::current_exception();
      nextBlock = blocks;
    }
    std::lock_guard<std::mutex> g(merge);
    stats.resize(code.size());
    for (size_t i = 0; i < st.size(); ++i) stats[i].add(st[i]);
    for (auto& [k, v] : rc) races[k] += v;
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < n; ++i) pool.emplace_back(worker);
  worker();
  for (auto& t : pool) t.join();
  if (error) std::rethrow_exception(error);
}

// ---------------------------------------------------------------------- parser
struct Function {
  string name;
  std::vector<Param> params, rets;  // offsets in the local frame
  u32 start = 0;
};

struct Parser {
  Parser(Module& module, std::vector<Tok> toks) : m(module), t(std::move(toks)) {}
  Module& m;
  std::vector<Tok> t;
  size_t p = 0;
  struct Reg {
    Opnd::Kind kind;
    bool wide;
    u32 off;
  };
  struct Scope {
    u32 id;
    std::unordered_map<string, Reg> regs;
    std::unordered_map<string, Symbol> syms;
  };
  std::vector<Scope> scopes;
  u32 scopeCount = 0;
  std::map<std::pair<u32, string>, u32> labels;
  struct LabelUse {
    u32 inst;
    int operand;
    int slot;
    string name;
    std::vector<u32> chain;
    int line;
  };
  std::vector<LabelUse> labelUses;
  std::map<string, std::vector<string>> branchTargets;
  std::map<string, Function> funcs;
  struct CallUse {
    u32 inst;
    string name;
    std::vector<std::pair<u32, u32>> args, rets;
  };
  std::vector<CallUse> calls;
  struct DynUse {
    bool pool;
    u32 a, b;
  };  // a constant, or operand b of instruction a
  std::vector<DynUse> dynUses;
  std::map<std::pair<u64, u32>, u32> constIndex;
  u32 regTop = 0, localTop = 0, sharedTop = 0;
  int locFile = 0, locLine = 0;
  bool inEntry = false;

  const string& s(size_t k = 0) const {
    static const string none;
    return p + k < t.size() ? t[p + k].s : none;
  }
  int line() const { return p < t.size() ? t[p].line : 0; }
  [[noreturn]] void err(const string& what) const {
    fail("PTX line %d: %s near '%s'", line(), what.c_str(), s().c_str());
  }
  string next() {
    if (p >= t.size()) err("unexpected end");
    return t[p++].s;
  }
  bool accept(const char* x) {
    if (s() == x) {
      ++p;
      return true;
    }
    return false;
  }
  void expect(const char* x) {
    if (!accept(x)) err(string("expected ") + x);
  }
  void skip_line() {
    int l = line();
    while (p < t.size() && t[p].line == l) ++p;
  }

  static u32 align(u32 v, u32 a) { return (v + a - 1) / a * a; }

  // Numbers: decimal, hex, 0f / 0d float bits, decimal fractions.
  bool number(const string& x, u64& v, bool& dbl) {
    dbl = false;
    if (x.empty() || !isdigit((unsigned char)x[0])) return false;
    if (x.size() == 10 && x[0] == '0' && (x[1] == 'f' || x[1] == 'F')) {
      v = std::stoull(x.substr(2), nullptr, 16);
      return true;
    }
    if (x.size() == 18 && x[0] == '0' && (x[1] == 'd' || x[1] == 'D')) {
      v = std::stoull(x.substr(2), nullptr, 16);
      return true;
    }
    if (x.find('.') != string::npos) {
      v = std::bit_cast<u64>(std::stod(x));
      dbl = true;
      return true;
    }
    string y = x;
    if (y.back() == 'U') y.pop_back();
    v = y.size() > 2 && (y[1] == 'b' || y[1] == 'B') ? std::stoull(y.substr(2), nullptr, 2)
                                                     : std::stoull(y, nullptr, 0);
    return true;
  }
  u32 constant(u64 v8, u32 v4) {
    auto [it, fresh] = constIndex.try_emplace({v8, v4}, u32(m.constants.size()));
    if (!fresh) return it->second;
    return it->second = new_constant(v8, v4);
  }
  u32 new_constant(u64 v8, u32 v4) {
    u32 off = u32(m.constants.size());
    m.constants.resize(off + 384);
    for (int l = 0; l < kWarp; ++l) {
      std::memcpy(&m.constants[off + 4 * l], &v4, 4);
      std::memcpy(&m.constants[off + 128 + 8 * l], &v8, 8);
    }
    return off;
  }
  const Reg* find_reg(const string& n) const {
    for (size_t i = scopes.size(); i--;) {
      auto it = scopes[i].regs.find(n);
      if (it != scopes[i].regs.end()) return &it->second;
    }
    return nullptr;
  }
  const Symbol* find_sym(const string& n) const {
    for (size_t i = scopes.size(); i--;) {
      auto it = scopes[i].syms.find(n);
      if (it != scopes[i].syms.end()) return &it->second;
    }
    auto it = m.globals.find(n);
    return it == m.globals.end() ? nullptr : &it->second;
  }
  static constexpr u32 kDyn = ~0u;  // Symbol.size of dynamic shared memory

  // ------------------------------------------------------------ top level
  void run() {
    size_t begin = p;
    // Functions first: entries place their registers and frames behind them.
    regTop = kFirstReg;
    for (int pass = 0; pass < 3; ++pass) {
      p = begin;
      top(pass);
    }
    for (CallUse& c : calls) link_call(c);
    u32 most = 0;
    for (auto& [n, e] : m.entries) most = std::max(most, e.sharedBytes);
    // One offset for all kernels of the module keeps functions simple.
    m.dynSharedOffset = align(most, 128);
    for (DynUse& d : dynUses) {
      if (d.pool)
        for (int l = 0; l < kWarp; ++l) {
          u32 v;
          std::memcpy(&v, &m.constants[d.a + 4 * l], 4);
          v += m.dynSharedOffset;
          std::memcpy(&m.constants[d.a + 4 * l], &v, 4);
          u64 w = v;
          std::memcpy(&m.constants[d.a + 128 + 8 * l], &w, 8);
        }
      else
        m.code[d.a].x[d.b].imm += m.dynSharedOffset;
    }
  }
  // pass 0: variables and prototypes; 1: functions; 2: kernels
  void top(int pass) {
    while (p < t.size()) {
      const string& x = s();
      if (x == ".version") {
        next();
        m.version = next();
      } else if (x == ".target") {
        next();
        m.target = next();
        while (accept(",")) next();
      } else if (x == ".address_size") {
        next();
        if (next() != "64") err("only 64-bit addresses");
      } else if (x == ".file" || x == ".loc")
        skip_line();
      else if (x == ".pragma") {
        while (next() != ";") {
        }
      } else if (x == ".section") {
        while (next() != "{") {
        }
        int d = 1;
        while (d) {
          string y = next();
          d += y == "{" ? 1 : y == "}" ? -1 : 0;
        }
      } else if (x == ".alias") {
        while (next() != ";") {
        }
      } else if (x == ".visible" || x == ".weak" || x == ".common")
        next();
      else if (x == ".extern") {
        next();
        external = true;
        continue;
      } else if (x == ".entry" || x == ".func") {
        function(pass, x == ".entry");
      } else if (x == ".global" || x == ".const" || x == ".shared") {
        variable(pass == 0);
      } else
        err("unexpected token");
      external = false;
    }
  }
  bool external = false;

  struct Decl {
    string name;
    Ty ty = Ty::b32;
    u32 alignTo = 0;
    u64 count = 1;
    bool array = false, unsized = false;
    u32 bytes() const { return unsized ? 0 : u32(count * u64(size_of(ty))); }
  };
  Decl declarator() {  // after the state space
    Decl d;
    u32 vec = 1;
    bool pointee = false;
    for (;;) {
      const string& x = s();
      if (x == ".ptr") {
        next();
        pointee = true;
      }  // an .align behind it tells of the memory pointed to
      else if (x == ".align") {
        next();
        u32 a = u32(std::stoul(next()));
        if (!pointee) d.alignTo = a;
      } else if (x == ".global" || x == ".const" || x == ".shared" || x == ".local" || x == ".generic" ||
                 x.rfind(".attribute", 0) == 0)
        next();
      else if (x == ".v2" || x == ".v4") {
        vec = u32(x[2] - '0');
        next();
      } else if (x.size() > 1 && x[0] == '.' && kTypes.count(x.substr(1))) {
        d.ty = kTypes.at(x.substr(1));
        next();
      } else
        break;
    }
    d.name = next();
    while (accept("[")) {
      d.array = true;
      if (accept("]")) {
        d.unsized = true;
        continue;
      }
      u64 v;
      bool f;
      string y = next();
      if (!number(y, v, f)) err("array size");
      d.count *= v;
      expect("]");
    }
    d.count *= vec;
    if (!d.alignTo) d.alignTo = u32(size_of(d.ty)) * vec;
    return d;
  }
  void variable(bool define) {  // module scope
    string space = next();
    Decl d = declarator();
    std::vector<u8> init;
    struct Ref {
      u32 off;
      string sym;
      s64 add;
    };
    std::vector<Ref> refs;
    if (accept("=")) {
      int n = size_of(d.ty), depth = 0;
      bool neg = false;
      auto put = [&](u64 v) {
        size_t o = init.size();
        init.resize(o + size_t(n));
        std::memcpy(&init[o], &v, size_t(n));
      };
      do {
        string x = next();
        if (x == "{")
          ++depth;
        else if (x == "}")
          --depth;
        else if (x == ",") {
        } else if (x == "-")
          neg = true;
        else {
          u64 v;
          bool dbl;
          if (number(x, v, dbl)) {
            put(neg ? 0 - v : v);
            neg = false;
          } else {
            if (x == "generic") {
              expect("(");
              x = next();
              expect(")");
            }
            Ref r{u32(init.size()), x, 0};
            if (accept("+")) {
              u64 a;
              bool f;
              number(next(), a, f);
              r.add = s64(a);
            }
            refs.push_back(r);
            put(0);
          }
        }
      } while (depth > 0 || s() != ";");
    }
    expect(";");
    if (!define) return;
    if (space == ".shared") {
      if (d.unsized || external) {
        m.globals[d.name] = {Space::shared, 0, kDyn};
        return;
      }
      moduleShared = align(moduleShared, d.alignTo);
      m.globals[d.name] = {Space::shared, moduleShared, d.bytes()};
      moduleShared += d.bytes();
      return;
    }
    if (d.unsized) d.count = init.size() / size_t(size_of(d.ty)), d.unsized = false;
    u32 n = std::max<u32>(d.bytes(), u32(init.size()));
    m.storage_.push_back(std::make_unique<u8[]>(n + 256));
    u8* a = (u8*)((u64(m.storage_.back().get()) + 127) & ~127ull);
    std::memset(a, 0, n);
    if (!init.empty()) std::memcpy(a, init.data(), init.size());
    m.globals[d.name] = {space == ".const" ? Space::constant : Space::global, u64(a), n};
    m.memory.add(a, n, d.name);
    for (Ref& r : refs) {
      auto it = m.globals.find(r.sym);
      if (it == m.globals.end()) err("initialiser names an unknown symbol " + r.sym);
      u64 v = it->second.value + u64(r.add);
      std::memcpy(a + r.off, &v, 8);
    }
  }
  u32 moduleShared = 0;

  std::vector<Decl> parameter_list() {
    std::vector<Decl> v;
    expect("(");
    while (!accept(")")) {
      if (accept(",")) continue;
      if (s() == ".param" || s() == ".reg") next();
      v.push_back(declarator());
    }
    return v;
  }
  u32 frame(const Decl& d) {
    localTop = align(localTop, std::max(d.alignTo, 8u));
    u32 o = localTop;
    localTop += std::max(d.bytes(), 4u);
    return o;
  }

  void function(int pass, bool entry) {
    next();
    std::vector<Decl> rets, ps;
    if (!entry && s() == "(") rets = parameter_list();
    string name = next();
    if (s() == "(") ps = parameter_list();
    while (s()[0] == '.') {  // .maxntid 128, 1, 1  .minnctapersm 2  .noreturn  .reqntid ...
      next();
      while (isdigit((unsigned char)s()[0]) || s() == ",") next();
    }
    if (!entry && pass == 0 && !funcs.count(name)) {
      Function f;
      f.name = name;
      for (Decl& d : ps) f.params.push_back({d.name, frame(d), d.bytes()});
      for (Decl& d : rets) f.rets.push_back({d.name, frame(d), d.bytes()});
      f.start = ~0u;
      funcs[name] = f;
    }
    if (accept(";")) return;
    if ((entry && pass != 2) || (!entry && pass != 1)) {
      expect("{");
      int d = 1;
      while (d) {
        string y = next();
        d += y == "{" ? 1 : y == "}" ? -1 : 0;
      }
      return;
    }

    scopes.clear();
    labels.clear();
    labelUses.clear();
    branchTargets.clear();
    scopes.push_back({scopeCount++, {}, {}});
    u32 saveReg = regTop, saveLocal = localTop;
    sharedTop = moduleShared;
    inEntry = entry;
    Entry* e = nullptr;
    if (entry) {
      e = &m.entries[name];
      e->name = name;
      e->start = u32(m.code.size());
      u32 off = 0;
      for (Decl& d : ps) {
        off = align(off, d.alignTo);
        e->params.push_back({d.name, off, d.bytes()});
        scopes[0].syms[d.name] = {Space::param, u64(m.params.data()) + off, d.bytes()};
        off += d.bytes();
      }
      e->paramBytes = off;
      if (off > m.params.size()) err("too many parameter bytes");
    } else {
      Function& f = funcs[name];
      f.start = u32(m.code.size());
      for (size_t i = 0; i < ps.size(); ++i)
        scopes[0].syms[ps[i].name] = {Space::local, f.params[i].offset, f.params[i].size};
      for (size_t i = 0; i < rets.size(); ++i)
        scopes[0].syms[rets[i].name] = {Space::local, f.rets[i].offset, f.rets[i].size};
    }
    expect("{");
    size_t depth = scopes.size();
    for (;;) {
      if (accept("{")) {
        scopes.push_back({scopeCount++, {}, {}});
        continue;
      }
      if (accept("}")) {
        if (scopes.size() == depth) break;
        scopes.pop_back();
        continue;
      }
      statement();
    }
    emit_simple(op_ret, "ret");
    for (LabelUse& u : labelUses) {
      const u32* at = nullptr;
      for (size_t i = u.chain.size(); i-- && !at;) {
        auto it = labels.find({u.chain[i], u.name});
        if (it != labels.end()) at = &it->second;
      }
      if (!at) fail("PTX line %d: no label %s", u.line, u.name.c_str());
      if (u.slot >= 0)
        m.code[u.inst].table[size_t(u.slot)] = *at;
      else
        m.code[u.inst].x[size_t(u.operand)].off = *at;
    }
    m.regBytes = std::max(m.regBytes, align(regTop, 64));
    m.localBytes = std::max(m.localBytes, align(localTop, 16));
    if (entry) {
      e->sharedBytes = sharedTop;
      regTop = saveReg;
      localTop = saveLocal;
    }
  }
  void emit_simple(Fn f, const char* text) {
    Inst I;
    I.fn = f;
    I.opcode = I.text = text;
    I.pc = u32(m.code.size());
    I.line = line();
    m.code.push_back(I);
  }

  void statement() {
    const string x = s();
    if (x == ".loc") {
      next();
      locFile = std::stoi(next());
      locLine = std::stoi(next());
      int l = t[p - 1].line;
      while (p < t.size() && t[p].line == l) ++p;
      return;
    }
    if (x == ".file") {
      skip_line();
      return;
    }
    if (x == ".pragma") {
      while (next() != ";") {
      }
      return;
    }
    if (x == ".reg") {
      registers();
      return;
    }
    if (x == ".shared" || x == ".local" || x == ".param" || x == ".const" || x == ".global") {
      if (x == ".const" || x == ".global") {
        variable(true);
        return;
      }
      next();
      do {
        Decl d = declarator();
        if (x == ".shared") {
          sharedTop = align(sharedTop, d.alignTo);
          scopes.back().syms[d.name] = {Space::shared, sharedTop, d.bytes()};
          sharedTop += d.bytes();
          if (!inEntry) moduleShared = sharedTop;
        } else
          scopes.back().syms[d.name] = {Space::local, frame(d), d.bytes()};
      } while (accept(","));
      expect(";");
      return;
    }
    if (s(1) == ":") {
      next();
      next();
      if (s() == ".branchtargets") {
        next();
        auto& v = branchTargets[x];
        while (!accept(";"))
          if (!accept(",")) v.push_back(next());
        return;
      }
      if (s() == ".callprototype" || s() == ".calltargets") {
        while (next() != ";") {
        }
        return;
      }
      labels[{scopes.back().id, x}] = u32(m.code.size());
      return;
    }
    if (accept(";")) return;
    instruction();
  }
  void registers() {
    next();
    string ty = next();
    if (!kTypes.count(ty.substr(1))) err("register type");
    Ty k = kTypes.at(ty.substr(1));
    bool pred = k == Ty::pred, wide = size_of(k) == 8;
    if (size_of(k) == 16) err("128-bit registers are not supported");
    auto make = [&](const string& n) {
      u32 sz = pred ? 4 : wide ? 256 : 128;
      if (!pred) regTop = align(regTop, 64);
      scopes.back().regs[n] = {pred ? Opnd::Pred : Opnd::Reg, wide, regTop};
      regTop += sz;
    };
    do {
      string n = next();
      if (accept("<")) {
        u64 c;
        bool f;
        number(next(), c, f);
        expect(">");
        for (u64 i = 0; i < c; ++i) make(n + std::to_string(i));
      } else
        make(n);
    } while (accept(","));
    expect(";");
  }

  // ---------------------------------------------------------- instructions
  Opnd scalar(Inst& I, Ty immTy) {
    Opnd o;
    bool neg = accept("-"), inv = accept("!");
    string x = next();
    u64 v;
    bool dbl;
    if (x == "_") {
      o.kind = Opnd::Sink;
      return o;
    }
    if (number(x, v, dbl)) {
      if (dbl) {
        double d = std::bit_cast<double>(v);
        if (neg) d = -d;
        v = immTy == Ty::f64 ? std::bit_cast<u64>(d) : std::bit_cast<u32>(float(d));
      } else if (neg)
        v = 0 - v;
      o.kind = Opnd::Const;
      o.imm = s64(v);
      o.off = constant(v, u32(v));
      return o;
    }
    if (const Reg* r = find_reg(x)) {
      o.kind = r->kind;
      o.wide = r->wide;
      o.off = r->off;
      o.neg = inv;
      return o;
    }
    auto sr = kSregs.find(x);
    if (sr != kSregs.end()) {
      o.kind = Opnd::Reg;
      o.off = sr->second * 128;
      return o;
    }
    if (x == "%clock64" || x.rfind("%globaltimer", 0) == 0) {
      o.kind = Opnd::Reg;
      o.wide = true;
      o.off = kClock64Off;
      return o;
    }
    if (x == "WARP_SZ") {
      o.kind = Opnd::Const;
      o.imm = 32;
      o.off = constant(32, 32);
      return o;
    }
    if (const Symbol* y = find_sym(x)) {
      u64 add = 0;
      bool f;
      if (accept("+")) {
        bool n2 = accept("-");
        number(next(), add, f);
        if (n2) add = 0 - add;
      }
      o.kind = Opnd::Const;
      o.imm = s64(y->value + add);
      if (y->size == kDyn) {
        o.off = new_constant(u64(o.imm), u32(o.imm));
        dynUses.push_back({true, o.off, 0});
      } else
        o.off = constant(u64(o.imm), u32(o.imm));
      return o;
    }
    o.kind = Opnd::Label;
    labelUses.push_back({u32(m.code.size()), int(I.x.size()), -1, x, {}, line()});
    for (Scope& sc : scopes) labelUses.back().chain.push_back(sc.id);
    return o;
  }
  void operand(Inst& I, Ty immTy) {
    if (I.nops >= 8) err("too many operands");
    I.at[I.nops] = u8(I.x.size());
    if (accept("{")) {
      while (!accept("}"))
        if (!accept(",")) I.x.push_back(scalar(I, immTy));
    } else if (accept("[")) {
      Opnd o;
      o.kind = Opnd::Addr;
      string x = next();
      u64 v;
      bool f;
      if (number(x, v, f))
        o.imm = s64(v);
      else if (const Reg* r = find_reg(x)) {
        o.hasBase = true;
        o.wide = r->wide;
        o.off = r->off;
      } else if (const Symbol* y = find_sym(x)) {
        o.imm = s64(y->value);
        if (y->size == kDyn) dynUses.push_back({false, u32(m.code.size()), u32(I.x.size())});
        if (I.space == Space::param)
          I.space = y->space;
        else if (I.space == Space::generic)
          o.imm |= s64(y->space == Space::shared  ? kSharedWindow
                       : y->space == Space::local ? kLocalWindow
                                                  : 0);
      } else
        err("unknown address " + x);
      while (s() == "+" || s() == "-") {
        bool n = next() == "-";
        if (accept("-")) n = !n;
        if (!number(next(), v, f)) err("address offset");
        o.imm += n ? -s64(v) : s64(v);
      }
      if (!accept("]")) err("address form not supported");
      I.x.push_back(o);
    } else {
      I.x.push_back(scalar(I, immTy));
      if (accept("|")) I.x.push_back(scalar(I, immTy));
    }
    I.cnt[I.nops] = u8(I.x.size() - I.at[I.nops]);
    ++I.nops;
  }
  void instruction() {
    Inst I;
    I.line = line();
    I.locFile = locFile;
    I.locLine = locLine;
    size_t from = p;
    if (accept("@")) {
      I.guardNeg = accept("!");
      const Reg* r = find_reg(next());
      if (!r || r->kind != Opnd::Pred) err("guard");
      I.guarded = true;
      I.guard = r->off;
    }
    I.opcode = next();
    std::vector<string> q = split_dots(I.opcode);
    if (q[0] == "ld" || q[0] == "atom" || q[0] == "red")
      for (auto& x : q)
        if (x == "acquire" || x == "volatile" || x == "relaxed" || x == "acq_rel" || q[0] == "atom")
          I.poll = true;
    string base = q[0];
    for (size_t i = q.size(); i-- > 1;) {
      auto it = kTypes.find(q[i]);
      if (it == kTypes.end()) continue;
      if (I.ty == Ty::none)
        I.ty = it->second;
      else if (I.ty2 == Ty::none) {
        I.ty2 = it->second;
        break;
      }
    }
    auto has = [&](const char* x) {
      for (size_t i = 1; i < q.size(); ++i)
        if (q[i] == x) return true;
      return false;
    };
    for (size_t i = 1; i < q.size(); ++i) {
      string x = q[i].substr(0, q[i].find("::"));
      if (x == "global")
        I.space = Space::global;
      else if (x == "shared")
        I.space = Space::shared;
      else if (x == "local")
        I.space = Space::local;
      else if (x == "const")
        I.space = Space::constant;
      else if (x == "param")
        I.space = Space::param;
    }
    I.ftz = has("ftz");
    I.sat = has("sat") || has("satfinite");
    I.rnd = has("rz") ? Rnd::rz : has("rm") ? Rnd::rm : has("rp") ? Rnd::rp : has("rna") ? Rnd::rna : Rnd::rn;
    if (base == "call") {
      call(I);
      I.text = text(from);
      return;
    }
    while (!accept(";")) {
      if (accept(",")) continue;
      operand(I, I.ty);
    }
    I.text = text(from);
    I.pc = u32(m.code.size());
    I.fn = decode(I, base, q, has);
    if (!I.fn) I.fn = op_unsupported;
    m.code.push_back(std::move(I));
  }
  string text(size_t from) const {
    string r;
    for (size_t i = from; i < p && t[i].s != ";"; ++i) {
      const string& x = t[i].s;
      bool tight =
          x == "," || x == "]" || x == "}" || x == "+" || x == "|" ||
          (i > from && (t[i - 1].s == "[" || t[i - 1].s == "{" || t[i - 1].s == "+" || t[i - 1].s == "@" ||
                        t[i - 1].s == "!" || t[i - 1].s == "-" || t[i - 1].s == "|"));
      if (!r.empty() && !tight) r += ' ';
      r += x;
    }
    return r;
  }
  void call(Inst& I) {
    CallUse c;
    auto vars = [&] {
      std::vector<std::pair<u32, u32>> v;
      expect("(");
      while (!accept(")")) {
        if (accept(",")) continue;
        string n = next();
        const Symbol* y = find_sym(n);
        if (!y || y->space != Space::local) err("call argument " + n);
        v.push_back({u32(y->value), y->size});
      }
      return v;
    };
    if (s() == "(") {
      c.rets = vars();
      expect(",");
    }
    c.name = next();
    if (accept(",")) c.args = vars();
    if (accept(",")) next();
    expect(";");
    I.pc = c.inst = u32(m.code.size());
    I.x.push_back(Opnd{});
    I.cnt[0] = 1;
    I.nops = 1;
    I.fn = op_call;
    Inst J = I;
    J.fn = op_copy_ret;
    J.pc = c.inst + 1;
    J.opcode = "call.return";
    m.code.push_back(I);
    m.code.push_back(J);
    calls.push_back(c);
  }
  void link_call(const CallUse& c) {
    Inst &I = m.code[c.inst], &J = m.code[c.inst + 1];
    J.text = I.text = "call " + c.name;
    if (c.name == "vprintf") {
      I.fn = op_vprintf;
      I.table = {c.args[0].first, c.args[1].first};
      J.fn = op_nop;
      return;
    }
    if (c.name == "__assertfail") {
      I.fn = op_assertfail;
      I.table = {c.args[0].first, c.args[1].first, c.args[2].first};
      J.fn = op_nop;
      return;
    }
    auto it = funcs.find(c.name);
    if (it == funcs.end() || it->second.start == ~0u) {
      I.fn = op_unsupported;
      return;
    }
    const Function& f = it->second;
    I.x[0].off = f.start;
    for (size_t i = 0; i < f.params.size(); ++i) {
      I.table.push_back(f.params[i].offset);
      I.table.push_back(c.args.at(i).first);
      I.table.push_back(f.params[i].size);
    }
    for (size_t i = 0; i < f.rets.size(); ++i) {
      J.table.push_back(c.rets.at(i).first);
      J.table.push_back(f.rets[i].offset);
      J.table.push_back(f.rets[i].size);
    }
  }

  template <class H>
  Fn decode(Inst& I, const string& op, const std::vector<string>& q, H has) {
    const Ty ty = I.ty;
    const bool flt = is_float(ty) || ty == Ty::f16x2 || ty == Ty::bf16x2;
    const bool w64 = size_of(ty) == 8;
    auto carry = [&](u8 kind) -> Fn {
      I.sub = kind;
      return w64 ? carry_op<u64> : carry_op<u32>;
    };
    if (op == "mov") {
      if (ty == Ty::pred) return op_mov_pred;
      if (I.cnt[1] > 1) return op_pack;
      if (I.cnt[0] > 1) return op_unpack;
      if (I.x[1].kind == Opnd::Reg && (I.x[1].off == kClock64Off || I.x[1].off == kClock * 128))
        return op_mov_clock;
      if (I.x[1].kind == Opnd::Label) return nullptr;
      return w64 ? op_mov<u64> : op_mov<u32>;
    }
    if (op == "ld" || op == "ldu") return op_ld;
    if (op == "st") return op_st;
    if (op == "add" || op == "addc") {
      if (has("cc") || op == "addc") {
        I.flag = op == "addc";
        I.flag2 = has("cc");
        return carry(0);
      }
      return ty == Ty::s32_ && I.sat ? bin<s32, AddSat> : any_bin<Add>(ty);
    }
    if (op == "sub" || op == "subc") {
      if (has("cc") || op == "subc") {
        I.flag = op == "subc";
        I.flag2 = has("cc");
        return carry(1);
      }
      return ty == Ty::s32_ && I.sat ? bin<s32, SubSat> : any_bin<Sub>(ty);
    }
    if (op == "mul" || op == "mul24") {
      if (flt) return flt_bin<Mul>(ty);
      if (has("wide")) return wide_fn<false>(ty);
      return has("hi") ? int_bin<MulHi>(ty) : int_bin<Mul>(ty);
    }
    if (op == "mad" || op == "mad24" || op == "madc") {
      if (flt) return flt_tri<Fma>(ty);
      if (has("cc") || op == "madc") {
        I.flag = op == "madc";
        I.flag2 = has("cc");
        return carry(has("hi") ? 3 : 2);
      }
      if (has("wide")) return wide_fn<true>(ty);
      return has("hi") ? int_tri<MadHi>(ty) : int_tri<MadLo>(ty);
    }
    if (op == "fma") {
      I.flag = has("relu");
      return flt_tri<Fma>(ty);
    }
    if (op == "div") return any_bin<Div>(ty);
    if (op == "rem") return int_bin<Rem>(ty);
    if (op == "min") return flt && has("NaN") ? flt_bin<MinNan>(ty) : any_bin<Min>(ty);
    if (op == "max") return flt && has("NaN") ? flt_bin<MaxNan>(ty) : any_bin<Max>(ty);
    if (op == "abs") return any_un<Abs>(ty);
    if (op == "neg") return any_un<Neg>(ty);
    if (op == "copysign") return flt_bin<Copysign>(ty);
    if (op == "rcp") return flt_un<Rcp>(ty);
    if (op == "sqrt") return flt_un<Sqrt>(ty);
    if (op == "rsqrt") return flt_un<Rsqrt>(ty);
    if (op == "sin") return flt_un<Sin>(ty);
    if (op == "cos") return flt_un<Cos>(ty);
    if (op == "lg2") return flt_un<Lg2>(ty);
    if (op == "ex2") return flt_un<Ex2>(ty);
    if (op == "tanh") return flt_un<Tanh>(ty);
    if (op == "sad") return int_tri<Sad>(ty);
    if (op == "and" || op == "or" || op == "xor" || op == "not") {
      if (ty == Ty::pred) {
        I.sub = op == "and" ? 0 : op == "or" ? 1 : op == "xor" ? 2 : 3;
        return op_pred_logic;
      }
      return op == "and"   ? int_bin<And>(ty)
             : op == "or"  ? int_bin<Or>(ty)
             : op == "xor" ? int_bin<Xor>(ty)
                           : int_un<Not>(ty);
    }
    if (op == "cnot") return int_un<Cnot>(ty);
    if (op == "shl") return shift_fn<true>(ty);
    if (op == "shr") return shift_fn<false>(ty);
    if (op == "shf") {
      I.flag = has("l");
      I.flag2 = has("wrap");
      return op_shf;
    }
    if (op == "bfe")
      return ty == Ty::u32_   ? bfe<u32>
             : ty == Ty::s32_ ? bfe<s32>
             : ty == Ty::u64_ ? bfe<u64>
             : ty == Ty::s64_ ? bfe<s64>
                              : nullptr;
    if (op == "bfi") return w64 ? bfi<u64> : bfi<u32>;
    if (op == "popc") return w64 ? bits_count<u64, 0> : bits_count<u32, 0>;
    if (op == "clz") return w64 ? bits_count<u64, 1> : bits_count<u32, 1>;
    if (op == "bfind") {
      if (has("shiftamt"))
        return ty == Ty::u32_   ? bits_count<u32, 3>
               : ty == Ty::s32_ ? bits_count<s32, 3>
               : ty == Ty::u64_ ? bits_count<u64, 3>
                                : bits_count<s64, 3>;
      return ty == Ty::u32_   ? bits_count<u32, 2>
             : ty == Ty::s32_ ? bits_count<s32, 2>
             : ty == Ty::u64_ ? bits_count<u64, 2>
                              : bits_count<s64, 2>;
    }
    if (op == "brev") return w64 ? un<u64, Brev> : un<u32, Brev>;
    if (op == "bmsk") {
      I.flag = has("wrap");
      return op_bmsk;
    }
    if (op == "szext") {
      I.flag = has("wrap");
      I.flag2 = is_signed(ty);
      return op_szext;
    }
    if (op == "lop3") return I.cnt[0] == 1 ? op_lop3 : nullptr;
    if (op == "prmt") {
      I.sub = has("f4e")    ? 1
              : has("b4e")  ? 2
              : has("rc8")  ? 3
              : has("ecl")  ? 4
              : has("ecr")  ? 5
              : has("rc16") ? 6
                            : 0;
      return op_prmt;
    }
    if (op == "dp4a" || op == "dp2a") {
      I.sub = op == "dp4a" ? 4 : 2;
      I.sub2 = has("hi");
      I.flag = is_signed(I.ty2);
      I.flag2 = is_signed(ty);
      return op_dp4a;
    }
    if (op == "selp") return ty == Ty::pred ? op_selp_pred : w64 ? op_selp<u64> : op_selp<u32>;
    if (op == "slct") return size_of(I.ty2) == 8 ? op_slct<u64> : op_slct<u32>;
    if (op == "setp" || op == "set") {
      static const std::map<string, u8> cmp = {
          {"eq", EQ},   {"ne", NE},   {"lt", LT},   {"le", LE},   {"gt", GT},   {"ge", GE},
          {"lo", LT},   {"ls", LE},   {"hi", GT},   {"hs", GE},   {"equ", EQU}, {"neu", NEU},
          {"ltu", LTU}, {"leu", LEU}, {"gtu", GTU}, {"geu", GEU}, {"num", NUM}, {"nan", NANC}};
      auto it = cmp.find(q[1]);
      if (it == cmp.end()) return nullptr;
      I.sub = it->second;
      I.sub2 = has("and") ? 1 : has("or") ? 2 : has("xor") ? 3 : 0;
      return op == "setp" ? op_setp : op_set;
    }
    if (op == "cvt") {
      if (q[1] == "pack") return nullptr;
      I.flag2 = has("relu");
      I.sub = has("rni") ? 0 : has("rzi") ? 1 : has("rmi") ? 2 : has("rpi") ? 3 : 1;
      I.flag = has("rni") || has("rzi") || has("rmi") || has("rpi");
      if (I.nops == 3) return op_cvt_pack;
      if (ty == Ty::e4m3x2 || ty == Ty::e5m2x2 || I.ty2 == Ty::e4m3x2 || I.ty2 == Ty::e5m2x2)
        return op_cvt_fp8;
      return op_cvt;
    }
    if (op == "cvta") {
      I.flag = has("to");
      return op_cvta;
    }
    if (op == "isspacep") return op_isspacep;
    if (op == "atom" || op == "red") {
      if (q.size() > 1 && q[1] == "async") return nullptr;
      static const std::map<string, u8> ops = {{"add", AAdd}, {"min", AMin}, {"max", AMax},   {"and", AAnd},
                                               {"or", AOr},   {"xor", AXor}, {"exch", AExch}, {"cas", ACas},
                                               {"inc", AInc}, {"dec", ADec}};
      bool found = false;
      for (auto& x : q) {
        auto it = ops.find(x);
        if (it != ops.end()) {
          I.sub = it->second;
          found = true;
        }
      }
      I.flag = op == "red";
      return found ? op_atom : nullptr;
    }
    if (op == "cp" && q.size() > 2 && q[1] == "async") {
      if (q[2] == "commit_group") return op_cp_commit;
      if (q[2] == "wait_group") return op_cp_wait;
      if (q[2] == "wait_all") {
        I.flag = true;
        return op_cp_wait;
      }
      if (q[2] == "ca" || q[2] == "cg") {
        if (I.nops > 3 && I.x.back().kind == Opnd::Reg && has("L2::cache_hint")) --I.nops;
        return op_cp_async;
      }
      return nullptr;
    }
    if (op == "ldmatrix" || op == "stmatrix") {
      if (!has("m8n8")) return nullptr;
      I.vec = has("x4") ? 4 : has("x2") ? 2 : 1;
      I.flag = has("trans");
      I.flag2 = op == "stmatrix";
      return op_ldmatrix;
    }
    if (op == "movmatrix") return op_movmatrix;
    if (op == "mma") {
      string shape;
      for (auto& x : q)
        if (x[0] == 'm' && x.size() > 4 && isdigit((unsigned char)x[1])) shape = x;
      if (shape.rfind("m16n8k", 0) != 0 || has("sp") || q[1] != "sync" || I.nops != 4) return nullptr;
      std::vector<Ty> ts;
      for (auto& x : q) {
        auto it = kTypes.find(x);
        if (it != kTypes.end()) ts.push_back(it->second);
      }
      if (ts.size() != 4) return nullptr;
      I.sub = u8(std::stoi(shape.substr(6)));
      I.ty2 = ts[1];
      I.ty = ts[2];
      I.flag = ts[0] == Ty::f16;
      I.flag2 = ts[3] == Ty::f16;
      switch (ts[1]) {
        case Ty::f16:
        case Ty::bf16:
          I.sub2 = 16;
          break;
        case Ty::tf32:
          I.sub2 = 32;
          break;
        case Ty::s8_:
        case Ty::u8_:
        case Ty::e4m3:
        case Ty::e5m2:
          I.sub2 = 8;
          break;
        case Ty::s4:
        case Ty::u4:
          I.sub2 = 4;
          break;
        default:
          return nullptr;
      }
      if (I.sub > 64 || I.cnt[1] * (32 / I.sub2) * 32 != 16 * I.sub ||
          I.cnt[2] * (32 / I.sub2) * 32 != 8 * I.sub)
        return nullptr;
      return op_mma;
    }
    if (op == "shfl") {
      I.sub = has("up") ? 0 : has("down") ? 1 : has("bfly") ? 2 : 3;
      return has("sync") ? op_shfl : nullptr;
    }
    if (op == "vote") {
      I.sub = has("all") ? 0 : has("any") ? 1 : has("uni") ? 2 : 3;
      return has("sync") ? op_vote : nullptr;
    }
    if (op == "match") {
      I.flag = has("all");
      return op_match;
    }
    if (op == "redux") {
      I.sub = has("add")   ? AAdd
              : has("min") ? AMin
              : has("max") ? AMax
              : has("and") ? AAnd
              : has("or")  ? AOr
                           : AXor;
      return op_redux;
    }
    if (op == "activemask") return op_activemask;
    if (op == "elect") return op_elect;
    if (op == "bar" || op == "barrier") {
      if (has("warp")) return op_warpsync;
      if (has("cluster")) return op_nop;
      I.sub = has("arrive") ? 1 : has("red") ? 2 : 0;
      I.sub2 = has("popc") ? 1 : has("and") ? 2 : 3;
      return op_bar;
    }
    if (op == "bra") return op_bra;
    if (op == "brx") {
      auto it = I.x[1].kind == Opnd::Label ? branchTargets.find(labelUses.back().name) : branchTargets.end();
      labelUses.pop_back();
      if (it == branchTargets.end()) return nullptr;
      for (auto& n : it->second) {
        labelUses.push_back({u32(m.code.size()), 0, int(I.table.size()), n, {}, I.line});
        for (Scope& sc : scopes) labelUses.back().chain.push_back(sc.id);
        I.table.push_back(0);
      }
      return op_brx;
    }
    if (op == "createpolicy") return op_policy;
    if (op == "ret") return op_ret;
    if (op == "exit") return op_exit;
    if (op == "trap" || op == "brkpt") return op_trap;
    if (op == "membar" || op == "fence" || op == "prefetch" || op == "prefetchu" || op == "nanosleep" ||
        op == "griddepcontrol" || op == "setmaxnreg" || op == "applypriority" || op == "discard" ||
        op == "pmevent")
      return op_nop;
    return nullptr;
  }
};

void Module::parse(std::vector<Tok> toks) {
  Parser ps(*this, std::move(toks));
  ps.run();
}

// ---------------------------------------------------------------------- report
void Module::report(FILE* f, size_t top) const {
  Stat all;
  std::map<string, u64> mix;
  for (size_t i = 0; i < stats.size() && i < code.size(); ++i) {
    const Stat& x = stats[i];
    const Inst& I = code[i];
    all.add(x);
    if (x.exec) mix[I.opcode] += x.exec;
  }
  auto n = [](u64 v) { return (unsigned long long)v; };
  fprintf(f, "warp instructions %llu, active lanes %.1f of 32\n", n(all.exec),
          all.exec ? double(all.lanes) / double(all.exec) : 0.0);
  fprintf(f, "global: %llu requests, %llu sectors of 32 B, %llu B asked, %.1f%% of the sectors' bytes used\n",
          n(all.requests), n(all.sectors), n(all.bytes),
          all.sectors ? 100.0 * double(all.bytes) / double(all.sectors * 32) : 0.0);
  fprintf(f, "shared: %llu requests, %llu passes, %llu without conflicts (%.2fx)\n", n(all.sharedRequests),
          n(all.waves), n(all.wavesIdeal), all.wavesIdeal ? double(all.waves) / double(all.wavesIdeal) : 0.0);
  std::vector<std::pair<u64, string>> v;
  for (auto& [k, c] : mix) v.push_back({c, k});
  std::sort(v.rbegin(), v.rend());
  fprintf(f, "instruction mix:\n");
  for (size_t i = 0; i < v.size() && i < top; ++i)
    fprintf(f, "  %10llu %5.1f%%  %s\n", n(v[i].first), 100.0 * double(v[i].first) / double(all.exec),
            v[i].second.c_str());
  std::vector<size_t> worst;
  for (size_t i = 0; i < stats.size() && i < code.size(); ++i)
    if (stats[i].waves > stats[i].wavesIdeal ||
        (stats[i].sectors && stats[i].bytes * 2 <= stats[i].sectors * 32))
      worst.push_back(i);
  auto cost = [&](size_t i) {
    return std::max(stats[i].waves - std::min(stats[i].waves, stats[i].wavesIdeal), stats[i].sectors);
  };
  std::sort(worst.begin(), worst.end(), [&](size_t a, size_t b) { return cost(a) > cost(b); });
  if (!worst.empty()) fprintf(f, "bank conflicts and sparse sectors:\n");
  for (size_t i = 0; i < worst.size() && i < top; ++i) {
    const Stat& x = stats[worst[i]];
    const Inst& I = code[worst[i]];
    if (x.waves > x.wavesIdeal)
      fprintf(f, "  PTX line %d (source %d): %.2f passes instead of %.2f  %s\n", I.line, I.locLine,
              double(x.waves) / double(x.sharedRequests), double(x.wavesIdeal) / double(x.sharedRequests),
              I.text.c_str());
    else
      fprintf(f, "  PTX line %d (source %d): %.1f sectors a request, %.0f%% used  %s\n", I.line, I.locLine,
              double(x.sectors) / double(x.requests), 100.0 * double(x.bytes) / double(x.sectors * 32),
              I.text.c_str());
  }
  for (auto& [k, c] : races) fprintf(f, "race: %s (%llu times)\n", k.c_str(), n(c));
}

// Which class an opcode is counted in.
static const char* class_of(const string& o) {
  auto pre = [&](const char* p) { return o.rfind(p, 0) == 0; };
  auto has = [&](const char* p) { return o.find(p) != string::npos; };
  if (pre("mma")) return "mma";
  if (pre("ldmatrix") || pre("stmatrix") || pre("movmatrix")) return "ldmatrix";
  if (pre("ld.shared") || pre("ld.volatile.shared")) return "ld.shared";
  if (pre("st.shared") || pre("st.volatile.shared")) return "st.shared";
  if (pre("cp.async.c") && has("shared")) return "cp.async";
  if (pre("ld.param") || pre("ld.const")) return "ld.param/const";
  if (pre("st.param")) return "call";
  if (pre("ld.local") || pre("st.local")) return "local";
  if (pre("ld")) return "ld.global";
  if (pre("st")) return "st.global";
  if (pre("atom") || pre("red.")) return "atomic";
  if (pre("shfl") || pre("vote") || pre("match") || pre("redux")) return "shfl";
  if (pre("bar") || pre("cp.async") || pre("fence") || pre("membar") || pre("createpolicy") ||
      pre("griddep") || pre("nanosleep"))
    return "sync";
  if (pre("bra") || pre("brx") || pre("ret") || pre("exit") || pre("call") || pre("trap")) return "branch";
  if (pre("mov") || pre("cvta")) return "mov";
  if (has(".f16") || has(".bf16") || has(".f32") || has(".f64") || has("e4m3") || has("e5m2"))
    return pre("cvt") ? "cvt.fp" : "fp";
  if (pre("cvt")) return "cvt.int";
  return "int";
}
void Module::summary(FILE* f) const {
  std::map<string, u64> mix;
  Stat rd, wr, all;
  u64 ldsmP = 0, ldsP = 0, stsP = 0, cpP = 0, idle = 0;
  for (size_t i = 0; i < stats.size() && i < code.size(); ++i) {
    const Stat& x = stats[i];
    if (!x.exec) continue;
    const string c = class_of(code[i].opcode);
    mix[c] += x.exec;
    all.add(x);
    (c == "st.global" || c == "atomic" ? wr : rd).add(x);
    if (c == "ldmatrix")
      ldsmP += x.waves;
    else if (c == "ld.shared")
      ldsP += x.waves;
    else if (c == "st.shared")
      stsP += x.waves;
    else if (c == "cp.async")
      cpP += x.waves;
  }
  auto n = [](u64 v) { return (unsigned long long)v; };
  fprintf(f,
          "SUM total=%llu rdsec=%llu wrsec=%llu rdbytes=%llu wrbytes=%llu passes=%llu ideal=%llu p_ldsm=%llu "
          "p_lds=%llu p_sts=%llu p_cp=%llu",
          n(all.exec), n(rd.sectors), n(wr.sectors), n(rd.bytes), n(wr.bytes), n(all.waves),
          n(all.wavesIdeal), n(ldsmP), n(ldsP), n(stsP), n(cpP));
  for (auto& [k, c] : mix) fprintf(f, " c:%s=%llu", k.c_str(), n(c));
  fprintf(f, "\n");
}

}  // namespace ptx
