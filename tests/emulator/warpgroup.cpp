// SPDX-License-Identifier: Apache-2.0
// wgmma with a in registers and b in shared memory. A product is computed at the wait and not before. Who changes its
// operands or touches its sums until then fails, as does a product without the fence that it needs.
#include <cstring>

#include "instructions.hpp"
#include "matrix.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

// d {columns / 2}, a {4}, b, accumulate, 1, 1, 0. mode: columns / 8; type: of a and b.
constexpr u32 register_bytes = 4 * warp_size;
const Operand* sums_of(const Instruction& i) { return &i[0]; }
const Operand* a_of(const Instruction& i) { return &i[1]; }
int columns_of(const Instruction& i) { return 8 * i.mode; }

// The 16 numbers of each column, rows of a matrix in the 128-byte swizzle.
std::vector<u16> read_matrix(Warp& w, const Instruction& i, u64 matrix, bool begins) {
  const auto field = [&](int bit) { return (matrix >> bit & 0x3fff) << 4; };
  const u64 start = field(0), eight_rows = field(32);
  if (matrix >> 62 != 1) fail_at(w, i, -1, "a matrix of wgmma not in the 128-byte swizzle (not supported)");
  if ((matrix >> 49 & 7) != 0 || (start & 0x380) != 0)
    fail_at(w, i, -1, "a matrix of wgmma that does not begin at a multiple of 1024 bytes");
  std::vector<u16> numbers(static_cast<std::size_t>(columns_of(i)) * 16);
  for (int n = 0; n < columns_of(i); ++n) {
    for (u32 byte = 0; byte < 32; byte += 16) {
      u64 at = start + static_cast<u64>(n / 8) * eight_rows + static_cast<u64>(n % 8) * 128 + byte;
      at ^= (at >> 7 & 7) << 4;
      const u8* from = locate(w, i, Space::Shared, at, 16, -1);
      std::memcpy(numbers.data() + n * 16 + byte / 2, from, 16);
      if (begins) check_proxy(w, i, at, 16);
      note_shared(*w.block, w.clock, i, at, 16, false);
    }
  }
  return numbers;
}
std::vector<u32> read_a(Warp& w, const Instruction& i) {
  std::vector<u32> a(4 * warp_size);
  for (std::size_t k = 0; k < 4; ++k)
    std::memcpy(a.data() + k * warp_size, lanes<u32>(w, a_of(i)[k]), register_bytes);
  return a;
}

bool has_sum(const Instruction& i, u32 offset) {
  for (int k = 0; k < i.size[0]; ++k) {
    if (sums_of(i)[k].offset == offset) return true;
  }
  return false;
}
bool has_a(const Instruction& i, u32 offset) {
  for (int k = 0; k < 4; ++k) {
    if (a_of(i)[k].offset == offset) return true;
  }
  return false;
}

// Registers that others wrote need a fence before a product reads them. Sums may pass from one product to the next.
void check_fence(Warp& w, const Instruction& i) {
  const AsyncProducts& p = w.products;
  if (p.fenced.empty()) fail_at(w, i, -1, "wgmma without wgmma.fence before it");
  const auto check = [&](const Operand& o, const char* what) {
    if (std::memcmp(w.registers + o.offset, p.fenced.data() + o.offset, register_bytes) != 0)
      fail_at(w, i, -1, std::string(what) + " of wgmma was written without wgmma.fence behind it");
  };
  for (int k = 0; k < 4; ++k) check(a_of(i)[k], "a register of a");
  for (int k = 0; k < i.size[0]; ++k) {
    const Operand& sum = sums_of(i)[k];
    bool under_way = false;
    for (const AsyncProducts::Product& other : p.queue) {
      if (!has_sum(*other.instruction, sum.offset)) continue;
      if (other.instruction->mode != i.mode)
        fail_at(w, i, -1, "sums under way in a product of another shape");
      under_way = true;
    }
    if (!under_way) check(sum, "a sum");
  }
}
// All warps of a warpgroup execute the same products.
void check_warpgroup(Warp& w, const Instruction& i) {
  if (w.block->warps.size() < (w.index / 4 + 1) * 4)
    fail_at(w, i, -1, "wgmma in a warpgroup of fewer than 4 warps");
  std::vector<u32>& pcs = w.block->products_of_warpgroups[w.index / 4];
  const std::size_t number = w.products.issued++;
  if (number == pcs.size()) pcs.push_back(i.pc);
  if (pcs[number] != i.pc) fail_at(w, i, -1, "the warps of a warpgroup execute different products");
}

void issue(Warp& w, const Instruction& i) {
  if (!gather(w, ~0u)) return;
  if (w.active != ~0u) fail_at(w, i, -1, "wgmma under a divergent guard");
  check_warpgroup(w, i);
  check_fence(w, i);
  const u64 matrix = get(w, i[2], 0);
  w.products.queue.push_back({.instruction = &i,
                              .matrix = matrix,
                              .accumulates = (predicate_value(w, i[3]) & 1) != 0,
                              .a = read_a(w, i),
                              .b = read_matrix(w, i, matrix, true),
                              .group = w.products.group});
  if (w.block->grid->options->count && w.index % 4 == 0) {  // four warps read b together
    Tally& t = w.block->grid->tallies[i.pc];
    ++t.shared_requests;
    t.passes += static_cast<u64>(columns_of(i)) * 32 / 128;
    t.passes_ideal += static_cast<u64>(columns_of(i)) * 32 / 128;
  }
}

