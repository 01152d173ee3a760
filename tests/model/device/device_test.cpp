// SPDX-License-Identifier: Apache-2.0
#include "device/device.hpp"

#include "model/tiny_model.hpp"

#include <higgs/core/error.hpp>
#include <higgs/core/half.hpp>

#include <catch2/catch.hpp>

#include <string>
#include <vector>

using namespace higgs::model;

TEST_CASE("types have the names of the command line", "[model][device]") {
  CHECK(device_type_named("auto") == DeviceType::OfModel);
  CHECK(device_type_named("fp16") == DeviceType::Fp16);
  CHECK(device_type_named("bf16") == DeviceType::Bf16);
  for (const char* name : {"auto", "fp16", "bf16"}) CHECK(name_of(device_type_named(name)) == name);
  CHECK_THAT(message_of<higgs::InvalidArgument>([] { device_type_named("fp8"); }),
             Catch::Contains("\"fp8\"") && Catch::Contains("bf16"));
}

TEST_CASE("numbers that overflow are told with a remedy where there is one", "[model][device]") {
  CHECK_THAT(causes_of_infinity(device_type_of<higgs::Half>), Catch::Contains("--dtype bf16"));
  CHECK_THAT(causes_of_infinity(device_type_of<higgs::BFloat16>), !Catch::Contains("--dtype"));
}

TEST_CASE("a model of which a tensor is stored in bf16 runs in bf16, every other in fp16",
          "[model][device]") {
  const ModelConfig config = tiny_config("llama");
  const std::vector<TinyTensor> tensors = tiny_tensors(config);
  for (const std::string& odd : {std::string(), std::string("model.layers.1.mlp.up_proj.weight")}) {
    const TemporaryFolder folder;
    write_folder(folder.path(), config, tensors);
    std::vector<higgs::TensorShape> shapes;
    for (const TinyTensor& tensor : tensors)
      shapes.push_back(
          {tensor.name, tensor.name == odd ? higgs::DType::BF16 : higgs::DType::F32, tensor.shape});
    higgs::SafetensorsWriter writer(folder / "model.safetensors", shapes);
    for (const TinyTensor& tensor : tensors) {
      std::string bytes = tensor.bytes();
      if (tensor.name == odd) bytes = std::string(tensor.values.size() * 2, '\0');
      writer.write(tensor.name, 0, bytes_of(bytes));
    }
    writer.commit();
    CHECK(type_of(ModelSource(folder.path())) == (odd.empty() ? DeviceType::Fp16 : DeviceType::Bf16));
  }
}
