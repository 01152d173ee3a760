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
  DeviceGroup<T> qkv;  // queries, keys, values: joined (query_width + 2 kv_width, width), one after the other
  DeviceLinear<T> o;   // (width, query_width)
  DeviceGroup<T> gate_up;  // gate, up: joined (2 ffn_width, width), rows of both in turn
  DeviceLinear<T> down;    // (width, ffn_width)
};

/// All weights of a model. A value: a copy shares every matrix.
template <class T>
struct DeviceWeights {
  std::shared_ptr<const gpu::DeviceBuffer<T>> embedding;  // (vocabulary, width)
  std::vector<DeviceBlock<T>> blocks;
  SharedFloats norm;       // (width)
  DeviceLinear<T> output;  // (vocabulary, width)
  bool overlap = false;    // whether launches overlap (Queue)
};

/// Device memory for a model and a Decoder of that size. Reads no weights.
DeviceNeeds device_needs(const ModelSource& source, const DeviceOptions& options, const DecoderSize& size);

/// Copies the weights of a model to the device, at most the layers of a group at a time. A group becomes one matrix where
/// its layers are all dense, or all quantized with one code and one rotation, input scales included. Throws
/// InvalidArgument for options.overlap where launches cannot.
template <class T>
DeviceWeights<T> load_device_weights(const ModelSource& source, const DeviceOptions& options,
                                     Executor& executor);

/// Network::replace() for weights on the device that came from `source`. The layers of a group are matrices of their own
/// from then on. Dense ones stay where they are; quantized ones that were not replaced are read again. Other layers
/// keep their bits, but for rows of quantized groups (other Stream-K ranges) and gated products (gate and up are
/// rounded to T).
template <class T>
void replace_matrix(DeviceWeights<T>& weights, const ModelSource& source, Executor& executor,
                    std::string_view matrix, const Replacement& replacement);

}  // namespace higgs::model
