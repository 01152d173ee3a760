// SPDX-License-Identifier: Apache-2.0
// The formats that HIGGS is compared with, each as its authors define it and with every bit it stores
// counted. Where a definition leaves a choice, the one that serves the format best is taken.
#pragma once

#include <higgs/core/error.hpp>
#include <higgs/core/executor.hpp>
#include <higgs/core/half.hpp>
#include <higgs/core/matrix_view.hpp>
#include <higgs/scale/input_scale.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// A format: codes of `bits` bits, `group_bits` for each run of `group` inputs of a row (its last may be
/// shorter), `matrix_bits` for the whole.
struct Baseline {
  std::string_view name;
  int bits;
  int group;
  int group_bits;   // scale and zero point
  int matrix_bits;  // scale of the whole matrix
  /// Rounds one group in place; `largest` is the largest magnitude in the matrix.
  void (*round_group)(std::span<float> group, float largest);
};

// How each format rounds one group.
namespace rounding {

/// What fp16 keeps of a scale or zero point; it saturates.
inline float stored_half(float value) noexcept {
  return static_cast<float>(Half(std::clamp(value, -65504.0f, 65504.0f)));
}

/// To the nearest integer, ties to even, for |value| < 2^22: the adder rounds.
inline float round_even(float value) noexcept {
  constexpr float magic = 0x1.8p23f;
  return (value + magic) - magic;
}

inline float largest_magnitude(std::span<const float> group) noexcept {
  float most = 0;
  for (const float w : group) most = std::max(most, std::fabs(w));
  return most;
}

// ---- sixteen levels over the group's largest magnitude

/// Sixteen ascending levels, and the borders halfway between neighbours.
struct Levels {
  std::array<float, 16> values{};
  std::array<float, 15> borders{};

  explicit Levels(const std::array<double, 16>& exact) {
    for (std::size_t i = 0; i < 16; ++i) values[i] = static_cast<float>(exact[i]);
    for (std::size_t i = 0; i < 15; ++i) borders[i] = static_cast<float>((exact[i] + exact[i + 1]) / 2);
  }
};

inline double normal_quantile(double p) noexcept {
  double low = -10, high = 10;
  for (int i = 0; i < 70; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::numbers::sqrt2) < 2 * p ? low : high) = middle;
  }
  return (low + high) / 2;
}

/// NormalFloat (Dettmers et al., QLoRA, 2023, appendix E): quantiles of N(0, 1), evenly spaced in probability
/// between 1/2 and `offset`, seven on the negative side and eight on the positive, the largest scaled to 1.
/// The authors' probabilities are floats.
inline Levels nf4_levels() {
  constexpr double offset = 0.9677083f;  // 1 - (1/30 + 1/32) / 2
  std::array<double, 16> level{};
  for (std::size_t i = 1; i <= 8; ++i) {
    const double step = (offset - 0.5) * static_cast<double>(i), largest = normal_quantile(offset);
    if (i <= 7) level[7 - i] = -normal_quantile(static_cast<float>(0.5 + step / 7)) / largest;
    level[7 + i] = normal_quantile(static_cast<float>(0.5 + step / 8)) / largest;
  }
  return Levels(level);
}

/// How x = w / m is spread when m is the largest magnitude of a block of N(0, 1) weights: m has the density
/// B erf(m/sqrt2)^(B-1) 2 phi(m), and given m the other weights are normal, cut at +-m (Yoshida 2023).
class BlockMaximum {
 public:
  explicit BlockMaximum(int block) {
    // Of the midpoint rule, which is exact to rounding as the integrands fade at both ends.
    constexpr double step = 1.0 / 32;
    for (double m = step / 2; m < 10; m += step) {
      const double inside = std::erf(m / std::numbers::sqrt2);
      const double weight = block * std::pow(inside, block - 2) * 2 * normal_density(m) * step;
      if (weight > 1e-18) nodes_.push_back({m, weight});
    }
  }
  /// P(low < x < high).
  double mass(double low, double high) const noexcept {
    double sum = 0;
    for (const Node& at : nodes_) sum += at.weight * between(at.m * low, at.m * high);
    return sum;
  }
  double density(double x) const noexcept {
    double sum = 0;
    for (const Node& at : nodes_) sum += at.weight * at.m * normal_density(at.m * x);
    return sum;
  }
  /// The c that minimizes E (w - c m)^2 where low < x < high.
  double centroid(double low, double high) const noexcept {
    double product = 0, square = 0;  // E w m and E m^2
    for (const Node& at : nodes_) {
      product += at.weight * at.m * (normal_density(at.m * low) - normal_density(at.m * high));
      square += at.weight * at.m * at.m * between(at.m * low, at.m * high);
    }
    return product / square;
  }

