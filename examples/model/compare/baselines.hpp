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
#include <limits>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace higgs::model {

/// A matrix whose groups, the weights that share a scale, lie side by side.
class GroupedMatrix {
 public:
  /// Along axis 1 a group is a run of `size` inputs of a row; the last of a row may be shorter. Along axis 0 it is at
  /// most `size` weights of a column, evenly spread over the rows: what HQQ's reshape to (size, -1) makes of a matrix.
  GroupedMatrix(MatrixView<float> w, int size, int axis, Executor& executor)
      : view_(axis == 1 ? w : w.transposed()),
        values_(static_cast<std::size_t>(w.rows * w.cols)),
        order_(static_cast<std::size_t>(view_.cols)) {
    const auto most = static_cast<std::size_t>(size), length = order_.size();
    const std::size_t stride = axis == 1 ? 1 : (length + most - 1) / most;
    std::size_t next = 0;
    for (std::size_t first = 0; first < stride; ++first)
      for (std::size_t at = first; at < length; at += stride, ++next) {
        if (axis == 1 ? next % most == 0 : at == first) starts_.push_back(next);
        order_[next] = static_cast<std::int64_t>(at);
      }
    starts_.push_back(length);
    for_each_line(executor, [&](std::int64_t line) {
      for (std::size_t i = 0; i < length; ++i) line_of(line)[i] = view_(line, order_[i]);
    });
  }

  std::int64_t count() const noexcept { return view_.rows * groups_per_line(); }
  /// In the order of the rows for axis 1, of the columns for axis 0.
  std::span<float> operator[](std::int64_t group) noexcept {
    const auto at = static_cast<std::size_t>(group % groups_per_line());
    return line_of(group / groups_per_line()).subspan(starts_[at], starts_[at + 1] - starts_[at]);
  }
  /// Calls action(i) for every group.
  template <class Action>
  void for_each(Executor& executor, Action&& action) {
    for_each_line(executor, [&](std::int64_t line) {
      for (std::int64_t i = 0; i < groups_per_line(); ++i) action(line * groups_per_line() + i);
    });
  }
  /// Writes the groups to where they came from.
  void put_back(Executor& executor) {
    for_each_line(executor, [&](std::int64_t line) {
      for (std::size_t i = 0; i < order_.size(); ++i) view_(line, order_[i]) = line_of(line)[i];
    });
  }

 private:
  std::int64_t groups_per_line() const noexcept { return static_cast<std::int64_t>(starts_.size()) - 1; }
  std::span<float> line_of(std::int64_t line) noexcept {
    return std::span(values_).subspan(static_cast<std::size_t>(line) * order_.size(), order_.size());
  }
  template <class Action>
  void for_each_line(Executor& executor, Action&& action) const {
    const std::int64_t grain = std::max<std::int64_t>(1, 65536 / view_.cols);
    parallel_for(executor, view_.rows, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t line = begin; line < end; ++line) action(line);
    });
  }

  MatrixView<float> view_;           // a line is one of its rows
  std::vector<float> values_;        // line by line, in the order below
  std::vector<std::int64_t> order_;  // positions of the weights of a line, group after group
  std::vector<std::size_t> starts_;  // where each group of a line begins, then the length of the line
};

