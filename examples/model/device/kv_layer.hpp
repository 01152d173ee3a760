// SPDX-License-Identifier: Apache-2.0
// What kernels of a decoder know of heads, of the keys and values of one layer, and of the rows that they work on.
#pragma once

#include <higgs/config.hpp>
#include <higgs/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace higgs::model {

/// The heads of one layer. Query heads h * shared() to (h + 1) * shared() - 1 read the keys of head h.
struct Heads {
  std::int32_t count = 0;     // query heads
  std::int32_t kv_count = 0;  // heads of keys and values, a divisor of count
  std::int32_t width = 0;     // numbers of a head: even, at most 256

  /// Query heads that share keys and values.
  HIGGS_HOST_DEVICE constexpr std::int32_t shared() const noexcept { return count / kv_count; }
  /// Numbers of a head in the cache: the width and zeros up to a multiple of 16.
  HIGGS_HOST_DEVICE constexpr std::int32_t stored_width() const noexcept { return (width + 15) / 16 * 16; }
};

/// Throws InvalidArgument for heads that the kernels cannot work on.
inline void check_heads(const Heads& heads) {
  expects(heads.kv_count > 0 && heads.count > 0 && heads.count % heads.kv_count == 0, [&] {
    return "higgs::model::check_heads: " + std::to_string(heads.kv_count) +
           " heads of keys and values must divide " + std::to_string(heads.count) + " heads of queries";
  });
  expects(heads.width > 0 && heads.width % 2 == 0 && heads.width <= 256, [&] {
    return "higgs::model::check_heads: heads have " + std::to_string(heads.width) +
           " numbers, but on a GPU that must be even and at most 256";
  });
}

/// Keys and values of one layer in device memory, not owned: (sequences, kv_count, capacity, stored_width) each, at
/// multiples of 16 bytes.
template <class T>
struct KvLayer {
  T* keys = nullptr;
  T* values = nullptr;
  std::int32_t capacity = 0;  // positions of a sequence

  /// Elements of the keys, and of the values, of `sequences` sequences.
  static constexpr std::size_t size(const Heads& heads, std::int64_t sequences,
                                    std::int64_t positions) noexcept {
    return static_cast<std::size_t>(sequences * heads.kv_count * positions * heads.stored_width());
  }
};

/// Throws InvalidArgument unless kernels can reach the cache by pieces of 16 bytes.
template <class T>
void check_cache(const KvLayer<T>& cache) {
  expects(cache.capacity > 0, "higgs::model::check_cache: the cache has no room for a token");
  const auto reachable = [](const T* first) {
    return first && reinterpret_cast<std::uintptr_t>(first) % 16 == 0;
  };
  expects(reachable(cache.keys) && reachable(cache.values),
          "higgs::model::check_cache: keys and values must be at multiples of 16 bytes");
}

/// Which token each row of the activations is, in device memory.
struct TokenRows {
  const std::int32_t* positions =
      nullptr;  // (rows): position in the text from 0 on; below 0: the row is idle
  const std::int32_t* sequences =
      nullptr;  // (rows): sequence in the cache; null: row r is a token of sequence r

  HIGGS_HOST_DEVICE std::int32_t sequence(std::int32_t row) const noexcept {
    return sequences ? sequences[row] : row;
  }
};

}  // namespace higgs::model
