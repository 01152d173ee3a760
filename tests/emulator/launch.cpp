// SPDX-License-Identifier: Apache-2.0
#include "launch.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>

namespace emulator {
namespace {

// ---- the lanes of a warp

// Joins fragments that met, then picks the one to run: the deepest call, then the lowest pc.
bool pick(Warp& w) {
  std::vector<Fragment>& f = w.fragments;
  for (std::size_t a = 0; f.size() > 1 && a < f.size(); ++a) {
    for (std::size_t b = a + 1; b < f.size();) {
      const bool met = f[a].pc == f[b].pc && f[a].barrier < 0 && f[b].barrier < 0 && f[a].calls == f[b].calls;
      if (!met) {
        ++b;
        continue;
      }
      f[a].mask |= f[b].mask;
      f[a].blocked = false;
      f.erase(f.begin() + static_cast<std::ptrdiff_t>(b));
    }
  }
  std::size_t best = f.size();
  for (std::size_t k = 0; k < f.size(); ++k) {
    if (f[k].blocked || f[k].barrier >= 0) continue;
    const bool better = best == f.size() || f[k].calls.size() > f[best].calls.size() ||
                        (f[k].calls.size() == f[best].calls.size() && f[k].pc < f[best].pc);
    if (better) best = k;
  }
  if (best == f.size()) return false;
  w.current = best;
  w.pc = f[best].pc;
  w.mask = f[best].mask;
  return true;
}

// Where the running fragment may meet another one.
u32 meeting_point(const Warp& w) {
  u32 nearest = ~0u;
  const std::size_t depth = w.fragments[w.current].calls.size();
  for (std::size_t k = 0; k < w.fragments.size(); ++k) {
    const Fragment& f = w.fragments[k];
    if (k != w.current && f.barrier < 0 && f.calls.size() == depth && f.pc > w.pc)
      nearest = std::min(nearest, f.pc);
  }
  return nearest;
}

// Now and then lets some lanes run ahead of the rest, as a GPU may: code that relies on lock-step without __syncwarp
// goes wrong. Returns for how many instructions.
u32 split_lanes(Warp& w) {
  if (w.random == 0) return 0;
  const auto next = [&] {
    w.random ^= w.random << 13;
    w.random ^= w.random >> 17;
    return w.random ^= w.random << 5;
  };
  if (w.fragments.size() > 3 || next() % 4 != 0) return 0;
  const u32 ahead = w.mask & next() & (next() | next());
  if (ahead == 0 || ahead == w.mask) return 0;
  Fragment rest = w.fragment();
  rest.mask = w.mask & ~ahead;
  w.fragment().mask = w.mask = ahead;
  w.fragments.push_back(std::move(rest));
  return 1 + next() % 40;
}

// Runs until the warp waits, ends, or has spent `budget` instructions.
void run(Warp& w, u64 budget) {
  const Instruction* code = w.program->code.data();
  Tally* tallies = w.block->grid->tallies.data();
  while (budget > 0 && pick(w)) {
    u32 lead = split_lanes(w);
    const u32 meeting = meeting_point(w);
    const bool alone = w.fragments.size() == 1;
    w.stop = false;
    while (budget > 0) {
      const Instruction& i = code[w.pc];
      const u32 here = w.pc++;
      --budget;
      ++w.steps;
      w.active = w.mask;
      if (i.guarded) {
        const u32 p = *reinterpret_cast<const u32*>(w.registers + i.guard);
        w.active &= i.guard_negated ? ~p : p;
      }
      ++tallies[here].executed;
      if (!w.products.queue.empty()) check_products(w, i);
      i.execute(w, i);
      if (w.stop) break;
      if (lead > 0) {
        if (--lead == 0) break;
      } else if (!alone && (w.pc >= meeting || w.pc <= here)) {
        break;
      }
    }
    const bool here_still = w.current < w.fragments.size();
    if (here_still && (!w.stop || w.fragment().blocked)) w.fragment().pc = w.pc;
    if (here_still && w.stop && w.fragment().blocked) --tallies[w.pc].executed;  // it will be executed again
  }
}

// ---- the warps of a block

std::string place(const Block& b) {
  return "block (" + std::to_string(b.id.x) + "," + std::to_string(b.id.y) + "," + std::to_string(b.id.z) +
         ")";
}

[[noreturn]] void fail_deadlocked(const Block& b) {
  std::string text = "deadlock in " + place(b);
  char mask[16];
  for (const Warp& w : b.warps) {
    for (const Fragment& f : w.fragments) {
      if (text.size() > 1500) break;
      const Source& s = b.grid->program->sources[f.barrier >= 0 ? f.pc - 1 : f.pc];
      std::snprintf(mask, sizeof mask, "%08x", f.mask);
      text += "\n  warp " + std::to_string(w.index) + " lanes " + mask + " wait at PTX line " +
              std::to_string(s.line) + " (source line " + std::to_string(s.source_line) + "): " + s.text;
    }
  }
  fail(text);
}

// Gives every warp a turn. False when all have ended.
bool step(Block& b) {
  const Options& o = *b.grid->options;
  std::vector<u32> order(b.warps.size());
  std::iota(order.begin(), order.end(), 0u);
  if (o.seed != 0) std::shuffle(order.begin(), order.end(), b.random);
  bool progress = false, living = false;
  for (u32 index : order) {
    Warp& w = b.warps[index];
    if (w.alive == 0) continue;
    living = true;
    const u64 before = w.steps;
    run(w, o.seed != 0 ? 1 + b.random() % 200 : 100000);
    progress = progress || w.steps != before;
    b.steps += w.steps - before;
  }
  if (!living && !b.bulk_copies.empty()) fail(place(b) + " ended before its bulk copies");
  if (!progress || (o.seed != 0 && b.random() % 2 == 0)) progress = land_bulk_copy(b) || progress;
  if (living && !progress) fail_deadlocked(b);
  if (o.max_steps != 0 && b.steps > o.max_steps) {
    fail(place(b) + " ran more than " + std::to_string(o.max_steps) + " warp instructions");
  }
  return living;
}

void set_special(Warp& w, Special s, int lane, u32 value) {
  std::memcpy(w.registers + offset_of(s) + 4 * lane, &value, 4);
}

void start_warp(Warp& w, Block& b, u32 index, u64 block_number) {
  const Grid& g = *b.grid;
  const Extent size = g.block;
  w.block = &b;
  w.program = g.program;
  w.index = index;
  w.constants = g.program->constants.data();
  const auto aligned = [](std::vector<u8>& v) {
    return reinterpret_cast<u8*>((reinterpret_cast<u64>(v.data()) + 63) & ~u64{63});
  };
  w.registers = aligned(w.register_store);
  w.local = aligned(w.local_store);
  const u64 threads = size.count() - u64{index} * warp_size;
  w.alive = threads >= warp_size ? ~0u : (1u << threads) - 1;
  w.fragments.assign(1, Fragment{});
  w.fragments[0].mask = w.alive;
  w.copies = {};
  w.products = {};
  w.proxy_fences = 0;
  w.steps = 0;
  w.random = 0;
  if (g.options->seed != 0) {
    w.random =
        (g.options->seed * 2654435761u + static_cast<u32>(block_number) * 40503u + index * 2246822519u) | 1;
  }
  if (g.options->check_races)
    w.clock.start(static_cast<u32>(block_number), index, static_cast<u32>(b.warps.size()));
  for (int l = 0; l < warp_size; ++l) {
    const u32 thread = index * warp_size + static_cast<u32>(l), bit = 1u << l;
    const std::pair<Special, u32> values[] = {
        {Special::TidX, thread % size.x},
        {Special::TidY, thread / size.x % size.y},
        {Special::TidZ, thread / size.x / size.y},
        {Special::NtidX, size.x},
        {Special::NtidY, size.y},
        {Special::NtidZ, size.z},
        {Special::CtaidX, b.id.x},
        {Special::CtaidY, b.id.y},
        {Special::CtaidZ, b.id.z},
        {Special::NctaidX, g.grid.x},
        {Special::NctaidY, g.grid.y},
        {Special::NctaidZ, g.grid.z},
        {Special::Laneid, static_cast<u32>(l)},
        {Special::Warpid, index},
        {Special::Nwarpid, 64},
        {Special::Smid, static_cast<u32>(block_number) % static_cast<u32>(g.options->sm_count)},
        {Special::Nsmid, static_cast<u32>(g.options->sm_count)},
        {Special::LanemaskEq, bit},
        {Special::LanemaskLt, bit - 1},
        {Special::LanemaskLe, bit | (bit - 1)},
        {Special::LanemaskGt, ~(bit | (bit - 1))},
        {Special::LanemaskGe, ~(bit - 1)},
        {Special::DynamicSmemSize, g.dynamic_shared_bytes},
        {Special::TotalSmemSize, g.program->static_shared_bytes + g.dynamic_shared_bytes}};
    for (const auto& [special, value] : values) set_special(w, special, l, value);
  }
}

void start_block(Block& b, u64 number) {
  const Grid& g = *b.grid;
  const u64 x = g.grid.x, y = g.grid.y;
  b.id = {static_cast<u32>(number % x), static_cast<u32>(number / x % y), static_cast<u32>(number / x / y)};
  b.steps = 0;
  b.random.seed(g.options->seed + static_cast<u32>(number));
  b.barriers = {};
  b.shared_barriers.clear();
  b.bulk_copies.clear();
  b.products_of_warpgroups.clear();
  b.last_range = nullptr;
  b.shared.assign(g.program->reserved_shared_bytes + g.program->static_shared_bytes + g.dynamic_shared_bytes,
                  0xff);  // not zero, as on a GPU
  b.ordinary_writes.assign(g.program->uses_async_proxy ? b.shared.size() / 16 + 1 : 0, {});
  if (g.options->check_races) b.shared_shadow.assign(b.shared.size(), {});
  for (u32 k = 0; k < b.warps.size(); ++k) start_warp(b.warps[k], b, k, number);
}

std::unique_ptr<Block> make_block(Grid& g) {
  auto b = std::make_unique<Block>();
  b->grid = &g;
  b->warps.resize((g.block.count() + warp_size - 1) / warp_size);
  for (Warp& w : b->warps) {
    w.register_store.resize(g.program->register_bytes + 64);
    w.local_store.resize(std::size_t{g.program->local_bytes} * warp_size + 64);
  }
  return b;
}

}  // namespace

void run_grid(Grid& g, Program& program, const std::vector<const void*>& arguments) {
  for (std::size_t k = 0; k < arguments.size(); ++k) {
    const Parameter& p = program.parameters[k];
    std::memcpy(program.parameter_values.data() + p.offset, arguments[k], p.bytes);
  }
  g.tallies.assign(program.code.size(), {});
  std::vector<u64> waiting(g.grid.count());  // the blocks, the next one last
  std::iota(waiting.rbegin(), waiting.rend(), u64{0});
  std::mt19937 random(g.options->seed);
  if (g.options->seed != 0) std::shuffle(waiting.begin(), waiting.end(), random);
  const std::size_t resident =
      std::min<std::size_t>(std::max(1u, g.options->resident_blocks), waiting.size());
  std::vector<std::unique_ptr<Block>> running;
  const auto start_next = [&](Block& b) {
    if (waiting.empty()) return false;
    start_block(b, waiting.back());
    waiting.pop_back();
    return true;
  };
  while (running.size() < resident) {
    running.push_back(make_block(g));
    start_next(*running.back());
  }
  while (!running.empty()) {
    for (std::size_t k = 0; k < running.size();) {
      if (!step(*running[k]) && !start_next(*running[k])) {
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(k));
      } else {
        ++k;
      }
    }
  }
}

}  // namespace emulator
