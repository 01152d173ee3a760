// SPDX-License-Identifier: Apache-2.0
// Every family of instructions against what C++ computes on the host. The same file runs on a GPU.
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <higgs/core/half.hpp>
#include <random>
#include <vector>

#include "device_array.cuh"
#include "emulator.hpp"

namespace {

using emulator::DeviceArray;
using higgs::BFloat16;
using higgs::Half;
using std::uint32_t;
using std::uint64_t;

// One instruction of three 32-bit operands, as PTX and as C++.
#define OPERATION(name, ptx, expression)                                           \
  struct name {                                                                    \
    __device__ static uint32_t device(uint32_t a, uint32_t b, uint32_t c) {        \
      uint32_t d;                                                                  \
      asm volatile(ptx : "=r"(d) : "r"(a), "r"(b), "r"(c));                        \
      return d;                                                                    \
    }                                                                              \
    static uint32_t host([[maybe_unused]] uint32_t a, [[maybe_unused]] uint32_t b, \
                         [[maybe_unused]] uint32_t c) {                            \
      return static_cast<uint32_t>(expression);                                    \
    }                                                                              \
  }

template <class... Operations>
__global__ void operations_kernel(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* d,
                                  int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  int slot = i;
  const uint32_t x = a[i], y = b[i], z = c[i];
  ((d[slot] = Operations::device(x, y, z), slot += count), ...);
  d[slot] = x ^ y ^ z;  // ptxas would remove the load of one that no operation reads
}

// Random words, among them small ones, ones with a single bit, and the ends.
std::vector<uint32_t> random_words(std::size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> words(count);
  for (uint32_t& w : words) {
    const uint32_t bits = random();
    const uint32_t special[] = {0, 1, 31, 32, 33, 0x7fffffff, 0x80000000, 0xffffffff};
    switch (random() % 4) {
      case 0:
        w = special[bits % 8];
        break;
      case 1:
        w = bits % 64;
        break;
      case 2:
        w = uint32_t{1} << bits % 32;
        break;
      default:
        w = bits;
    }
  }
  return words;
}
std::vector<uint32_t> random_floats(std::size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-8, 8);
  std::vector<uint32_t> words(count);
  for (uint32_t& w : words) w = std::bit_cast<uint32_t>(uniform(random));
  return words;
}

template <class... Operations>
void expect_equal(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b,
                  const std::vector<uint32_t>& c) {
  const auto count = static_cast<int>(a.size());
  const DeviceArray<uint32_t> da(a), db(b), dc(c),
      dd(std::vector<uint32_t>(a.size() * (sizeof...(Operations) + 1)));
  operations_kernel<Operations...>
      <<<(count + 127) / 128, 128>>>(da.data(), db.data(), dc.data(), dd.data(), count);
  REQUIRE(cudaGetLastError() == cudaSuccess);
  const std::vector<uint32_t> d = dd.host();
  uint32_t (*const hosts[])(uint32_t, uint32_t, uint32_t) = {&Operations::host...};
  for (std::size_t k = 0; k < sizeof...(Operations); ++k) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (d[k * a.size() + i] == hosts[k](a[i], b[i], c[i])) continue;
      INFO("operation " << k << std::hex << " of " << a[i] << " " << b[i] << " " << c[i]);
      REQUIRE(d[k * a.size() + i] == hosts[k](a[i], b[i], c[i]));
    }
  }
}
template <class... Operations>
void expect_equal_on_words() {
  expect_equal<Operations...>(random_words(500, 1), random_words(500, 2), random_words(500, 3));
}
template <class... Operations>
void expect_equal_on_floats() {
  expect_equal<Operations...>(random_floats(500, 4), random_floats(500, 5), random_floats(500, 6));
}

constexpr int32_t as_signed(uint32_t v) { return static_cast<int32_t>(v); }
constexpr uint64_t wide(uint32_t high, uint32_t low) { return uint64_t{high} << 32 | low; }
float as_float(uint32_t v) { return std::bit_cast<float>(v); }
uint32_t bits_of(float v) { return std::bit_cast<uint32_t>(v); }

