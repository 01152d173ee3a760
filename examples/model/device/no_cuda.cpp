// SPDX-License-Identifier: Apache-2.0
// What device.hpp promises, in a build without CUDA.
#include "device/device.hpp"

#include <higgs/core/error.hpp>

namespace higgs::model {

void require_device() {
  throw InvalidArgument(
      "this higgs-model was built without CUDA and runs models on the CPU alone; for --device cuda build it "
      "with nvcc and -DHIGGS_CUDA=ON");
}

std::unique_ptr<Network> open_device_network(const ModelSource&, const DeviceOptions&, Executor&) {
  require_device();
  return nullptr;
}

std::unique_ptr<DeviceGenerator> open_device_generator(const ModelSource&, const DeviceOptions&, Executor&) {
  require_device();
  return nullptr;
}

}  // namespace higgs::model
