// SPDX-License-Identifier: Apache-2.0
#include "network/kv_cache.hpp"

#include <higgs/core/error.hpp>

namespace higgs::model {
namespace {

template <class T>
KvCache::Layer<T> layer_of(std::int64_t numbers) {
  const auto size = static_cast<std::size_t>(numbers);
  return {std::make_unique_for_overwrite<T[]>(size), std::make_unique_for_overwrite<T[]>(size)};
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, std::int64_t capacity, KvType type) : capacity_(capacity) {
  expects(capacity > 0, "higgs::model::KvCache: capacity must be positive");
  for (std::int64_t block = 0; block < config.layers; ++block)
    if (type == KvType::Half)
      layers_.emplace_back(layer_of<Half>(capacity * config.kv_width()));
    else
      layers_.emplace_back(layer_of<float>(capacity * config.kv_width()));
}

void KvCache::truncate(std::int64_t size) {
  expects(size >= 0 && size <= size_, "higgs::model::KvCache::truncate: size must not exceed size()");
  size_ = size;
}

}  // namespace higgs::model