// ---- integer
OPERATION(Add, "add.u32 %0, %1, %2;", a + b);
OPERATION(AddSaturated, "add.sat.s32 %0, %1, %2;",
          std::clamp<int64_t>(int64_t{as_signed(a)} + as_signed(b), INT32_MIN, INT32_MAX));
OPERATION(Subtract, "sub.s32 %0, %1, %2;", a - b);
OPERATION(MultiplyLow, "mul.lo.u32 %0, %1, %2;", a* b);
OPERATION(MultiplyHigh, "mul.hi.u32 %0, %1, %2;", uint64_t{a} * b >> 32);
OPERATION(MultiplyHighSigned, "mul.hi.s32 %0, %1, %2;", int64_t{as_signed(a)} * as_signed(b) >> 32);
OPERATION(MultiplyAdd, "mad.lo.s32 %0, %1, %2, %3;", a* b + c);
OPERATION(MultiplyWide, "{ .reg .u64 t; mul.wide.s32 t, %1, %2; shr.u64 t, t, 16; cvt.u32.u64 %0, t; }",
          int64_t{as_signed(a)} * as_signed(b) >> 16);
// By odd numbers: what a division by zero gives is the machine's affair.
OPERATION(Divide, "{ .reg .u32 t; or.b32 t, %2, 1; div.u32 %0, %1, t; }", a / (b | 1));
OPERATION(RemainderSigned, "{ .reg .s32 t; or.b32 t, %2, 1; rem.s32 %0, %1, t; }",
          b == ~0u || b == ~1u ? 0 : static_cast<uint32_t>(as_signed(a) % as_signed(b | 1)));
OPERATION(MinSigned, "min.s32 %0, %1, %2;", std::min(as_signed(a), as_signed(b)));
OPERATION(MaxUnsigned, "max.u32 %0, %1, %2;", std::max(a, b));
OPERATION(Absolute, "abs.s32 %0, %1;", as_signed(a) < 0 ? 0 - a : a);
OPERATION(AbsoluteDifference, "sad.u32 %0, %1, %2, %3;", (a < b ? b - a : a - b) + c);
OPERATION(Carry, "{ .reg .u32 t; add.cc.u32 t, %1, %2; addc.u32 %0, %3, 0; }", c + (a + b < a ? 1 : 0));
OPERATION(Borrow, "{ .reg .u32 t; sub.cc.u32 t, %1, %2; subc.u32 %0, %3, 0; }", c - (a < b ? 1 : 0));

uint32_t dot4(uint32_t a, uint32_t b, uint32_t c) {
  for (int k = 0; k < 4; ++k) {
    c += static_cast<uint32_t>(static_cast<int8_t>(a >> 8 * k) * static_cast<int>(b >> 8 * k & 255));
  }
  return c;
}
OPERATION(DotProduct, "dp4a.s32.u32 %0, %1, %2, %3;", dot4(a, b, c));