 private:
  struct Node {
    double m, weight;
  };
  static double normal_density(double x) noexcept {
    return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
  }
  static double between(double low, double high) noexcept {
    return (std::erf(high / std::numbers::sqrt2) - std::erf(low / std::numbers::sqrt2)) / 2;
  }
  std::vector<Node> nodes_;
};

enum class Loss { Absolute, Squared };
enum class ScaleSign { Positive, OfLargest };

/// The levels that minimize the expected loss on blocks of N(0, 1) weights, with 0 and +-1 among them:
/// Lloyd's iteration. Loss::Absolute, |x - level|, is AF4 (Yoshida 2023), whose author optimizes the negative
/// and the positive levels apart and then adds 0. Loss::Squared, of the weights themselves, is BOF4
/// (Blumenberg et al. 2025); where the scale takes the sign of the largest weight, BOF4-S, -1 may move.
inline Levels fitted_levels(int block, Loss loss, ScaleSign sign) {
  const BlockMaximum maximum(block);
  constexpr std::size_t zero = 7;
  std::array<double, 16> level{};
  for (std::size_t i = 0; i < 16; ++i) {
    const double at = static_cast<double>(i) - zero;
    level[i] = at < 0 ? at / 7 : at / 8;
  }
  const auto border = [&](std::size_t i) {  // between levels i and i + 1
    if (loss == Loss::Absolute && (i == zero || i + 1 == zero)) return 0.0;
    return (level[i] + level[i + 1]) / 2;
  };
  double change = 1;
  for (int sweep = 0; sweep < 2000 && change > 1e-12; ++sweep) {
    change = 0;
    for (std::size_t i = sign == ScaleSign::OfLargest ? 0 : 1; i < 15; ++i) {
      if (i == zero) continue;
      const double low = i == 0 ? -1 : border(i - 1), high = border(i);
      double next = 0;
      if (loss == Loss::Squared) {
        next = maximum.centroid(low, high);
      } else {  // one Newton step towards the median
        const double excess = maximum.mass(level[i], high) - maximum.mass(low, level[i]);
        next = std::clamp(level[i] + excess / (2 * maximum.density(level[i])), low, high);
      }
      change = std::max(change, std::fabs(next - level[i]));
      level[i] = next;
    }
  }
  return Levels(level);
}

inline void round_to_levels(std::span<float> group, const Levels& levels, ScaleSign sign) noexcept {
  float largest = 0;
  for (const float w : group)
    if (std::fabs(w) > std::fabs(largest)) largest = w;
  const float scale = stored_half(sign == ScaleSign::OfLargest ? largest : std::fabs(largest));
  const float inverse = scale != 0 ? 1 / scale : 0;
  for (float& w : group) {
    const float x = w * inverse;
    float value = levels.values[0];
    HIGGS_UNROLL
    for (std::size_t i = 0; i < 15; ++i) value = x > levels.borders[i] ? levels.values[i + 1] : value;
    w = value * scale;
  }
}

inline void round_nf4(std::span<float> group, float) {
  static const Levels levels = nf4_levels();
  round_to_levels(group, levels, ScaleSign::Positive);
}
template <int Block, Loss LossKind, ScaleSign Sign = ScaleSign::Positive>
void round_fitted(std::span<float> group, float) {
  static const Levels levels = fitted_levels(Block, LossKind, Sign);
  round_to_levels(group, levels, Sign);
}

// ---- evenly spaced levels

