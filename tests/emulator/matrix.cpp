// SPDX-License-Identifier: Apache-2.0
// ldmatrix, stmatrix, movmatrix and mma.sync.
#include <climits>

#include "instructions.hpp"
#include "matrix.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

// mode: how many 8x8 matrices; matrix k takes the addresses of its rows from lanes 8k .. 8k+7. flag: transposed;
// flag2: store
void move_matrix(Warp& w, const Instruction& i) {
  if (!gather(w, ~0u)) return;
  const Operand& where = i[i.flag2 ? 0 : 1];
  const Operand* data = &i[i.flag2 ? 1 : 0];
  u64 a[warp_size];
  for (int k = 0; k < i.mode; ++k) {
    u16* row[8];
    for (int r = 0; r < 8; ++r) {
      const int lane = 8 * k + r;
      a[lane] = address(w, where, lane);
      resolve(Space::Generic, a[lane]);
      row[r] = reinterpret_cast<u16*>(locate(w, i, Space::Shared, a[lane], 16, lane));
    }
    account(w, i, Space::Shared, a, 0xffu << (8 * k), 16, i.flag2 ? Access::Write : Access::Read);
    u32* d = lanes<u32>(w, data[k]);
    for (int l = 0; l < warp_size; ++l) {
      const int r = l / 4, c = l % 4 * 2;
      u16& low = i.flag ? row[c][r] : row[r][c];
      u16& high = i.flag ? row[c + 1][r] : row[r][c + 1];
      if (i.flag2) {
        low = static_cast<u16>(d[l]);
        high = static_cast<u16>(d[l] >> 16);
      } else {
        d[l] = u32{high} << 16 | low;
      }
    }
  }
}
void transpose(Warp& w, const Instruction& i) {  // movmatrix
  if (!gather(w, ~0u)) return;
  const u32* a = lanes<u32>(w, i.x[1]);
  u32* d = lanes<u32>(w, i.x[0]);
  u16 m[8][8];
  for (int l = 0; l < warp_size; ++l) {
    m[l / 4][l % 4 * 2] = static_cast<u16>(a[l]);
    m[l / 4][l % 4 * 2 + 1] = static_cast<u16>(a[l] >> 16);
  }
  for (int l = 0; l < warp_size; ++l) d[l] = u32{m[l % 4 * 2 + 1][l / 4]} << 16 | m[l % 4 * 2][l / 4];
}

// Calls f(a function that reads one element of a register) for the type.
template <class F>
void with_reader(Type t, F f) {
  switch (t) {
    case Type::F16:
      return f([](u32 bits) -> double { return half_to_float(static_cast<u16>(bits)); });
    case Type::Bf16:
      return f([](u32 bits) -> double { return bfloat16_to_float(static_cast<u16>(bits)); });
    case Type::S8:
      return f([](u32 bits) -> double { return static_cast<s8>(bits); });
    default:
      return f([](u32 bits) -> double { return static_cast<u8>(bits); });
  }
}

// One step of a tensor core's sum, as published: each term is cut to `fraction_bits` bits relative to the largest
// exponent, the terms are added exactly, the sum is cut to float. `exponents` are sums of the factors' exponents.
float truncating_sum(const double* products, const int* exponents, int count, float start,
                     int fraction_bits) {
  double exact = start;
  int largest = start == 0 ? -126 : std::max(std::ilogb(start), -126);
  for (int k = 0; k < count; ++k) {
    exact += products[k];
    largest = std::max(largest, exponents[k]);
  }
  if (!std::isfinite(exact)) return static_cast<float>(exact);
  const auto cut = [&](double v) { return std::trunc(std::ldexp(v, fraction_bits - largest)); };
  double sum = cut(start);
  for (int k = 0; k < count; ++k) sum += cut(products[k]);
  const WithRounding mode(Rounding::Zero);
  const volatile double scaled = std::ldexp(sum, largest - fraction_bits);
  return static_cast<float>(scaled);
}

void multiply_exactly(Tile& t, int k_count) {
  for (int r = 0; r < 16; ++r) {
    for (int k = 0; k < k_count; ++k) {
      for (int c = 0; c < 8; ++c) t.c[r][c] += t.a[r][k] * t.b[k][c];
    }
  }
}
void multiply_as_hardware(Tile& t, int k_count, MmaRounding rounding, bool half_result) {
  const int step = rounding == MmaRounding::Ampere ? 8 : 16;
  const int fraction_bits = rounding == MmaRounding::Ampere ? 24 : 25;
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 8; ++c) {
      auto sum = static_cast<float>(t.c[r][c]);
      for (int first = 0; first < k_count; first += step) {
        double products[16];
        int exponents[16];
        const int count = std::min(step, k_count - first);
        for (int k = 0; k < count; ++k) {
          const double a = t.a[r][first + k], b = t.b[first + k][c];
          products[k] = a * b;
          exponents[k] = products[k] == 0 ? -126 : std::ilogb(a) + std::ilogb(b);
        }
        sum = truncating_sum(products, exponents, count, sum, fraction_bits);
        if (half_result) sum = half_to_float(to_half(sum));
      }
      t.c[r][c] = sum;
    }
  }
}