// ---- bits
OPERATION(And, "and.b32 %0, %1, %2;", a& b);
OPERATION(NotOr, "{ .reg .b32 t; or.b32 t, %1, %2; not.b32 %0, t; }", ~(a | b));
OPERATION(Lop3Ea, "lop3.b32 %0, %1, %2, %3, 0xea;", (a & b) | c);
OPERATION(Lop3F8, "lop3.b32 %0, %1, %2, %3, 0xf8;", a | (b & c));
OPERATION(Lop3C0, "lop3.b32 %0, %1, %2, %3, 0xc0;", a& b);
OPERATION(Lop380, "lop3.b32 %0, %1, %2, %3, 0x80;", a& b& c);
OPERATION(Lop36a, "lop3.b32 %0, %1, %2, %3, 0x6a;", (a & b) ^ c);
OPERATION(Lop396, "lop3.b32 %0, %1, %2, %3, 0x96;", a ^ b ^ c);
OPERATION(Lop3Fe, "lop3.b32 %0, %1, %2, %3, 0xfe;", a | b | c);
OPERATION(Lop3Other, "lop3.b32 %0, %1, %2, %3, 0x2d;", (~a & (~c | b)) | (a & ~b & c));
OPERATION(ShiftLeft, "shl.b32 %0, %1, %2;", b >= 32 ? 0 : a << b);
OPERATION(ShiftRight, "shr.u32 %0, %1, %2;", b >= 32 ? 0 : a >> b);
OPERATION(ShiftRightSigned, "shr.s32 %0, %1, %2;", as_signed(a) >> std::min(b, 31u));
OPERATION(FunnelWrap, "shf.l.wrap.b32 %0, %1, %2, %3;", wide(b, a) << (c & 31) >> 32);
OPERATION(FunnelClamp, "shf.r.clamp.b32 %0, %1, %2, %3;", wide(b, a) >> std::min(c, 32u));
OPERATION(PermuteBytes, "prmt.b32 %0, %1, %2, 0x7521;",
          (a >> 8 & 255) | (a >> 8 & 0xff00) | (b & 0xff00) << 8 | (b & 0xff000000));
OPERATION(PermuteSign, "prmt.b32 %0, %1, %2, 0x4448;",
          (as_signed(a << 24) < 0 ? 255u : 0u) | (b & 255) * 0x01010100u);
OPERATION(ExtractField, "bfe.u32 %0, %1, 5, 9;", a >> 5 & 511);
OPERATION(ExtractFieldSigned, "bfe.s32 %0, %1, 7, 11;", as_signed(a << 14) >> 21);
OPERATION(InsertField, "bfi.b32 %0, %1, %2, 9, 6;", (b & ~(63u << 9)) | (a & 63) << 9);
OPERATION(CountOnes, "popc.b32 %0, %1;", std::popcount(a));
OPERATION(CountLeadingZeros, "clz.b32 %0, %1;", std::countl_zero(a));
OPERATION(FindHighest, "bfind.u32 %0, %1;", a == 0 ? ~0u : 31u - static_cast<uint32_t>(std::countl_zero(a)));
OPERATION(ReverseTwice, "{ .reg .b32 t; brev.b32 t, %1; shr.u32 t, t, 31; and.b32 %0, t, 1; }", a & 1);

// ---- floats
OPERATION(AddFloat, "add.f32 %0, %1, %2;", bits_of(as_float(a) + as_float(b)));
OPERATION(MultiplyFloat, "mul.f32 %0, %1, %2;", bits_of(as_float(a) * as_float(b)));
OPERATION(FusedMultiplyAdd, "fma.rn.f32 %0, %1, %2, %3;",
          bits_of(std::fma(as_float(a), as_float(b), as_float(c))));
OPERATION(DivideFloat, "div.rn.f32 %0, %1, %2;", bits_of(as_float(a) / as_float(b)));
OPERATION(SquareRoot, "{ .reg .f32 t; abs.f32 t, %1; sqrt.rn.f32 %0, t; }",
          bits_of(std::sqrt(std::fabs(as_float(a)))));
OPERATION(MinFloat, "min.f32 %0, %1, %2;", bits_of(std::min(as_float(a), as_float(b))));
OPERATION(NegateFloat, "neg.f32 %0, %1;", a ^ 0x80000000);
OPERATION(Saturate, "add.sat.f32 %0, %1, %2;", bits_of(std::clamp(as_float(a) + as_float(b), 0.f, 1.f)));