/// Asymmetric round-to-nearest as GPTQ's and AWQ's files store it: the range of the group, widened to hold 0,
/// in 2^Bits - 1 steps; fp16 scale, and a zero point that is a code. (An fp16 zero point would save 3 % of
/// the MSE, 0.13 dB, for 16 - Bits more bits a group, which at 4 bits and groups of 64 are worth 1.1 dB.)
template <int Bits>
void round_min_max(std::span<float> group, float) noexcept {
  constexpr float top = (1 << Bits) - 1;
  const auto [least, most] = std::minmax_element(group.begin(), group.end());
  const float low = std::min(*least, 0.0f), high = std::max(*most, 0.0f);
  const float scale = stored_half(high / top - low / top);
  const float inverse = scale != 0 ? 1 / scale : 0;
  const float zero = round_even(std::clamp(-low * inverse, 0.0f, top));
  for (float& w : group) w = (round_even(std::clamp(w * inverse + zero, 0.0f, top)) - zero) * scale;
}

/// HQQ (Badri and Shaji 2023, mobiusml.github.io/hqq_blog): the scale is that of the range; the zero point, a
/// real number, minimizes sum |error|^0.7 by half-quadratic splitting: shrink the error, then take the best
/// zero for what is left. Twenty iterations, beta = 10 times 1.01 in each. Scale and zero point in fp16. It
/// depends on the magnitude of weights: with those of language models every error shrinks to nothing.
template <int Bits>
void round_hqq(std::span<float> group, float) noexcept {
  constexpr float top = (1 << Bits) - 1, p = 0.7f;
  const auto [least, most] = std::minmax_element(group.begin(), group.end());
  const float low = *least, high = *most;
  float scale = stored_half(high / top - low / top);
  if (scale == 0) scale = 1;  // a constant group: the zero point alone holds it
  const float inverse = 1 / scale;
  float zero = -low * inverse, beta = 10;
  const auto code = [&](float w) { return round_even(std::clamp(w * inverse + zero, 0.0f, top)); };
  for (int iteration = 0; iteration < 20; ++iteration, beta *= 1.01f) {
    // Errors below beta^(-1/(2-p)) shrink to nothing: no power, which is slow, is taken of those.
    const float threshold = std::pow(beta, -1 / (2 - p));
    double sum = 0;
    for (const float w : group) {
      const float q = code(w);
      const float error = w - (q - zero) * scale;
      float kept = 0;
      if (const float size = std::fabs(error); size > threshold)
        kept = std::copysign(size - std::pow(size, p - 1) / beta, error);
      sum += q - (w - kept) * inverse;
    }
    zero = static_cast<float>(sum / static_cast<double>(group.size()));
  }
  zero = stored_half(zero);
  for (float& w : group) w = (code(w) - zero) * scale;
}

// ---- four-bit floats under scales of eight bits

/// The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; ties to the even code; it saturates.
inline float round_e2m1(float x) noexcept {
  const float size = std::min(std::fabs(x), 6.0f);
  const float step = size < 2 ? 0.5f : size < 4 ? 1.0f : 2.0f;
  return std::copysign(round_even(size / step) * step, x);
}

/// The nearest e4m3 of a positive number: 3 bits of mantissa, 2^-6 the least normal power; saturates at 448.
inline float round_e4m3(float x) noexcept {
  if (!(x < 448)) return 448;
  const float step = std::ldexp(1.0f, std::ilogb(std::max(x, 0x1p-6f)) - 3);
  return round_even(x / step) * step;
}

/// MXFP4 (OCP Microscaling v1.0, section 6.3): the scale is the power of two in the largest magnitude over 4,
/// the one in the largest code.
inline void round_mxfp4(std::span<float> group, float) noexcept {
  const float most = largest_magnitude(group);
  if (most == 0) return;
  const int exponent = std::max(std::ilogb(most) - 2, -127);
  const float scale = std::ldexp(1.0f, exponent), inverse = std::ldexp(1.0f, -exponent);
  for (float& w : group) w = round_e2m1(w * inverse) * scale;
}

/// NVFP4 (NVIDIA, 2025): scale = largest magnitude / 6 in e4m3, in units of a float that gives the matrix's
/// largest magnitude the scale 448.
inline void round_nvfp4(std::span<float> group, float largest) noexcept {
  const float unit = largest / (6 * 448);
  const float scale = unit > 0 ? round_e4m3(largest_magnitude(group) / 6 / unit) * unit : 0;
  for (float& w : group) w = scale > 0 ? round_e2m1(w / scale) * scale : 0;
}

