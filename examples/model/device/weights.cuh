// SPDX-License-Identifier: Apache-2.0
// All weights of a model on the device: architecture/weights.hpp with matrices there.
#pragma once

#include "architecture/config.hpp"
#include "architecture/parts.hpp"
#include "device/device.hpp"
#include "device/matrix.cuh"
#include "device/memory.hpp"
#include "network/network.hpp"
#include "source/source.hpp"

#include <higgs/core/executor.hpp>
#include <higgs/gpu/matrix.cuh>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace higgs::model {

/// One decoder block. What the model lacks is null.
template <class T>
struct DeviceBlock {
  SharedFloats attention_norm, ffn_norm;  // (width)
  SharedFloats q_norm, k_norm;            // (head_width)
  DeviceLinear<T> q, k, v;                // (query_width or kv_width, width)
  DeviceLinear<T> o;                      // (width, query_width)
  DeviceLinear<T> gate, up;               // (ffn_width, width)
  DeviceLinear<T> down;                   // (width, ffn_width)
};

/// All weights of a model. A value: a copy shares every matrix.
template <class T>
struct DeviceWeights {
  std::shared_ptr<const gpu::DeviceBuffer<T>> embedding;  // (vocabulary, width)
  std::vector<DeviceBlock<T>> blocks;
  SharedFloats norm;       // (width)
  DeviceLinear<T> output;  // (vocabulary, width)
};

/// Device memory for a model and a Decoder of that size. Reads no weights.
DeviceNeeds device_needs(const ModelSource& source, const DeviceOptions& options, const DecoderSize& size);

/// Copies the weights of a model to the device, one tensor at a time.
template <class T>
DeviceWeights<T> load_device_weights(const ModelSource& source, const DeviceOptions& options,
                                     Executor& executor);

/// Network::replace() for weights on the device.
template <class T>
void replace_matrix(DeviceWeights<T>& weights, const ModelConfig& config, std::string_view matrix,
                    const Replacement& replacement);

}  // namespace higgs::model