/// A format: codes of `bits` bits, `group_bits` for each group of `group` weights, `outer_bits` for each 256 groups,
/// `matrix_bits` for the whole.
struct Baseline {
  std::string_view name;
  int bits;
  int group;
  int group_bits;   // scale and zero point
  int matrix_bits;  // scale of the whole matrix
  /// Rounds one group in place; `largest` is the largest magnitude in the matrix.
  void (*round_group)(std::span<float> group, float largest) = nullptr;
  /// Rounds all groups in place, where they hang together; one of the two is null.
  void (*round_groups)(GroupedMatrix& groups, Executor& executor) = nullptr;
  int axis = 1;        // along which groups lie; see GroupedMatrix
  int outer_bits = 0;  // scale of scales
  /// What its definition leaves open, and how that is settled here.
  std::string_view choices = "groups along the inputs, fp16 scales";
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

/// To the nearest level times `scale`; what is kept of that is `stored`.
inline void round_to_levels(std::span<float> group, const Levels& levels, float scale,
                            float stored) noexcept {
  const float inverse = scale != 0 ? 1 / scale : 0;
  for (float& w : group) {
    const float x = w * inverse;
    float value = levels.values[0];
    HIGGS_UNROLL for (std::size_t i = 0; i < 15; ++i)
      value = x > levels.borders[i] ? levels.values[i + 1] : value;
    w = value * stored;
  }
}
inline void round_to_levels(std::span<float> group, const Levels& levels, ScaleSign sign) noexcept {
  float largest = 0;
  for (const float w : group)
    if (std::fabs(w) > std::fabs(largest)) largest = w;
  const float scale = stored_half(sign == ScaleSign::OfLargest ? largest : std::fabs(largest));
  round_to_levels(group, levels, scale, scale);
}

inline void round_nf4(std::span<float> group, float) {
  static const Levels levels = nf4_levels();
  round_to_levels(group, levels, ScaleSign::Positive);
}
/// The levels of the 8-bit dynamic tree that bitsandbytes keeps scales in (Dettmers 2015, arXiv:1511.04561): 10^-6 to
/// 1 in decades, of which decade e has 2^e levels to either side, in the middle of equal parts of its upper 90 %; and 0
/// and 1. Ascending.
inline std::vector<float> dynamic_levels() {
  std::vector<float> levels{0, 1};
  for (int decade = 0; decade < 7; ++decade) {
    const int parts = 1 << decade;
    for (int i = 0; i < parts; ++i) {
      const double at = (0.1 + 0.9 * (i + 0.5) / parts) * std::pow(10.0, decade - 6);
      levels.push_back(static_cast<float>(at));
      levels.push_back(static_cast<float>(-at));
    }
  }
  std::sort(levels.begin(), levels.end());
  return levels;
}

/// NF4 with double quantization (QLoRA, section 3), as bitsandbytes does it: codes by the exact scale of a group; then
/// the mean of all scales is taken off them, and what is left is kept in 8 bits, the nearest of dynamic_levels() times
/// the largest magnitude of 256 scales, a float.
inline void round_nf4_double(GroupedMatrix& groups, Executor& executor) {
  static const Levels levels = nf4_levels();
  static const std::vector<float> scale_levels = dynamic_levels();
  constexpr std::size_t outer = 256;
  std::vector<float> scales(static_cast<std::size_t>(groups.count()));
  groups.for_each(
      executor, [&](std::int64_t i) { scales[static_cast<std::size_t>(i)] = largest_magnitude(groups[i]); });
  double sum = 0;
  for (const float scale : scales) sum += scale;
  const auto mean = static_cast<float>(sum / static_cast<double>(scales.size()));
  std::vector<float> stored(scales.size());
  for (std::size_t begin = 0; begin < scales.size(); begin += outer) {
    const std::size_t end = std::min(begin + outer, scales.size());
    float most = 0;
    for (std::size_t i = begin; i < end; ++i) most = std::max(most, std::fabs(scales[i] - mean));
    for (std::size_t i = begin; i < end; ++i) {
      const float x = most > 0 ? (scales[i] - mean) / most : 0;
      const auto above = std::lower_bound(scale_levels.begin() + 1, scale_levels.end() - 1, x);
      const float level = *above - x < x - above[-1] ? *above : above[-1];
      stored[i] = level * most + mean;
    }
  }
  groups.for_each(executor, [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    round_to_levels(groups[i], levels, scales[at], stored[at]);
  });
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
/// zero for what is left. As in its package (hqq 0.2.8): twenty iterations at beta = 10, or fewer: the first that does
/// not lessen the mean |error| of the matrix is the last. Scale and zero point in fp16. It
/// depends on the magnitude of weights: with those of language models every error shrinks to nothing.
/// `RoundZero`: the iteration begins at a whole zero point; its end is no whole one.
template <int Bits, bool RoundZero>
void round_hqq(GroupedMatrix& groups, Executor& executor) {
  constexpr float top = (1 << Bits) - 1, p = 0.7f;
  struct State {
    float scale = 1, inverse = 1, zero = 0;
    double error = 0;  // sum of |w - rounded w|
  };
  const auto code = [&](const State& state, float w) {
    return round_even(std::clamp(w * state.inverse + state.zero, 0.0f, top));
  };
  std::vector<State> states(static_cast<std::size_t>(groups.count()));
  groups.for_each(executor, [&](std::int64_t i) {
    const auto [least, most] = std::minmax_element(groups[i].begin(), groups[i].end());
    State& state = states[static_cast<std::size_t>(i)];
    state.scale = stored_half(*most / top - *least / top);
    if (state.scale == 0) state.scale = 1;  // a constant group: the zero point alone holds it
    state.inverse = 1 / state.scale;
    state.zero = -*least * state.inverse;
    if (RoundZero) state.zero = std::nearbyint(state.zero);
  });
  double best = std::numeric_limits<double>::infinity();
  constexpr float beta = 10;
  // Errors below beta^(-1/(2-p)) shrink to nothing: no power, which is slow, is taken of those.
  const float threshold = std::pow(beta, -1 / (2 - p));
  for (int iteration = 0; iteration < 20; ++iteration) {
    groups.for_each(executor, [&](std::int64_t i) {
      State& state = states[static_cast<std::size_t>(i)];
      double sum = 0;
      state.error = 0;
      for (const float w : groups[i]) {
        const float q = code(state, w);
        const float error = w - (q - state.zero) * state.scale, size = std::fabs(error);
        const float kept = size > threshold ? std::copysign(size - std::pow(size, p - 1) / beta, error) : 0;
        sum += q - (w - kept) * state.inverse;
        state.error += size;
      }
      state.zero = static_cast<float>(sum / static_cast<double>(groups[i].size()));
    });
    double error = 0;
    for (const State& state : states) error += state.error;
    if (!(error < best)) break;
    best = error;
  }
  groups.for_each(executor, [&](std::int64_t i) {
    State& state = states[static_cast<std::size_t>(i)];
    state.zero = stored_half(state.zero);
    for (float& w : groups[i]) w = (code(state, w) - state.zero) * state.scale;
  });
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

inline constexpr std::string_view double_choices =
    "groups along the inputs, scales in 8 bits of a dynamic map after their mean, a float for 256 of them";
inline constexpr std::string_view min_max_choices =
    "groups along the inputs, fp16 scales, a zero point that is a code";
inline constexpr std::string_view hqq_inputs_whole =
    "axis 1 (groups along the inputs), round_zero on, early stop";
inline constexpr std::string_view hqq_outputs =
    "axis 0 (groups along the outputs), round_zero off, early stop";

// A scale is 16 bits, 8 for 4-bit floats and double quantization; a zero point is a code for min-max rounding, 16 bits
// for HQQ. HQQ leaves axis and round_zero open: a row without an axis in its name takes those of the lowest KL on
// SmolLM2-135M, which are not those of the lowest error; the other axis, with the round_zero that serves it best there,
// has a row of its own.
inline constexpr std::array baseline_list{
    Baseline{"nf4-64", 4, 64, 16, 0, round_nf4},
    Baseline{"nf4-64 dq", 4, 64, 8, 32, nullptr, round_nf4_double, 1, 32, double_choices},
    Baseline{"nf4-1024", 4, 1024, 16, 0, round_nf4},
    Baseline{"nf4-1024 dq", 4, 1024, 8, 32, nullptr, round_nf4_double, 1, 32, double_choices},
    Baseline{"af4-64", 4, 64, 16, 0, round_fitted<64, Loss::Absolute>},
    Baseline{"af4-1024", 4, 1024, 16, 0, round_fitted<1024, Loss::Absolute>},
    Baseline{"bof4-64", 4, 64, 16, 0, round_fitted<64, Loss::Squared>},
    Baseline{"bof4s-64", 4, 64, 16, 0, round_fitted<64, Loss::Squared, ScaleSign::OfLargest>},
    Baseline{"int4-64", 4, 64, 16 + 4, 0, round_min_max<4>, nullptr, 1, 0, min_max_choices},
    Baseline{"int3-64", 3, 64, 16 + 3, 0, round_min_max<3>, nullptr, 1, 0, min_max_choices},
    Baseline{"int2-64", 2, 64, 16 + 2, 0, round_min_max<2>, nullptr, 1, 0, min_max_choices},
    Baseline{"hqq4-64", 4, 64, 16 + 16, 0, nullptr, round_hqq<4, true>, 1, 0, hqq_inputs_whole},
    Baseline{"hqq3-64", 3, 64, 16 + 16, 0, nullptr, round_hqq<3, true>, 1, 0, hqq_inputs_whole},
    Baseline{"hqq2-64", 2, 64, 16 + 16, 0, nullptr, round_hqq<2, false>, 0, 0, hqq_outputs},
    Baseline{"hqq4-128", 4, 128, 16 + 16, 0, nullptr, round_hqq<4, true>, 1, 0, hqq_inputs_whole},
    Baseline{"hqq3-128", 3, 128, 16 + 16, 0, nullptr, round_hqq<3, true>, 1, 0, hqq_inputs_whole},
    Baseline{"hqq2-128", 2, 128, 16 + 16, 0, nullptr, round_hqq<2, false>, 0, 0, hqq_outputs},
    Baseline{"hqq4-64 axis 0", 4, 64, 16 + 16, 0, nullptr, round_hqq<4, false>, 0, 0, hqq_outputs},
    Baseline{"hqq3-64 axis 0", 3, 64, 16 + 16, 0, nullptr, round_hqq<3, false>, 0, 0, hqq_outputs},
    Baseline{"hqq2-64 axis 1", 2, 64, 16 + 16, 0, nullptr, round_hqq<2, true>, 1, 0, hqq_inputs_whole},
    Baseline{"mxfp4", 4, 32, 8, 0, round_mxfp4, nullptr, 1, 0, "scales that are powers of two"},
    Baseline{"nvfp4", 4, 16, 8, 32, round_nvfp4, nullptr, 1, 0, "e4m3 scales in units of one float"},
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
  const std::int64_t length = format.axis == 1 ? cols : rows;
  const std::int64_t groups = rows * cols / length * ((length + format.group - 1) / format.group);
  const std::int64_t around =
      format.group_bits * groups + format.outer_bits * ((groups + 255) / 256) + format.matrix_bits;
  return format.bits + static_cast<double>(around) / static_cast<double>(rows * cols);
}

/// Replaces each weight by what the format makes of it; returns bits_per_weight. Throws InvalidArgument for NaN and
/// infinite weights.
inline double round_to(const Baseline& format, MatrixView<float> w, Executor& executor = default_executor()) {
  const double bits = bits_per_weight(format, w.rows, w.cols);
  ColumnStatistics columns(w.cols);
  columns.add(w, executor);
  GroupedMatrix groups(w, format.group, format.axis, executor);
  if (format.round_groups)
    format.round_groups(groups, executor);
  else
    groups.for_each(executor,
                    [&](std::int64_t i) { format.round_group(groups[i], columns.max_magnitude()); });
  groups.put_back(executor);
  return bits;
}

}  // namespace higgs::model
