// SPDX-License-Identifier: Apache-2.0
// The choice of next tokens on the device. One kernel chooses, records the token and moves the sequence on, so that the
// host reads tokens when it likes. choose_token() (network/sampling.hpp) is the definition: equal logits give equal
// choices.
#pragma once

#include "network/sampling.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/random.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace higgs::model {

/// The state of the texts that grow, in device memory: element s belongs to sequence s.
struct TextStates {
  std::int32_t* tokens = nullptr;        // the token to read next
  std::int32_t* positions = nullptr;     // its position in the text; below 0: the text has ended
  std::int32_t* counts = nullptr;        // tokens chosen since the prompt
  const std::int32_t* limits = nullptr;  // the text ends when `counts` is this
  const std::uint64_t* seeds = nullptr;  // random numbers of a choice are random_bits(seed, count)
  std::int32_t* output = nullptr;        // (sequences, ring): token i chosen is at i % ring
  std::int32_t ring = 0;
  std::int32_t* damage =
      nullptr;  // 0, or 1 + the id of a token whose logit was NaN or +infinity: the text has ended
  const std::int32_t* ends = nullptr;  // (end_count): tokens that end a text
  std::int32_t end_count = 0;

  /// The states from sequence s on.
  TextStates from(std::int64_t s) const noexcept {
    TextStates out = *this;
    out.tokens += s;
    out.positions += s;
    out.counts += s;
    out.limits += s;
    out.seeds += s;
    out.output += s * ring;
    out.damage += s;
    return out;
  }
};

/// Chooses the next token of each text that has not ended, from row s of `logits` (sequences, vocabulary): writes it to
/// `output` and `tokens`, advances `counts` and `positions`, and sets the position of a text that ends to -1.
inline void choose_tokens_async(gpu::DenseView<const float> logits, const TokenChoice& choice,
                                const TextStates& states, cudaStream_t stream);

namespace detail {

constexpr int choice_threads = 512, choice_warps = choice_threads / 32;
constexpr int odds_bins = 1024;    // bins of log2_odds, sixteenths each
constexpr int digit_bins = 256;    // bins of 8 bits of an order
constexpr int list_length = 2048;  // orders of one bin of odds

/// How many tokens are in each bin, and their weight in parts of 13, 13 and 12 bits: additions of 32 bits are one
/// instruction in shared memory. Likelier tokens are in lower bins.
template <int Bins>
class Histogram {
 public:
  __device__ void clear() {
    for (int i = static_cast<int>(threadIdx.x); i < slots * 4; i += choice_threads)
      sums_[i / slots][i % slots] = 0;
  }
  __device__ void add(int bin, std::uint64_t weight) {
    const int at = slot(bin);
    atomicAdd(&sums_[0][at], 1u);
    const auto low = static_cast<std::uint32_t>(weight & 0x1fffu),
               middle = static_cast<std::uint32_t>(weight >> 13 & 0x1fffu),
               high = static_cast<std::uint32_t>(weight >> 26);
    if (low != 0) atomicAdd(&sums_[1][at], low);
    if (middle != 0) atomicAdd(&sums_[2][at], middle);
    if (high != 0) atomicAdd(&sums_[3][at], high);
  }
  __device__ std::uint32_t count(int bin) const { return sums_[0][slot(bin)]; }
  __device__ std::uint64_t weight(int bin) const {
    const int at = slot(bin);
    return sums_[1][at] + (static_cast<std::uint64_t>(sums_[2][at]) << 13) +
           (static_cast<std::uint64_t>(sums_[3][at]) << 26);
  }

