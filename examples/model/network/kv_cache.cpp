// SPDX-License-Identifier: Apache-2.0
#include "network/kv_cache.hpp"

#include <higgs/core/error.hpp>

namespace higgs::model {

KvCache::KvCache(const ModelConfig& config, std::int64_t capacity, KvType type) : capacity_(capacity) {
  expects(capacity > 0, "higgs::model::KvCache: capacity must be positive");
  const auto layers = static_cast<std::size_t>(config.layers);
  const auto size = static_cast<std::size_t>(capacity * config.kv_width());
  if (type == KvType::Half)
    layers_.assign(layers, Layer<Half>{std::vector<Half>(size), std::vector<Half>(size)});
  else
    layers_.assign(layers, Layer<float>{std::vector<float>(size), std::vector<float>(size)});
}

void KvCache::truncate(std::int64_t size) {
  expects(size >= 0 && size <= size_, "higgs::model::KvCache::truncate: size must not exceed size()");
  size_ = size;
}

}  // namespace higgs::model