uint32_t halves(float low, float high) { return uint32_t{Half(high).bits} << 16 | Half(low).bits; }
float low_half(uint32_t v) { return static_cast<float>(Half::from_bits(static_cast<uint16_t>(v))); }
float high_half(uint32_t v) { return low_half(v >> 16); }
OPERATION(PackHalves, "cvt.rn.f16x2.f32 %0, %2, %1;", halves(as_float(a), as_float(b)));
OPERATION(
    MultiplyHalves,
    "{ .reg .b32 p, q; cvt.rn.f16x2.f32 p, %2, %1; cvt.rn.f16x2.f32 q, %1, %3; mul.rn.f16x2 %0, p, q; }",
    halves(low_half(halves(as_float(a), 0)) * low_half(halves(as_float(c), 0)),
           low_half(halves(as_float(b), 0)) * low_half(halves(as_float(a), 0))));
OPERATION(HalfToSingle, "{ .reg .b16 h, k; mov.b32 {h, k}, %1; cvt.f32.f16 %0, k; }", bits_of(high_half(a)));
OPERATION(SingleToBfloat, "{ .reg .b16 h; cvt.rn.bf16.f32 h, %1; mov.b32 %0, {h, h}; }",
          BFloat16(as_float(a)).bits * 0x10001u);

// ---- convert
OPERATION(FloatToSigned, "cvt.rni.s32.f32 %0, %1;", static_cast<int32_t>(std::nearbyint(as_float(a))));
OPERATION(FloatToUnsigned, "cvt.rzi.u32.f32 %0, %1;",
          as_float(a) < 0 ? 0 : static_cast<uint32_t>(as_float(a)));
OPERATION(RoundDown, "cvt.rmi.f32.f32 %0, %1;", bits_of(std::floor(as_float(a))));
OPERATION(IntegerToFloat, "cvt.rn.f32.s32 %0, %1;", bits_of(static_cast<float>(as_signed(a))));
OPERATION(IntegerToFloatDown, "cvt.rz.f32.u32 %0, %1;",
          bits_of(a < 1u << 24
                      ? static_cast<float>(a)
                      : static_cast<float>(a >> (8 - std::countl_zero(a)) << (8 - std::countl_zero(a)))));
OPERATION(SignExtendByte, "cvt.s32.s8 %0, %1;", static_cast<int8_t>(a));
OPERATION(SaturateToByte, "cvt.sat.u8.s32 %0, %1;", std::clamp(as_signed(a), 0, 255));

// ---- compare
OPERATION(SelectLess, "{ .reg .pred p; setp.lt.s32 p, %1, %2; selp.b32 %0, %1, %3, p; }",
          as_signed(a) < as_signed(b) ? a : c);
OPERATION(SelectAnd,
          "{ .reg .pred p, q; setp.lo.u32 p, %1, %2; setp.ne.and.u32 q, %2, %3, p; selp.u32 %0, 7, 9, q; }",
          a < b && b != c ? 7 : 9);
OPERATION(SelectBoth,
          "{ .reg .pred p, q; setp.ge.u32 p|q, %1, %2; xor.pred p, p, q; selp.u32 %0, %3, 0, p; }", c);
OPERATION(SelectFloat, "{ .reg .pred p; setp.gtu.f32 p, %1, 0f7FC00000; selp.u32 %0, %1, %2, p; }", a);
OPERATION(SetMask, "set.le.u32.u32 %0, %1, %2;", a <= b ? ~0u : 0u);
OPERATION(
    Guarded,
    "{ .reg .pred p; setp.eq.u32 p, %1, %2; mov.u32 %0, %3; @p add.u32 %0, %0, 5; @!p add.u32 %0, %0, 3; }",
    c + (a == b ? 5 : 3));

}  // namespace