 private:
  // A lane of one warp reads Bins / 32 neighbours: the neighbours of other lanes are in other banks.
  static constexpr int slots = Bins + 32;
  __device__ static int slot(int bin) { return bin + bin / (Bins / 32); }
  std::uint32_t sums_[4][slots];
};

/// A token in the order of falling logits: the tokens of its logit, and what is likelier than all of them.
struct Place {
  std::uint32_t order;          // order_of() their logit
  std::uint32_t likelier;       // number of tokens
  std::uint64_t weight_before;  // their weight
};

/// What a block shares while it chooses a token.
struct ChoiceMemory {
  Histogram<odds_bins> odds;
  Histogram<digit_bins> digits;
  std::uint64_t parts[choice_warps];  // one for each warp
  std::uint64_t weight_before;
  std::uint32_t likelier;
  int bin;
  int listed;                       // tokens of a bin
  std::uint64_t list[list_length];  // order in the upper half, ~id in the lower, of each of them
};

__device__ inline std::uint64_t scan_warp(std::uint64_t value) {  // sums of lanes up to this one
  for (int by = 1; by < 32; by *= 2) {
    const std::uint64_t other = __shfl_up_sync(0xffffffffu, value, by);
    if (static_cast<int>(threadIdx.x) % 32 >= by) value += other;
  }
  return value;
}

/// The largest value of all threads of the block.
__device__ inline std::uint64_t largest_block(std::uint64_t value, std::uint64_t (&parts)[choice_warps]) {
  for (int by = 16; by > 0; by /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, by));
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  value = parts[threadIdx.x % choice_warps];
  for (int by = 16; by > 0; by /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, by));
  return value;
}

/// Finds the first bin that with all lower ones has `target` tokens or weight, for the whole block: memory.bin, and
/// what lower bins hold.
template <int Bins>
__device__ inline void find_bin(const Histogram<Bins>& histogram, bool by_weight, std::uint64_t target,
                                ChoiceMemory& memory) {
  constexpr int each = Bins / 32;
  __syncthreads();
  if (threadIdx.x < 32) {
    const int first = static_cast<int>(threadIdx.x) * each;
    std::uint64_t weight = 0, count = 0;
    for (int i = 0; i < each; ++i) {
      weight += histogram.weight(first + i);
      count += histogram.count(first + i);
    }
    const std::uint64_t weights = scan_warp(weight), counts = scan_warp(count);
    const unsigned reached = __ballot_sync(0xffffffffu, (by_weight ? weights : counts) >= target);
    if (static_cast<int>(threadIdx.x) == __ffs(static_cast<int>(reached)) - 1) {
      std::uint64_t weight_before = weights - weight, before = counts - count;
      int bin = first;
      while (bin < first + each - 1) {
        const std::uint64_t w = histogram.weight(bin), c = histogram.count(bin);
        if ((by_weight ? weight_before + w : before + c) >= target) break;
        weight_before += w;
        before += c;
        ++bin;
      }
      memory.bin = bin;
      memory.weight_before = weight_before;
      memory.likelier = static_cast<std::uint32_t>(before);
    }
  }
  __syncthreads();
}

/// Chooses from one row of logits, by one block.
class RowChoice {
 public:
  __device__ RowChoice(const float* logits, int count, const TokenChoice& choice, ChoiceMemory& memory)
      : logits_(logits), count_(count), choice_(choice), memory_(memory) {}

  /// As choose_token().
  __device__ int choose(std::uint64_t random) {
    std::uint64_t best = 0, damaged = 0;  // the largest order with the lowest id; the lowest damaged id
    each_logit([&](int id, float logit) {
      best = max(best, ranked(id, logit));
      if (!(logit < INFINITY)) damaged = max(damaged, ranked(id, 0.0f));
    });
    best = largest_block(best, memory_.parts);
    damaged = largest_block(damaged, memory_.parts);
    if (damaged != 0) return -1 - id_of(damaged);
    if (choice_.slope == 0) return id_of(best);
    most_ = logit_of(static_cast<std::uint32_t>(best >> 32));

    // What is kept is cut to the likeliest tokens twice, then a weight is drawn from it.
    enum Phase { TopK, TopP, Draw };
    std::uint64_t kept = count_odds();
#pragma unroll 1
    for (int phase = TopK;; ++phase) {
      if (phase == TopK && (choice_.top_k <= 0 || choice_.top_k >= count_)) continue;
      if (phase == TopP && choice_.top_p >= 1) continue;
      const std::uint64_t target = phase == TopK   ? static_cast<std::uint64_t>(choice_.top_k)
                                   : phase == TopP ? nucleus_of(choice_.top_p, kept)
                                                   : multiply_high(random, kept) + 1;
      const Place place = place_of(phase != TopK, target);
      const std::uint64_t each = weight_of(odds(logit_of(place.order)));
      const std::uint64_t tie =
          phase == TopK ? target - place.likelier - 1 : (target - place.weight_before - 1) / each;
      if (phase == Draw) return token_of(place.order, tie);
      kept = place.weight_before + (tie + 1) * each;
    }
  }

