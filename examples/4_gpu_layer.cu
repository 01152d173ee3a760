// SPDX-License-Identifier: Apache-2.0
// One layer in an engine: its matrix goes from a checkpoint to the device, its product is captured into a
// CUDA graph once, and the graph is launched for every token.
#include <higgs/higgs.hpp>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <span>
#include <vector>

using higgs::Half;
namespace gpu = higgs::gpu;

constexpr int inputs = 1024, outputs = 192, batch = 2, tokens = 3;

// A layer of random weights in a file, as higgs-model quantize writes one.
void write_checkpoint(const std::filesystem::path& path) {
  std::vector<float> weights(outputs * inputs);
  for (std::size_t i = 0; i < weights.size(); ++i)
    weights[i] = static_cast<float>(higgs::random_normal(1, i));
  const auto w = higgs::quantize(higgs::MatrixView<const float>(weights.data(), outputs, inputs),
                                 higgs::GridCodebook<2, 256>{});
  higgs::CheckpointContents contents;
  contents.add_layer("layer", w);
  higgs::CheckpointWriter writer(path, contents);
  writer.write_layer("layer", w);
  writer.commit();
}

int main() {
  const auto path = std::filesystem::temp_directory_path() / "higgs_example_gpu_layer.safetensors";
  write_checkpoint(path);

  // Load: the layer's weights go to the device, packed in the order in which kernels read them.
  const higgs::AnyQuantizedMatrix quantized = higgs::Checkpoint::open(path).load("layer");
  const gpu::Linear<gpu::MatmulFormats<gpu::TableFormat<4>>> linear(quantized);  // kernels for 4 bits alone
  const gpu::DeviceBuffer<Half> x(batch * inputs), y(batch * outputs);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(linear.workspace_bytes(batch));

  // Capture: a call neither allocates nor waits.
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t token = nullptr;
  gpu::check(cudaStreamCreate(&stream), "cudaStreamCreate");
  linear.warm_up<Half, Half>(stream);  // or CUDA would load kernels during the capture
  gpu::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  linear(gpu::DenseView<const Half>(x.data(), batch, inputs), gpu::DenseView<Half>(y.data(), batch, outputs),
         workspace.span(), stream);
  gpu::check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  gpu::check(cudaGraphInstantiate(&token, graph, 0), "cudaGraphInstantiate");

  // Run, and compare with the CPU.
  double error = 0, norm = 0;
  for (std::uint64_t t = 0; t < tokens; ++t) {
    std::vector<Half> activations(batch * inputs);
    for (std::size_t i = 0; i < activations.size(); ++i)
      activations[i] = Half(static_cast<float>(higgs::random_normal(2 + t, i)));
    gpu::check(cudaMemcpyAsync(x.data(), activations.data(), x.size_bytes(), cudaMemcpyHostToDevice, stream),
               "x");
    gpu::check(cudaGraphLaunch(token, stream), "cudaGraphLaunch");
    gpu::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");

    std::vector<float> expected(batch * outputs);
    higgs::matmul(higgs::MatrixView<const Half>(activations.data(), batch, inputs), quantized,
                  higgs::MatrixView<float>(expected.data(), batch, outputs));
    const std::vector<Half> result = y.to_host();
    for (std::size_t i = 0; i < expected.size(); ++i) {
      error += std::pow(static_cast<float>(result[i]) - expected[i], 2);
      norm += std::pow(expected[i], 2);
    }
  }
  std::printf("%d tokens; relative difference from the CPU: %.2g\n", tokens, std::sqrt(error / norm));
  gpu::check(cudaGraphExecDestroy(token), "cudaGraphExecDestroy");
  gpu::check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  gpu::check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  std::filesystem::remove(path);
  return std::sqrt(error / norm) < 6e-4 ? 0 : 1;
}