// m16n8k{8,16,32}: d, a, b, c. mode: k; mode2: bits of an element; first_type, type: of a, b; flag: d is f16; flag2: c is
// f16. Lane l holds row l/4 (and l/4 + 8) and the columns that begin at l%4, as PTX lays them out.
void multiply(Warp& w, const Instruction& i) {
  if (!gather(w, ~0u)) return;
  static Tile t;
  const int bits = i.mode2, per_register = 32 / bits;
  const bool integer = bits == 8;
  with_reader(i.first_type, [&](auto read) {
    for (int k = 0; k < i.size[1]; ++k) {
      const u32* a = lanes<u32>(w, (&i[1])[k]);
      for (int l = 0; l < warp_size; ++l) {
        double* to = &t.a[l / 4 + 8 * (k & 1)][((k >> 1) * 4 + l % 4) * per_register];
        for (int j = 0; j < per_register; ++j) to[j] = read(a[l] >> (bits * j));
      }
    }
  });
  with_reader(i.type, [&](auto read) {
    for (int k = 0; k < i.size[2]; ++k) {
      const u32* b = lanes<u32>(w, (&i[2])[k]);
      for (int l = 0; l < warp_size; ++l) {
        for (int j = 0; j < per_register; ++j)
          t.b[(k * 4 + l % 4) * per_register + j][l / 4] = read(b[l] >> (bits * j));
      }
    }
  });
  const auto c_at = [](int l, int k) -> double& { return t.c[l / 4 + 8 * (k >> 1)][l % 4 * 2 + (k & 1)]; };
  for (int k = 0; k < 4; ++k) {
    const u32* c = lanes<u32>(w, (&i[3])[i.flag2 ? k >> 1 : k]);
    for (int l = 0; l < warp_size; ++l) {
      const double as_float =
          i.flag2 ? half_to_float(static_cast<u16>(c[l] >> (16 * (k & 1)))) : std::bit_cast<float>(c[l]);
      c_at(l, k) = integer ? static_cast<s32>(c[l]) : as_float;
    }
  }
  multiply_tile(t, i.mode, integer ? MmaRounding::Exact : w.block->grid->options->mma, i.flag);
  for (int k = 0; k < 4; ++k) {
    u32* d = lanes<u32>(w, i.x[static_cast<std::size_t>(i.flag ? k >> 1 : k)]);
    for (int l = 0; l < warp_size; ++l) {
      const double v = c_at(l, k);
      if (integer) {
        const auto whole = static_cast<s64>(v);
        d[l] = static_cast<u32>(i.saturate ? std::clamp<s64>(whole, INT_MIN, INT_MAX) : whole);
      } else if (i.flag) {
        const u32 shift = 16 * (k & 1);
        d[l] = (d[l] & ~(0xffffu << shift)) | u32{to_half(v)} << shift;
      } else {
        d[l] = std::bit_cast<u32>(static_cast<float>(v));
      }
    }
  }
}

Execute find_multiply(const Mnemonic& m, Instruction& i) {
  std::vector<Type> types;  // those of d, a, b, c
  for (std::string_view part : m.parts) {
    if (type_named(part) != Type::None) types.push_back(type_named(part));
    if (part.starts_with("m16n8k")) i.mode = static_cast<u8>(std::stoi(std::string(part.substr(6))));
  }
  if (i.mode == 0 || i.mode > 32 || types.size() != 4 || m.has("sp") || i.operands != 4) return nullptr;
  i.first_type = types[1];
  i.type = types[2];
  i.flag = types[0] == Type::F16;
  i.flag2 = types[3] == Type::F16;
  const bool bytes = size_of(i.type) == 1;
  if (!bytes && i.type != Type::F16 && i.type != Type::Bf16) return nullptr;
  i.mode2 = bytes ? 8 : 16;
  const int elements = 32 * (32 / i.mode2);  // elements in one register
  return i.size[1] * elements == 16 * i.mode && i.size[2] * elements == 8 * i.mode ? multiply : nullptr;
}

}  // namespace

void multiply_tile(Tile& t, int k_count, MmaRounding rounding, bool half_result) {
  if (rounding == MmaRounding::Exact) {
    multiply_exactly(t, k_count);
  } else {
    multiply_as_hardware(t, k_count, rounding, half_result);
  }
}

Execute find_matrix(const Mnemonic& m, Instruction& i) {
  if ((m.op == "ldmatrix" || m.op == "stmatrix") && m.has("m8n8")) {
    i.mode = m.has("x4") ? 4 : m.has("x2") ? 2 : 1;
    i.flag = m.has("trans");
    i.flag2 = m.op == "stmatrix";
    return move_matrix;
  }
  if (m.op == "movmatrix") return transpose;
  return m.op == "mma" ? find_multiply(m, i) : nullptr;
}

}  // namespace emulator