 private:
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }
  // Calls visit(id, logit) for this thread's share of all tokens: four at a time where rows begin at 16 bytes.
  template <class Visit>
  __device__ void each_logit(Visit visit) const {
    const int fours = reinterpret_cast<std::uintptr_t>(logits_) % 16 == 0 ? count_ / 4 : 0;
    for (int i = thread(); i < fours; i += choice_threads) {
      const float4 four = reinterpret_cast<const float4*>(logits_)[i];
      visit(4 * i, four.x);
      visit(4 * i + 1, four.y);
      visit(4 * i + 2, four.z);
      visit(4 * i + 3, four.w);
    }
    for (int i = 4 * fours + thread(); i < count_; i += choice_threads) visit(i, logits_[i]);
  }
  __device__ std::uint64_t part_of_lane() const {
    return thread() % 32 < choice_warps ? memory_.parts[thread() % 32] : 0;
  }
  // A number that is larger for a likelier token, and for the lower id of two equal ones.
  __device__ static std::uint64_t ranked(int id, float logit) {
    return static_cast<std::uint64_t>(order_of(logit)) << 32 | static_cast<std::uint32_t>(~id);
  }
  __device__ static int id_of(std::uint64_t ranked) {
    return static_cast<int>(~static_cast<std::uint32_t>(ranked));
  }
  __device__ float odds(float logit) const { return log2_odds(logit, most_, choice_.slope); }
  __device__ std::uint64_t weight(float logit) const { return weight_of(odds(logit)); }
  __device__ int odds_bin(float logit) const {
    const float steps = -16 * odds(logit);  // falls with the logit; NaN and infinity are in the last bin
    return steps < odds_bins - 1 ? static_cast<int>(steps) : odds_bins - 1;
  }

  // Counts all tokens by their odds; returns their weight.
  __device__ std::uint64_t count_odds() {
    memory_.odds.clear();
    __syncthreads();
    each_logit([&](int, float logit) { memory_.odds.add(odds_bin(logit), weight(logit)); });
    __syncthreads();
    std::uint64_t total = 0;
    for (int bin = thread(); bin < odds_bins; bin += choice_threads) total += memory_.odds.weight(bin);
    total = scan_warp(total);
    if (thread() % 32 == 31) memory_.parts[thread() / 32] = total;
    __syncthreads();
    total = scan_warp(part_of_lane());
    return __shfl_sync(0xffffffffu, total, 31);
  }

  // The first token that with all likelier ones makes `target` tokens or weight. Its bin, then its order, 8 bits at a
  // time, counted among the tokens of the bin that agree so far: a list, or all logits again where it is too short.
  __device__ Place place_of(bool by_weight, std::uint64_t target) {
    find_bin(memory_.odds, by_weight, target, memory_);
    const int bin = memory_.bin;
    Place place{0, memory_.likelier, memory_.weight_before};
    list_bin(bin);
    const auto each_order = [&](auto visit) {
      if (memory_.listed <= list_length) {
        for (int i = thread(); i < memory_.listed; i += choice_threads)
          visit(static_cast<std::uint32_t>(memory_.list[i] >> 32));
      } else {
        each_logit([&](int, float logit) {
          if (odds_bin(logit) == bin) visit(order_of(logit));
        });
      }
    };
#pragma unroll 1
    for (int shift = 24; shift >= 0; shift -= 8) {
      memory_.digits.clear();
      __syncthreads();
      each_order([&](std::uint32_t order) {
        if ((static_cast<std::uint64_t>(order) >> (shift + 8)) == place.order)
          memory_.digits.add(digit_bins - 1 - static_cast<int>(order >> shift & 0xffu),
                             weight(logit_of(order)));
      });
      find_bin(memory_.digits, by_weight, target - (by_weight ? place.weight_before : place.likelier),
               memory_);
      place.order = place.order << 8 | static_cast<std::uint32_t>(digit_bins - 1 - memory_.bin);
      place.likelier += memory_.likelier;
      place.weight_before += memory_.weight_before;
    }
    return place;
  }

  // Lists the tokens of one bin, as far as there is room, and counts them.
  __device__ void list_bin(int bin) {
    if (thread() == 0) memory_.listed = 0;
    __syncthreads();
    each_logit([&](int id, float logit) {
      if (odds_bin(logit) != bin) return;
      const int at = atomicAdd(&memory_.listed, 1);
      if (at < list_length) memory_.list[at] = ranked(id, logit);
    });
    __syncthreads();
  }

  // Id of token `tie`, counted from 0 by rising ids, among those of one order: the first of them from the list, others by
  // a search where each thread has neighbouring ids.
  __device__ int token_of(std::uint32_t order, std::uint64_t tie) {
    if (tie == 0 && memory_.listed <= list_length) {
      std::uint64_t lowest = 0;
      for (int i = thread(); i < memory_.listed; i += choice_threads)
        if (memory_.list[i] >> 32 == order) lowest = max(lowest, memory_.list[i]);
      return id_of(largest_block(lowest, memory_.parts));
    }
    const int each = (count_ + choice_threads - 1) / choice_threads;
    const int begin = min(count_, thread() * each), end = min(count_, begin + each);
    std::uint64_t mine = 0;
    for (int i = begin; i < end; ++i) mine += order_of(logits_[i]) == order ? 1 : 0;
    std::uint64_t before = scan_warp(mine) - mine;
    __syncthreads();
    if (thread() % 32 == 31) memory_.parts[thread() / 32] = before + mine;
    __syncthreads();
    const std::uint64_t warps = scan_warp(part_of_lane());
    const std::uint64_t lower = __shfl_sync(0xffffffffu, warps, max(0, thread() / 32 - 1));
    before += thread() < 32 ? 0 : lower;
    if (tie >= before && tie < before + mine) {
      int id = begin;
      for (std::uint64_t left = tie - before;; ++id)
        if (order_of(logits_[id]) == order && left-- == 0) break;
      memory_.bin = id;
    }
    __syncthreads();
    return memory_.bin;
  }

  const float* logits_;
  int count_;
  const TokenChoice& choice_;
  ChoiceMemory& memory_;
  float most_ = 0;
};