TEST_CASE("integer instructions equal C++", "[emulator][instructions]") {
  expect_equal_on_words<Add, AddSaturated, Subtract, MultiplyLow, MultiplyHigh, MultiplyHighSigned,
                        MultiplyAdd, MultiplyWide, Divide, RemainderSigned, MinSigned, MaxUnsigned, Absolute,
                        AbsoluteDifference, Carry, Borrow, DotProduct>();
}
TEST_CASE("instructions on bits equal C++", "[emulator][instructions]") {
  expect_equal_on_words<And, NotOr, Lop3Ea, Lop3F8, Lop3C0, Lop380, Lop36a, Lop396, Lop3Fe, Lop3Other,
                        ShiftLeft, ShiftRight, ShiftRightSigned, FunnelWrap, FunnelClamp, PermuteBytes,
                        PermuteSign, ExtractField, ExtractFieldSigned, InsertField, CountOnes,
                        CountLeadingZeros, FindHighest, ReverseTwice>();
}
TEST_CASE("float instructions equal C++ bit for bit", "[emulator][instructions]") {
  expect_equal_on_floats<AddFloat, MultiplyFloat, FusedMultiplyAdd, DivideFloat, SquareRoot, MinFloat,
                         NegateFloat, Saturate, PackHalves, MultiplyHalves, SingleToBfloat>();
}
TEST_CASE("conversions equal C++ bit for bit", "[emulator][instructions]") {
  expect_equal_on_floats<FloatToSigned, FloatToUnsigned, RoundDown, HalfToSingle>();
  expect_equal_on_words<IntegerToFloat, IntegerToFloatDown, SignExtendByte, SaturateToByte>();
}
TEST_CASE("comparisons, predicates and guards equal C++", "[emulator][instructions]") {
  expect_equal_on_words<SelectLess, SelectAnd, SelectBoth, SetMask, Guarded>();
  expect_equal_on_floats<SelectFloat>();
}

// ---- memory
namespace {

__constant__ int constant_table[8];
__device__ int device_counter = 3;

struct Record {
  int numbers[5];
  float scale;
  short offset;
};
__device__ __noinline__ float called(float x, int k, Record r) {
  float local[12];
  for (int i = 0; i < 12; ++i) local[i] = x * static_cast<float>(i) + static_cast<float>(r.numbers[i % 5]);
  return local[k * 7 % 12] + r.scale + static_cast<float>(r.offset);
}
__global__ void call_kernel(Record r, float* out) {
  const int t = static_cast<int>(threadIdx.x);
  float v = called(static_cast<float>(t), t, r);
  if (t % 3 == 0) v += called(1.f, 2, r);
  out[t] = v + static_cast<float>(constant_table[t & 7]);
  atomicAdd(&device_counter, 1);
}
__global__ void atomic_kernel(unsigned long long* sum, unsigned* words, float* total) {
  atomicAdd(sum, 2ull * threadIdx.x);
  atomicMax(words, threadIdx.x);
  atomicInc(words + 1, 10);
  atomicAdd(total, 0.5f);
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  __syncthreads();
  unsigned seen = words[2];  // a lock-free update
  for (unsigned before = ~seen; seen != before;) {
    before = seen;
    seen = atomicCAS(words + 2, before, before + 3);
  }
  if (threadIdx.x == 0) words[3] = static_cast<unsigned>(count);
}
__global__ void vector_kernel(const float4* in, float2* out, const unsigned char* bytes, int* extended) {
  const float4 v = in[threadIdx.x];
  out[threadIdx.x] = {v.x + v.w, v.y * v.z};
  extended[threadIdx.x] = static_cast<signed char>(bytes[threadIdx.x]);
}
__global__ void copy_kernel(const uint4* from, uint4* to, int valid) {
  __shared__ uint4 tile[64];
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(&tile[threadIdx.x]));
  const int bytes = static_cast<int>(threadIdx.x) < valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from + threadIdx.x),
               "r"(bytes));
  asm volatile("cp.async.commit_group;");
  asm volatile("cp.async.wait_group 0;");
  __syncthreads();
  to[threadIdx.x] = tile[63 - threadIdx.x];
}

}  // namespace

