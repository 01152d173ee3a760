// SPDX-License-Identifier: Apache-2.0
#include "device/device.hpp"

#include <higgs/core/error.hpp>

#include <algorithm>

namespace higgs::model {

DeviceType device_type_named(std::string_view name) {
  if (name == "auto") return DeviceType::OfModel;
  if (name == "fp16") return DeviceType::Fp16;
  if (name == "bf16") return DeviceType::Bf16;
  throw InvalidArgument("no type of a GPU's activations is named \"" + std::string(name) +
                        "\"; there are auto, fp16, bf16");
}

std::string causes_of_infinity(DeviceType type) {
  if (type == DeviceType::Fp16)
    return "the model is damaged, or its activations exceed the range of fp16, and --dtype bf16 can hold "
           "them";
  return "the model is damaged, or its activations exceed even the range of bf16, which is that of floats";
}

DeviceType type_of(const ModelSource& source) {
  const auto& tensors = source.tensors();
  bool bf16 = std::any_of(tensors.begin(), tensors.end(),
                          [](const ModelTensor& tensor) { return tensor.stored->dtype == "BF16"; });
  if (source.checkpoint())
    for (const CheckpointLayer& layer : source.checkpoint()->layers()) bf16 = bf16 || layer.dtype == "BF16";
  return bf16 ? DeviceType::Bf16 : DeviceType::Fp16;
}

}  // namespace higgs::model