/// The token joins its text, by one thread.
__device__ inline void take_token(const TextStates& states, int s, int token) {
  if (token < 0) {
    states.damage[s] = -token;
    states.positions[s] = -1;
    return;
  }
  const std::int32_t count = states.counts[s];
  states.output[static_cast<std::int64_t>(s) * states.ring + count % states.ring] = token;
  states.tokens[s] = token;
  states.counts[s] = count + 1;
  bool ended = count + 1 >= states.limits[s];
  for (int i = 0; i < states.end_count; ++i) ended |= states.ends[i] == token;
  states.positions[s] = ended ? -1 : states.positions[s] + 1;
}

// One block a sequence. A template, so that several objects may have it.
template <class Logit>
__global__ void __launch_bounds__(choice_threads)
    choose_kernel(gpu::DenseView<const Logit> logits, TokenChoice choice, TextStates states) {
  __shared__ ChoiceMemory memory;
  const int s = static_cast<int>(blockIdx.x);
  if (states.positions[s] < 0) return;
  RowChoice row(logits.row(s), static_cast<int>(logits.cols), choice, memory);
  const int token = row.choose(random_bits(states.seeds[s], static_cast<std::uint64_t>(states.counts[s])));
  __syncthreads();
  if (threadIdx.x == 0) take_token(states, s, token);
}

}  // namespace detail

inline void choose_tokens_async(gpu::DenseView<const float> logits, const TokenChoice& choice,
                                const TextStates& states, cudaStream_t stream) {
  expects(logits.cols > 0 && logits.cols <= most_tokens, [&] {
    return "higgs::model::choose_tokens_async: logits have " + std::to_string(logits.cols) +
           " columns, but must have 1 to " + std::to_string(most_tokens);
  });
  expects(states.ring > 0, "higgs::model::choose_tokens_async: the ring of output must not be empty");
  gpu::launch(detail::choose_kernel<float>, dim3(static_cast<unsigned>(logits.rows)), detail::choice_threads,
              0, stream, logits, choice, states);
}

}  // namespace higgs::model