TEST_CASE("calls, local arrays, structs by value and constants work", "[emulator][instructions]") {
  const Record r{{1, 2, 3, 4, 5}, 0.5f, 7};
  const int table[8] = {0, 10, 20, 30, 40, 50, 60, 70};
  REQUIRE(cudaMemcpyToSymbol(constant_table, table, sizeof table) == cudaSuccess);
  const int three = 3;
  REQUIRE(cudaMemcpyToSymbol(device_counter, &three, sizeof three) == cudaSuccess);
  const DeviceArray<float> out(std::vector<float>(64));
  call_kernel<<<1, 64>>>(r, out.data());
  REQUIRE(cudaGetLastError() == cudaSuccess);
  const std::vector<float> result = out.host();
  const auto expected = [&](float x, int k) {
    const int i = k * 7 % 12;
    return x * static_cast<float>(i) + static_cast<float>(r.numbers[i % 5]) + r.scale + r.offset;
  };
  for (int t = 0; t < 64; ++t) {
    const float extra = t % 3 == 0 ? expected(1, 2) : 0;
    CHECK(result[static_cast<std::size_t>(t)] ==
          expected(static_cast<float>(t), t) + extra + static_cast<float>(table[t & 7]));
  }
  int counter = 0;
  REQUIRE(cudaMemcpyFromSymbol(&counter, device_counter, sizeof counter) == cudaSuccess);
  CHECK(counter == 67);
}

TEST_CASE("atomics of a block add up", "[emulator][instructions]") {
  const DeviceArray<unsigned long long> sum({0});
  const DeviceArray<unsigned> words({0, 0, 5, 0});
  const DeviceArray<float> total({0});
  atomic_kernel<<<1, 64>>>(sum.data(), words.data(), total.data());
  REQUIRE(cudaGetLastError() == cudaSuccess);
  CHECK(sum.host()[0] == 64 * 63);
  CHECK(words.host() == std::vector<unsigned>{63, 64 % 11, 5 + 3 * 64, 64});
  CHECK(total.host()[0] == 32);
}

TEST_CASE("vectors and bytes are loaded whole and with their sign", "[emulator][instructions]") {
  std::vector<float4> in(32);
  std::vector<unsigned char> bytes(32);
  for (int i = 0; i < 32; ++i) {
    const auto x = static_cast<float>(i);
    in[static_cast<std::size_t>(i)] = {x, x + 1, x + 2, x + 3};
    bytes[static_cast<std::size_t>(i)] = static_cast<unsigned char>(i * 9);
  }
  const DeviceArray<float4> a(in);
  const DeviceArray<unsigned char> b(bytes);
  const DeviceArray<float2> c(std::vector<float2>(32));
  const DeviceArray<int> d(std::vector<int>(32));
  vector_kernel<<<1, 32>>>(a.data(), c.data(), b.data(), d.data());
  REQUIRE(cudaGetLastError() == cudaSuccess);
  const auto pairs = c.host();
  const auto extended = d.host();
  for (std::size_t i = 0; i < 32; ++i) {
    const auto x = static_cast<float>(i);
    CHECK((pairs[i].x == 2 * x + 3 && pairs[i].y == (x + 1) * (x + 2)));
    CHECK(extended[i] == static_cast<signed char>(bytes[i]));
  }
}

TEST_CASE("cp.async copies what it is asked for and fills the rest with zeros", "[emulator][instructions]") {
  std::vector<uint4> in(64);
  for (uint32_t i = 0; i < 64; ++i) in[i] = {i, i + 100, i + 200, i + 300};
  const DeviceArray<uint4> from(in), to(std::vector<uint4>(64));
  copy_kernel<<<1, 64>>>(from.data(), to.data(), 50);
  REQUIRE(cudaGetLastError() == cudaSuccess);
  const auto result = to.host();
  for (uint32_t i = 0; i < 64; ++i) {
    const uint32_t source = 63 - i;
    CHECK((result[i].x == (source < 50 ? source : 0) && result[i].w == (source < 50 ? source + 300 : 0)));
  }
}

