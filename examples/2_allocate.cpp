// SPDX-License-Identifier: Apache-2.0
// Spends 3.25 bits a weight where they matter: sensitivities by noise, and the plan that is their optimum.
#include <higgs/higgs.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t rows = 64, cols = 256;
constexpr double importance[] = {40, 9,   3,
                                 1,  0.5, 0.1};  // importance of the layers; an engine would not know it

std::vector<float> weights_of(std::size_t layer) {
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i)
    w[i] = static_cast<float>(higgs::random_normal(static_cast<std::uint64_t>(layer), i));
  return w;
}

// Stands for running the model on a text: its loss grows with each layer's error.
double loss_with(std::size_t layer, const std::vector<float>& changed) {
  const std::vector<float> w = weights_of(layer);
  double error = 0;
  for (std::size_t i = 0; i < w.size(); ++i) error += std::pow(static_cast<double>(changed[i] - w[i]), 2);
  return 2.5 + importance[layer] * error / static_cast<double>(rows * cols);
}

}  // namespace

int main() {
  std::vector<higgs::Sensitivity> fits;
  for (std::size_t i = 0; i < std::size(importance); ++i) {
    const std::vector<float> w = weights_of(i);
    const double before = loss_with(i, w);
    std::vector<higgs::NoisePoint> points;
    for (const double t2 : higgs::noise_levels(3)) {
      std::vector<float> noisy(w.size());
      higgs::insert_noise({w.data(), rows, cols}, t2, i, {noisy.data(), rows, cols});
      points.push_back({t2, loss_with(i, noisy) - before});
    }
    fits.push_back(higgs::fit_sensitivity(points));
  }

  std::vector<higgs::PlanLayer> layers;
  for (std::size_t i = 0; i < fits.size(); ++i)
    layers.push_back({.name = "layer " + std::to_string(i),
                      .weights = rows * cols,
                      .alpha = fits[i].alpha,  // the loss for a unit of t^2, measured by inserting noise
                      .formats = higgs::shipped_formats(rows, cols)});
  const auto plan = higgs::allocate(layers, higgs::Budget::bits(3.25));  // the optimum, with a proof
  if (!plan || !plan->proven) return 1;
  for (const higgs::PlannedLayer& layer : plan->layers)
    std::printf("%s: %s, predicted loss %.4f\n", layer.name.c_str(), layer.format.c_str(), layer.loss);
  const auto uniform = higgs::allocate_uniform(layers, higgs::Budget::bits(3.25));
  std::printf("%.3f bits a weight, predicted loss %.4f; best uniform plan %.4f\n", plan->bits_per_weight(),
              plan->loss, uniform->loss);
  return plan->bits_per_weight() <= 3.25 && plan->loss < uniform->loss ? 0 : 1;
}
