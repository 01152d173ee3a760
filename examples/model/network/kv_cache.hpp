// SPDX-License-Identifier: Apache-2.0
// Keys and values of the tokens that a model has read.
#pragma once

#include "architecture/config.hpp"

#include <higgs/core/half.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

namespace higgs::model {

/// How keys and values are kept.
enum class KvType { Float, Half };

/// Keys and values of one text for all blocks of a model.
class KvCache {
 public:
  /// What attention of one block has seen. What follows the last token is left open: memory that no token has reached
  /// is not touched.
  template <class T>
  struct Layer {
    std::unique_ptr<T[]> keys;    // (kv_heads, capacity, head_width)
    std::unique_ptr<T[]> values;  // transposed, as products read rows: (kv_width, capacity)
  };

  /// Room for `capacity` tokens. Throws InvalidArgument unless that is above 0.
  KvCache(const ModelConfig& config, std::int64_t capacity, KvType type = KvType::Float);

  std::int64_t capacity() const noexcept { return capacity_; }
  /// Tokens that have been read.
  std::int64_t size() const noexcept { return size_; }
  /// Forgets all tokens from `size` on. Throws InvalidArgument if there are fewer.
  void truncate(std::int64_t size);

  /// For the forward pass: the keys and values of block `block`, and the end of a step that filled in `count` tokens of
  /// every block.
  std::variant<Layer<float>, Layer<Half>>& layer(std::size_t block) { return layers_[block]; }
  void advance(std::int64_t count) noexcept { size_ += count; }

 private:
  std::int64_t capacity_;
  std::int64_t size_ = 0;
  std::vector<std::variant<Layer<float>, Layer<Half>>> layers_;
};

/// Some tokens of one text, which follow those in its cache.
struct TextPart {
  KvCache* cache;
  std::int64_t count;
};

}  // namespace higgs::model