// ---- warps
namespace {

__global__ void warp_kernel(const int* in, int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32, x = in[threadIdx.x];
  int s = 0;
  if (lane < 20) {  // lanes that diverge, loops of different length
    const unsigned here = __ballot_sync(0xfffff, 1);
    for (int i = 0; i < lane; ++i) s += i * x;
    s += __popc(here);
  } else {
    for (int i = 0; i < (lane & 3); ++i) s -= i;
  }
  __syncwarp();
  s += __shfl_up_sync(~0u, x, 3) + 3 * __shfl_sync(~0u, x, lane ^ 5, 8) + 5 * __shfl_down_sync(~0u, x, 9) +
       7 * __shfl_xor_sync(~0u, x, 16);
  s ^= static_cast<int>(__ballot_sync(~0u, x & 1));
  s += __any_sync(~0u, x == 77) + 2 * __all_sync(~0u, x > -1000);
  s += __reduce_add_sync(~0u, x) + __reduce_max_sync(~0u, x);
  s += static_cast<int>(__match_any_sync(~0u, x & 3));
  switch (x & 7) {
    case 0:
      s += 1;
      break;
    case 1:
      s *= 3;
      break;
    case 2:
      s ^= 9;
      break;
    case 3:
      s -= 8;
      break;
    case 4:
      s += x;
      break;
    case 5:
      s = ~s;
      break;
    default:
      s += 100;
  }
  out[threadIdx.x] = s;
}
int expected_of_warp(const int* x, int lane) {
  int s = 0;
  if (lane < 20) {
    for (int i = 0; i < lane; ++i) s += i * x[lane];
    s += 20;
  } else {
    for (int i = 0; i < (lane & 3); ++i) s -= i;
  }
  s += (lane >= 3 ? x[lane - 3] : x[lane]) + 3 * x[(lane & 24) | ((lane ^ 5) & 7)] +
       5 * x[lane < 23 ? lane + 9 : lane] + 7 * x[lane ^ 16];
  unsigned odd = 0, same = 0;
  int sum = 0, most = x[0];
  bool any = false;
  for (int k = 0; k < 32; ++k) {
    odd |= static_cast<unsigned>(x[k] & 1) << k;
    same |= static_cast<unsigned>((x[k] & 3) == (x[lane] & 3)) << k;
    sum += x[k];
    most = std::max(most, x[k]);
    any = any || x[k] == 77;
  }
  s ^= static_cast<int>(odd);
  s += (any ? 1 : 0) + 2 + sum + most + static_cast<int>(same);
  switch (x[lane] & 7) {
    case 0:
      return s + 1;
    case 1:
      return s * 3;
    case 2:
      return s ^ 9;
    case 3:
      return s - 8;
    case 4:
      return s + x[lane];
    case 5:
      return ~s;
    default:
      return s + 100;
  }
}

// 16x16 times 16x8 by ldmatrix and mma; stored again by stmatrix's way back, plain stores.
template <class T>
__global__ void mma_kernel(const T* a, const T* b, float* c) {
  __shared__ alignas(16) T sa[256];
  __shared__ alignas(16) T sb[128];
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) sa[i] = a[i];
  for (unsigned i = lane; i < 128; i += 32) sb[i] = b[i];
  __syncwarp();
  const auto at_a = static_cast<unsigned>(__cvta_generic_to_shared(sa + lane % 16 * 16 + lane / 16 * 8));
  const auto at_b = static_cast<unsigned>(__cvta_generic_to_shared(sb + lane % 16 * 8));
  unsigned ra[4], rb[2];
  float rc[4] = {1, 2, 3, 4};
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3])
               : "r"(at_a));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(rb[0]), "=r"(rb[1])
               : "r"(at_b));