// A scale is 16 bits, 8 for 4-bit floats; a zero point is a code for min-max rounding, 16 bits for HQQ.
inline constexpr std::array baseline_list{
    Baseline{"nf4-64", 4, 64, 16, 0, round_nf4},
    Baseline{"nf4-1024", 4, 1024, 16, 0, round_nf4},
    Baseline{"af4-64", 4, 64, 16, 0, round_fitted<64, Loss::Absolute>},
    Baseline{"af4-1024", 4, 1024, 16, 0, round_fitted<1024, Loss::Absolute>},
    Baseline{"bof4-64", 4, 64, 16, 0, round_fitted<64, Loss::Squared>},
    Baseline{"bof4s-64", 4, 64, 16, 0, round_fitted<64, Loss::Squared, ScaleSign::OfLargest>},
    Baseline{"int4-64", 4, 64, 16 + 4, 0, round_min_max<4>},
    Baseline{"int3-64", 3, 64, 16 + 3, 0, round_min_max<3>},
    Baseline{"int2-64", 2, 64, 16 + 2, 0, round_min_max<2>},
    Baseline{"hqq4-64", 4, 64, 16 + 16, 0, round_hqq<4>},
    Baseline{"hqq3-64", 3, 64, 16 + 16, 0, round_hqq<3>},
    Baseline{"hqq2-64", 2, 64, 16 + 16, 0, round_hqq<2>},
    Baseline{"hqq4-128", 4, 128, 16 + 16, 0, round_hqq<4>},
    Baseline{"hqq3-128", 3, 128, 16 + 16, 0, round_hqq<3>},
    Baseline{"hqq2-128", 2, 128, 16 + 16, 0, round_hqq<2>},
    Baseline{"mxfp4", 4, 32, 8, 0, round_mxfp4},
    Baseline{"nvfp4", 4, 16, 8, 32, round_nvfp4},
};

}  // namespace rounding

/// All formats; "nf4-64" means groups of 64.
inline std::span<const Baseline> baselines() noexcept { return rounding::baseline_list; }

/// The format of that name; throws InvalidArgument if there is none.
inline const Baseline& baseline_named(std::string_view name) {
  std::string known;
  for (const Baseline& each : baselines()) {
    if (each.name == name) return each;
    known.append(" ").append(each.name);
  }
  throw InvalidArgument("higgs::model::baseline_named: no format is named \"" + std::string(name) +
                        "\"; there are:" + known);
}

/// All bits of a rows x cols matrix in this format, scales and zero points included, over its weights.
inline double bits_per_weight(const Baseline& format, std::int64_t rows, std::int64_t cols) {
  expects(rows > 0 && cols > 0, "higgs::model::bits_per_weight: the matrix must have weights");
  const auto groups = static_cast<double>((cols + format.group - 1) / format.group);
  const auto inputs = static_cast<double>(cols), outputs = static_cast<double>(rows);
  return format.bits + (format.group_bits * groups + format.matrix_bits / outputs) / inputs;
}

/// Replaces each weight by what the format makes of it; returns bits_per_weight. Each row is
/// cut in groups. Throws InvalidArgument for NaN and infinite weights.
inline double round_to(const Baseline& format, MatrixView<float> w, Executor& executor = default_executor()) {
  const double bits = bits_per_weight(format, w.rows, w.cols);
  ColumnStatistics columns(w.cols);
  columns.add(w, executor);
  const float largest = columns.max_magnitude();
  const std::int64_t grain = std::max<std::int64_t>(1, 65536 / w.cols);
  parallel_for(executor, w.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(w.cols));
    const auto group = static_cast<std::size_t>(format.group);
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::size_t c = 0; c < row.size(); ++c) row[c] = w(r, static_cast<std::int64_t>(c));
      for (std::size_t c = 0; c < row.size(); c += group)
        format.round_group(std::span(row).subspan(c, std::min(group, row.size() - c)), largest);
      for (std::size_t c = 0; c < row.size(); ++c) w(r, static_cast<std::int64_t>(c)) = row[c];
    }
  });
  return bits;
}

}  // namespace higgs::model