void compute(Warp& w, const AsyncProducts::Product& p) {
  const Instruction& i = *p.instruction;
  static Tile t;
  const auto read = [&](u32 bits) -> double {
    return i.type == Type::F16 ? half_to_float(static_cast<u16>(bits))
                               : bfloat16_to_float(static_cast<u16>(bits));
  };
  for (int k = 0; k < 4; ++k) {
    for (int l = 0; l < warp_size; ++l) {
      const u32 pair = p.a[static_cast<std::size_t>(k * warp_size + l)];
      double* to = &t.a[l / 4 + 8 * (k & 1)][((k >> 1) * 4 + l % 4) * 2];
      to[0] = read(pair);
      to[1] = read(pair >> 16);
    }
  }
  for (int first = 0; first < columns_of(i); first += 8) {
    for (int n = 0; n < 8; ++n) {
      for (int k = 0; k < 16; ++k) t.b[k][n] = read(p.b[static_cast<std::size_t>((first + n) * 16 + k)]);
    }
    for (int k = 0; k < 4; ++k) {
      const float* sums = lanes<float>(w, sums_of(i)[first / 2 + k]);
      for (int l = 0; l < warp_size; ++l)
        t.c[l / 4 + 8 * (k >> 1)][l % 4 * 2 + (k & 1)] = p.accumulates ? sums[l] : 0;
    }
    multiply_tile(t, 16, w.block->grid->options->mma, false);
    for (int k = 0; k < 4; ++k) {
      const Operand& o = sums_of(i)[first / 2 + k];
      float* sums = lanes<float>(w, o);
      for (int l = 0; l < warp_size; ++l)
        sums[l] = static_cast<float>(t.c[l / 4 + 8 * (k >> 1)][l % 4 * 2 + (k & 1)]);
      std::memcpy(w.products.fenced.data() + o.offset, sums, register_bytes);
    }
  }
}

void fence(Warp& w, const Instruction&) {
  if (!gather(w, ~0u)) return;
  w.products.fenced.assign(w.registers, w.registers + w.program->register_bytes);
}
void commit(Warp& w, const Instruction&) {
  if (gather(w, ~0u)) ++w.products.group;
}
void wait(Warp& w, const Instruction& i) {
  if (!gather(w, ~0u)) return;
  AsyncProducts& p = w.products;
  const auto open = static_cast<u32>(i[0].value);
  const u32 limit = p.group > open ? p.group - open : 0;
  std::size_t done = 0;
  for (; done < p.queue.size() && p.queue[done].group < limit; ++done) {
    const AsyncProducts::Product& one = p.queue[done];
    if (read_matrix(w, *one.instruction, one.matrix, false) != one.b)
      fail_at(w, *one.instruction, -1, "the matrix of wgmma was written before wgmma.wait_group");
    compute(w, one);
  }
  p.queue.erase(p.queue.begin(), p.queue.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace

void check_products(Warp& w, const Instruction& i) {
  if (i.execute == issue) return;
  for (int k = 0; k < i.operands; ++k) {
    for (int j = 0; j < i.size[static_cast<std::size_t>(k)]; ++j) {
      const Operand& o = (&i[k])[j];
      const bool is_register =
          o.kind == Operand::Kind::Reg || (o.kind == Operand::Kind::Address && o.has_base);
      if (!is_register) continue;
      for (const AsyncProducts::Product& p : w.products.queue) {
        if (has_sum(*p.instruction, o.offset)) fail_at(w, i, -1, "a sum of wgmma before wgmma.wait_group");
        if (k == 0 && o.kind == Operand::Kind::Reg && has_a(*p.instruction, o.offset))
          fail_at(w, i, -1, "a register of a of wgmma is written before wgmma.wait_group");
      }
    }
  }
}

Execute find_warpgroup(const Mnemonic& m, Instruction& i) {
  if (m.op != "wgmma") return nullptr;
  if (m.has("fence")) return fence;
  if (m.has("commit_group")) return commit;
  if (m.has("wait_group")) return wait;
  int columns = 0;
  for (std::string_view part : m.parts) {
    if (part.starts_with("m64n") && part.ends_with("k16"))
      columns = std::stoi(std::string(part.substr(4, part.size() - 7)));
  }
  const bool known = m.has("mma_async") && m.has("f32") && (i.type == Type::F16 || i.type == Type::Bf16) &&
                     columns >= 8 && columns <= 256 && columns % 8 == 0 && i.operands == 7 &&
                     i.size[0] == columns / 2 && i.size[1] == 4 && i[4].value == 1 && i[5].value == 1 &&
                     i[6].value == 0;
  i.mode = static_cast<u8>(columns / 8);
  return known ? issue : execute_unsupported;
}

}  // namespace emulator
