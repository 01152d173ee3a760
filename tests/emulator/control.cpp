// SPDX-License-Identifier: Apache-2.0
// Branches, calls, barriers, and the functions that every kernel may call: printf and assert.
#include <cstdio>
#include <cstring>

#include "instructions.hpp"
#include "warp.hpp"

namespace emulator {
namespace {

// The active lanes go on as `next`, the others of the running fragment where they are.
void split(Warp& w, Fragment next) {
  const u32 rest = w.mask & ~w.active;
  next.mask = w.active;
  w.stop = true;
  if (rest == 0) {
    w.pc = next.pc;
    w.fragment() = std::move(next);
    return;
  }
  w.fragment().mask = w.mask = rest;
  w.fragment().pc = w.pc;
  w.fragments.push_back(std::move(next));
}

void branch(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  if (w.active == w.mask) {
    w.pc = i[0].offset;
    return;
  }
  Fragment next = w.fragment();
  next.pc = i[0].offset;
  split(w, std::move(next));
}
void indexed_branch(Warp& w, const Instruction& i) {  // brx.idx; table: the targets
  const u32* index = lanes<u32>(w, i[0]);
  std::map<u32, u32> lanes_to;
  for_lanes(w.active, [&](int l) {
    if (index[l] >= i.table.size()) fail_at(w, i, l, "brx.idx beyond its targets");
    lanes_to[i.table[index[l]]] |= 1u << l;
  });
  for (const auto& [target, mask] : lanes_to) {
    Fragment next = w.fragment();
    next.pc = target;
    w.active = mask;
    const bool last = mask == w.mask;
    split(w, std::move(next));
    if (last) return;
  }
}

void exit(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  if (!w.products.queue.empty()) fail_at(w, i, -1, "the warp ends before its products");
  w.alive &= ~w.active;
  w.mask &= ~w.active;
  w.fragment().mask = w.mask;
  w.fragment().pc = w.pc;
  for (Fragment& f : w.fragments) f.blocked = false;  // they wait for living lanes only
  if (w.mask == 0) w.fragments.erase(w.fragments.begin() + static_cast<std::ptrdiff_t>(w.current));
  w.stop = true;
  if (w.alive == 0) release_barriers(*w.block);
}
void trap(Warp& w, const Instruction& i) {
  if (w.active != 0) fail_at(w, i, std::countr_zero(w.active), "trap");
}

void copy_locals(Warp& w, const Instruction& i) {
  for (std::size_t k = 0; k + 2 < i.table.size(); k += 3) {
    for_lanes(w.active, [&](int l) {
      u8* local = w.local + static_cast<std::size_t>(l) * w.program->local_bytes;
      std::memcpy(local + i.table[k], local + i.table[k + 1], i.table[k + 2]);
    });
  }
}

enum Kind : u8 { Sync, Arrive, Reduce };
enum Reduction : u8 { Count, And, Or };
void barrier(Warp& w, const Instruction& i) {  // mode: the kind; mode2: the reduction
  if (w.active == 0 || !gather(w, ~0u)) return;
  if (w.active != w.mask) fail_at(w, i, -1, "barrier under a divergent guard");
  const int first = i.mode == Reduce ? 1 : 0, numbers = i.operands - (i.mode == Reduce ? 2 : 0);
  const int lane = std::countr_zero(w.mask);
  const u64 id = get(w, i[first], lane);
  const u32 count = numbers > 1 ? static_cast<u32>(get(w, i[first + 1], lane)) : 0;
  if (id >= w.block->barriers.size()) fail_at(w, i, lane, "there are 16 barriers");
  Barrier& b = w.block->barriers[id];
  if (b.arrived != 0 && b.expected != count) fail_at(w, i, lane, "barrier used with different thread counts");
  b.expected = count;
  b.arrived += warp_size;
  if (i.mode == Reduce) {
    const u32 votes = predicate_value(w, i[i.operands - 1]) & w.mask;
    b.votes += static_cast<u32>(std::popcount(votes));
    b.all = b.all && votes == w.mask;
    b.any = b.any || votes != 0;
    w.fragment().reduction = &i;
  }
  if (w.block->grid->options->check_races) {
    b.clock.join(w.clock);
    ++w.clock.own[w.index];
  }
  if (i.mode != Arrive) {
    w.fragment().barrier = static_cast<int>(id);
    w.fragment().pc = w.pc;
    w.stop = true;
  }
  release_barriers(*w.block);
}
void complete(Block& block, std::size_t id) {
  Barrier& b = block.barriers[id];
  for (Warp& w : block.warps) {
    for (Fragment& f : w.fragments) {
      if (f.barrier != static_cast<int>(id)) continue;
      if (block.grid->options->check_races) w.clock.join(b.clock);
      if (f.reduction != nullptr) {
        const Instruction& i = *f.reduction;
        w.active = f.mask;
        if (i.mode2 == Count) {
          for_lanes(f.mask, [&](int l) { set(w, i.x[0], l, b.votes); });
        } else {
          set_predicate(w, i.x[0], (i.mode2 == And ? b.all : b.any) ? ~0u : 0u);
        }
      }
      f.barrier = -1;
      f.reduction = nullptr;
    }
  }
  b = Barrier{};
}

// ---- printf and assert
u8* locals(Warp& w, int lane) { return w.local + static_cast<std::size_t>(lane) * w.program->local_bytes; }
template <class T>
T read_local(Warp& w, int lane, u32 offset) {
  T v;
  std::memcpy(&v, locals(w, lane) + offset, sizeof v);
  return v;
}
const char* text_at(Warp& w, const Instruction& i, u64 a, int lane) {
  const Space s = resolve(Space::Generic, a);
  return reinterpret_cast<const char*>(locate(w, i, s, a, 1, lane));
}

// What printf makes of `format`; the arguments lie behind `at`, each aligned to its size.
std::string formatted(Warp& w, const Instruction& i, const char* format, const u8* arguments, int lane) {
  std::size_t at = 0;
  const auto next = [&](std::size_t bytes) {
    at = (at + bytes - 1) / bytes * bytes;
    u64 v = 0;
    std::memcpy(&v, arguments + at, bytes);
    at += bytes;
    return v;
  };
  std::string text;
  for (; *format != 0; ++format) {
    if (*format != '%' || *++format == '%') {
      text += *format;
      continue;
    }
    std::string spec = "%";
    bool is_long = false;
    for (; std::strchr("diouxXcfFeEgGaAsp", *format) == nullptr; ++format) {
      if (*format == 'l') {
        is_long = true;
      } else {
        spec += *format == '*' ? std::to_string(static_cast<s32>(next(4))) : std::string(1, *format);
      }
    }
    char buffer[512] = "";
    const auto print = [&](const std::string& with, auto value) {
      std::snprintf(buffer, sizeof buffer, with.c_str(), value);
    };
    if (std::strchr("fFeEgGaA", *format) != nullptr) {
      print(spec + *format, std::bit_cast<double>(next(8)));
    } else if (*format == 's') {
      print(spec + 's', text_at(w, i, next(8), lane));
    } else if (*format == 'p') {
      print(spec + 'p', reinterpret_cast<void*>(next(8)));
    } else if (is_long) {
      print(spec + "ll" + *format, static_cast<long long>(next(8)));
    } else {
      print(spec + *format, static_cast<int>(next(4)));
    }
    text += buffer;
  }
  return text;
}

}  // namespace

void release_barriers(Block& block) {
  u32 living = 0;
  for (const Warp& w : block.warps) living += w.alive != 0 ? warp_size : 0;
  for (std::size_t id = 0; id < block.barriers.size(); ++id) {
    const Barrier& b = block.barriers[id];
    if (b.arrived != 0 && b.arrived >= (b.expected != 0 ? b.expected : living)) complete(block, id);
  }
}

void execute_return(Warp& w, const Instruction& i) {
  if (w.fragment().calls.empty()) return exit(w, i);
  if (w.active == 0) return;
  Fragment next = w.fragment();
  next.pc = next.calls.back();
  next.calls.pop_back();
  split(w, std::move(next));
}
void execute_call(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  copy_locals(w, i);
  Fragment next = w.fragment();
  if (next.calls.size() == 64) fail_at(w, i, -1, "calls nested too deep (recursion is not supported)");
  next.calls.push_back(w.pc);
  next.pc = i[0].offset;
  split(w, std::move(next));
}
void execute_copy_result(Warp& w, const Instruction& i) { copy_locals(w, i); }
void execute_printf(Warp& w, const Instruction& i) {
  for_lanes(w.active, [&](int l) {
    const char* format = text_at(w, i, read_local<u64>(w, l, i.table[0]), l);
    const u64 arguments = read_local<u64>(w, l, i.table[1]);
    const char* at = arguments != 0 ? text_at(w, i, arguments, l) : nullptr;
    std::fputs(formatted(w, i, format, reinterpret_cast<const u8*>(at), l).c_str(), stdout);
  });
}
void execute_assertion(Warp& w, const Instruction& i) {
  if (w.active == 0) return;
  const int l = std::countr_zero(w.active);
  const std::string message = text_at(w, i, read_local<u64>(w, l, i.table[0]), l);
  const std::string file = text_at(w, i, read_local<u64>(w, l, i.table[1]), l);
  fail_at(w, i, l,
          "assertion " + message + " at " + file + ":" + std::to_string(read_local<u32>(w, l, i.table[2])));
}
void execute_unsupported(Warp& w, const Instruction& i) {
  if (w.active != 0) fail_at(w, i, -1, "instruction not supported");
}
void execute_nothing(Warp&, const Instruction&) {}
void wait_for_launches(Warp& w, const Instruction&) {
  if (w.active != 0) w.block->waited = true;
}

Execute find_control(const Mnemonic& m, Instruction& i) {
  if (m.op == "bra") return branch;
  if (m.op == "brx") return indexed_branch;
  if (m.op == "ret") return execute_return;
  if (m.op == "exit") return exit;
  if (m.op == "trap" || m.op == "brkpt") return trap;
  if ((m.op == "bar" || m.op == "barrier") && !m.has("cluster")) {
    i.mode = m.has("arrive") ? Arrive : m.has("red") ? Reduce : Sync;
    i.mode2 = m.has("popc") ? Count : m.has("and") ? And : Or;
    return barrier;
  }
  if (m.op == "griddepcontrol" && m.has("wait")) return wait_for_launches;
  for (std::string_view hint : {"prefetch", "prefetchu", "nanosleep", "griddepcontrol", "setmaxnreg",
                                "applypriority", "discard", "pmevent"}) {
    if (m.op == hint) return execute_nothing;
  }
  return nullptr;
}

}  // namespace emulator