#define MMA(type)                                                     \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "            \
               "{%8, %9}, {%0, %1, %2, %3};"                          \
               : "+f"(rc[0]), "+f"(rc[1]), "+f"(rc[2]), "+f"(rc[3])   \
               : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]))
  if constexpr (std::is_same_v<T, Half>) {
    MMA("f16");
  } else {
    MMA("bf16");
  }
  for (unsigned i = 0; i < 4; ++i) c[(lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2] = rc[i];
}
__global__ void mma_bytes_kernel(const unsigned* a, const unsigned* b, int* c) {
  const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
  int rc[4] = {};
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, %3};"
      : "+r"(rc[0]), "+r"(rc[1]), "+r"(rc[2]), "+r"(rc[3])
      : "r"(a[g * 8 + t]), "r"(a[(g + 8) * 8 + t]), "r"(a[g * 8 + t + 4]), "r"(a[(g + 8) * 8 + t + 4]),
        "r"(b[g * 8 + t]), "r"(b[g * 8 + t + 4]));
  for (unsigned i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * 8 + t * 2 + i % 2] = rc[i];
}
template <class T>
void expect_product() {
  std::mt19937 random(7);
  std::vector<T> a, b;
  for (int i = 0; i < 256; ++i) a.push_back(T(static_cast<float>(static_cast<int>(random() % 255) - 127)));
  for (int i = 0; i < 128; ++i) b.push_back(T(static_cast<float>(static_cast<int>(random() % 255) - 127)));
  const DeviceArray<T> da(a), db(b);
  const DeviceArray<float> dc(std::vector<float>(128));
  mma_kernel<T><<<1, 32>>>(da.data(), db.data(), dc.data());
  REQUIRE(cudaGetLastError() == cudaSuccess);
  const auto c = dc.host();
  for (std::size_t r = 0; r < 16; ++r) {
    for (std::size_t n = 0; n < 8; ++n) {
      float sum = static_cast<float>(1 + n % 2 + 2 * (r / 8));  // integers below 2^24: any order is exact
      for (std::size_t k = 0; k < 16; ++k)
        sum += static_cast<float>(a[r * 16 + k]) * static_cast<float>(b[k * 8 + n]);
      CHECK(c[r * 8 + n] == sum);
    }
  }
}

}  // namespace

TEST_CASE("lanes diverge, meet again and exchange values", "[emulator][instructions]") {
  std::mt19937 random(3);
  std::vector<int> in(64);
  for (int& x : in) x = static_cast<int>(random() % 100);
  for (uint32_t seed : {0u, 1u, 2u}) {
    emulator::options().seed = seed;
    const DeviceArray<int> a(in), out(std::vector<int>(64));
    warp_kernel<<<1, 64>>>(a.data(), out.data());
    REQUIRE(cudaGetLastError() == cudaSuccess);
    const auto result = out.host();
    for (int t = 0; t < 64; ++t) {
      CHECK(result[static_cast<std::size_t>(t)] == expected_of_warp(in.data() + t / 32 * 32, t % 32));
    }
  }
  emulator::options().seed = 0;
}

TEST_CASE("mma multiplies fp16, bf16 and int8 tiles exactly, whatever models its rounding",
          "[emulator][instructions]") {
  using emulator::MmaRounding;
  for (MmaRounding rounding : {MmaRounding::Exact, MmaRounding::Ampere, MmaRounding::Hopper}) {
    emulator::options().mma = rounding;
    expect_product<Half>();
    expect_product<BFloat16>();
  }
  emulator::options().mma = MmaRounding::Exact;
  std::vector<unsigned> a = random_words(128, 8), b = random_words(64, 9);
  const DeviceArray<unsigned> da(a), db(b);
  const DeviceArray<int> dc(std::vector<int>(128));
  mma_bytes_kernel<<<1, 32>>>(da.data(), db.data(), dc.data());
  REQUIRE(cudaGetLastError() == cudaSuccess);
  const auto c = dc.host();
  const auto byte = [](const std::vector<unsigned>& v, std::size_t i) {
    return static_cast<int8_t>(v[i / 4] >> 8 * (i % 4));
  };
  for (std::size_t r = 0; r < 16; ++r) {
    for (std::size_t n = 0; n < 8; ++n) {
      int sum = 0;
      for (std::size_t k = 0; k < 32; ++k) sum += byte(a, r * 32 + k) * byte(b, n * 32 + k);
      CHECK(c[r * 8 + n] == sum);
    }
  }
}
