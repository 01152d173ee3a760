// SPDX-License-Identifier: Apache-2.0
#include "device/ops.cuh"

#include "model/device/device_numbers.cuh"

#include <catch2/catch.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator/emulator.hpp"

namespace gpu = higgs::gpu;
using namespace higgs::model;
using higgs::BFloat16;
using higgs::Half;

namespace {

template <class T>
gpu::DenseView<const T> reading(const gpu::DeviceBuffer<T>& buffer, std::int64_t rows, std::int64_t cols) {
  return {buffer.data(), rows, cols};
}

template <class T>
float at(const std::vector<T>& values, std::int64_t i) {
  return static_cast<float>(values[static_cast<std::size_t>(i)]);
}

// x / rms(x) * gain in double.
std::vector<double> normalized(const float* x, const float* gain, std::int64_t width, double epsilon) {
  double square = 0;
  for (std::int64_t i = 0; i < width; ++i) square += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const double inverse = 1 / std::sqrt(square / static_cast<double>(width) + epsilon);
  std::vector<double> out;
  for (std::int64_t i = 0; i < width; ++i)
    out.push_back(static_cast<double>(x[i]) * inverse * static_cast<double>(gain[i]));
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE("embedding reads the row of each token, and NaN for a token that has none",
                   "[model][device][gpu]", float, Half, BFloat16) {
  const auto table = random_numbers<TestType>(1, 7 * 21);
  const std::vector<std::int32_t> tokens{6, 0, 3, 7, -1};
  const auto table_device = on_device(table);
  const auto tokens_device = on_device(tokens);
  const gpu::DeviceBuffer<float> x(5 * 21);
  embed_async(reading(table_device, 7, 21), tokens_device.data(), 3.0f,
              gpu::DenseView<float>(x.data(), 5, 21), nullptr);
  const std::vector<float> found = x.to_host();
  for (std::int64_t r = 0; r < 3; ++r)
    for (std::int64_t c = 0; c < 21; ++c)
      REQUIRE(at(found, r * 21 + c) == 3 * at(table, tokens[static_cast<std::size_t>(r)] * 21 + c));
  for (std::int64_t i = 3 * 21; i < 5 * 21; ++i) REQUIRE(std::isnan(at(found, i)));
}

// Widths with and without loads of four numbers; a row's length above and below what a block holds.
TEMPLATE_TEST_CASE("the norm and the residual sum are the CPU's within rounding", "[model][device][gpu]",
                   Half, BFloat16) {
  for (const std::int64_t width : {24, 25, 4500}) {
    const std::int64_t rows = 3;
    auto x = random_numbers<float>(2, rows * width, 5);
    for (std::size_t i = 0; i < static_cast<std::size_t>(width); ++i) x[i] *= 1e-4f;  // epsilon counts
    const auto gain = random_numbers<float>(3, width);
    const std::int64_t step = width == 24 ? 27 : width;  // rows of y that four numbers at a time do not reach
    const auto y = random_numbers<TestType>(4, rows * step);
    const auto gain_device = on_device(gain);
    const auto y_device = on_device(y);
    const auto sum = on_device(x);
    const gpu::DeviceBuffer<TestType> plain(static_cast<std::size_t>(rows * width)),
        added(static_cast<std::size_t>(rows * width));
    const auto writing = [&](const gpu::DeviceBuffer<TestType>& out) {
      return gpu::DenseView<TestType>(out.data(), rows, width);
    };
    norm_async(reading(sum, rows, width), gain_device.data(), 1e-5f, 0.25f, writing(plain), nullptr);
    const std::vector<TestType> without = plain.to_host();
    const gpu::DenseView<const TestType> added_numbers(y_device.data(), rows, width, step);
    add_norm_async(gpu::DenseView<float>(sum.data(), rows, width), added_numbers, 0.5f, gain_device.data(),
                   1e-5f, 1.0f, writing(added), nullptr);
    const std::vector<TestType> with = added.to_host();
    std::vector<float> expected_sum = x;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < width; ++c)
        expected_sum[static_cast<std::size_t>(r * width + c)] += 0.5f * at(y, r * step + c);
    REQUIRE(sum.to_host() == expected_sum);
    const auto matches = [&](const std::vector<float>& in, const std::vector<TestType>& out, double factor) {
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::vector<double> row = normalized(in.data() + r * width, gain.data(), width, 1e-5);
        for (std::int64_t c = 0; c < width; ++c) {
          const double exact = factor * row[static_cast<std::size_t>(c)];
          REQUIRE(std::abs(static_cast<double>(at(out, r * width + c)) - exact) <=
                  (roundoff<TestType> + 1e-6) * std::abs(exact) + 1e-7);
        }
      }
    };
    matches(x, without, 0.25);
    matches(expected_sum, with, 1);
    add_async(gpu::DenseView<float>(sum.data(), rows, width), added_numbers, -0.5f, nullptr);
    const std::vector<float> back = sum.to_host();
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < width; ++c)
        REQUIRE(at(back, r * width + c) == at(expected_sum, r * width + c) - 0.5f * at(y, r * step + c));
  }
}

namespace {

// Heads, rows with their positions and sequences, and what turn_and_append_async() makes of them.
template <class T>
struct Turned {
  std::vector<T> q, keys, values;
};
template <class T>
Turned<T> turned(const Heads& heads, std::int32_t capacity, const std::vector<T>& q, const std::vector<T>& k,
                 const std::vector<T>& v, const std::vector<float>& gain,
                 const std::vector<float>& frequencies, const std::vector<std::int32_t>& positions,
                 const std::vector<std::int32_t>& sequences) {
  const auto rows = static_cast<std::int64_t>(positions.size());
  const auto q_device = on_device(q), k_device = on_device(k), v_device = on_device(v);
  const auto gain_device = on_device(gain), frequencies_device = on_device(frequencies);
  const auto positions_device = on_device(positions), sequences_device = on_device(sequences);
  const std::size_t size = KvLayer<T>::size(heads, 3, capacity);
  const auto keys = on_device(std::vector<T>(size, T(7.0f))),
             values = on_device(std::vector<T>(size, T(7.0f)));
  const float* gains = gain.empty() ? nullptr : gain_device.data();
  turn_and_append_async(heads, gpu::DenseView<T>(q_device.data(), rows, heads.count * heads.width),
                        reading(k_device, rows, heads.kv_count * heads.width),
                        reading(v_device, rows, heads.kv_count * heads.width),
                        HeadTurns{gains, gains, 1e-5f, frequencies_device.data(), 1.25f},
                        TokenRows{positions_device.data(), sequences_device.data()},
                        KvLayer<T>{keys.data(), values.data(), capacity}, nullptr);
  return {q_device.to_host(), keys.to_host(), values.to_host()};
}

// One head, normalized by the gain unless that is empty, and turned: in double from the angle of floats.
std::vector<double> turned_head(const std::vector<float>& head, const std::vector<float>& gain,
                                const std::vector<float>& frequencies, std::int32_t position) {
  const std::size_t half = head.size() / 2;
  std::vector<double> x(head.begin(), head.end()), out(head.size());
  if (!gain.empty()) x = normalized(head.data(), gain.data(), static_cast<std::int64_t>(head.size()), 1e-5);
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(static_cast<float>(position) * frequencies[i]);
    out[i] = 1.25 * (x[i] * std::cos(angle) - x[half + i] * std::sin(angle));
    out[half + i] = 1.25 * (x[half + i] * std::cos(angle) + x[i] * std::sin(angle));
  }
  return out;
}

}  // namespace

TEMPLATE_TEST_CASE("heads turn by the angles of their positions and join the cache", "[model][device][gpu]",
                   Half, BFloat16) {
  for (const std::int32_t width : {6, 64, 202})
    for (const bool norms : {false, true}) {
      const Heads heads{6, 2, width};
      const std::int32_t capacity = width == 6 ? 130000 : 1000, rows = 5;
      const std::vector<std::int32_t> positions{0, capacity - 1, -1, 77, capacity}, sequences{2, 0, 1, 0, 2};
      const auto q = random_numbers<TestType>(5, rows * 6 * width),
                 k = random_numbers<TestType>(6, rows * 2 * width),
                 v = random_numbers<TestType>(7, rows * 2 * width);
      const auto gain = norms ? random_numbers<float>(8, width) : std::vector<float>();
      std::vector<float> frequencies;
      for (int i = 0; i < width / 2; ++i)
        frequencies.push_back(std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(width)));
      const Turned<TestType> found =
          turned(heads, capacity, q, k, v, gain, frequencies, positions, sequences);
      const auto matches = [&](const TestType* out, const TestType* in, std::int32_t position) {
        const std::vector<float> head = [&] {
          std::vector<float> floats;
          for (int i = 0; i < width; ++i) floats.push_back(static_cast<float>(in[i]));
          return floats;
        }();
        const std::vector<double> exact = turned_head(head, gain, frequencies, position);
        for (std::size_t i = 0; i < exact.size(); ++i)
          REQUIRE(std::abs(static_cast<double>(static_cast<float>(out[i])) - exact[i]) <=
                  roundoff<TestType> * std::abs(exact[i]) + 4e-6);
      };
      const std::int64_t stored = heads.stored_width();
      for (std::int32_t r = 0; r < rows; ++r) {
        const std::int32_t position = positions[static_cast<std::size_t>(r)];
        const bool idle = position < 0 || position >= capacity;
        for (std::int32_t h = 0; h < heads.count; ++h) {
          const std::int64_t first = (r * heads.count + h) * width;
          if (idle)
            REQUIRE(std::equal(q.begin() + first, q.begin() + first + width, found.q.begin() + first));
          else
            matches(found.q.data() + first, q.data() + first, position);
        }
        for (std::int32_t h = 0; h < heads.kv_count && !idle; ++h) {
          const std::int64_t line = sequences[static_cast<std::size_t>(r)] * heads.kv_count + h;
          const std::int64_t to = (line * capacity + position) * stored,
                             from = (r * heads.kv_count + h) * width;
          matches(found.keys.data() + to, k.data() + from, position);
          REQUIRE(std::equal(v.begin() + from, v.begin() + from + width, found.values.begin() + to));
          for (std::int64_t i = width; i < stored; ++i)
            REQUIRE((found.keys[static_cast<std::size_t>(to + i)] == TestType{} &&
                     found.values[static_cast<std::size_t>(to + i)] == TestType{}));
        }
      }
      const auto written = [&](const std::vector<TestType>& cache) {
        std::int64_t count = 0;
        for (const TestType each : cache) count += each == TestType(7.0f) ? 0 : 1;
        return count;
      };
      CHECK(written(found.values) <= 3 * heads.kv_count * stored);  // idle rows and other positions stay
      CHECK(written(found.keys) <= 3 * heads.kv_count * stored);
    }
}

TEMPLATE_TEST_CASE("swiglu is silu(gate) * up", "[model][device][gpu]", Half, BFloat16) {
  for (const std::int64_t width : {8, 20, 3000}) {
    // Gate and up are columns of one matrix, whose rows eight numbers at a time reach or not; gate becomes the result.
    const std::int64_t step = width == 8 ? 2 * width + 1 : 2 * width;
    auto both = random_numbers<TestType>(9, 2 * step, 4);
    both[0] = TestType(-1000.0f);  // exp(1000) is infinite
    const auto device = on_device(both);
    const gpu::DenseView<TestType> gate(device.data(), 2, width, step),
        up(device.data() + width, 2, width, step);
    swiglu_async(gpu::DenseView<const TestType>(gate), gpu::DenseView<const TestType>(up), gate, nullptr);
    const std::vector<TestType> found = device.to_host();
    for (std::int64_t r = 0; r < 2; ++r)
      for (std::int64_t c = 0; c < width; ++c) {
        const double g = static_cast<double>(at(both, r * step + c)),
                     exact = g / (1 + std::exp(-g)) * static_cast<double>(at(both, r * step + width + c));
        REQUIRE(std::abs(static_cast<double>(at(found, r * step + c)) - exact) <=
                (roundoff<TestType> + 1e-6) * std::abs(exact) + 4e-8);
        REQUIRE(at(found, r * step + width + c) == at(both, r * step + width + c));
      }
  }
}

TEMPLATE_TEST_CASE("swiglu of pairs is that of gates and of what they multiply, bit for bit",
                   "[model][device][gpu]", Half, BFloat16) {
  for (const std::int64_t width : {8, 19, 3002}) {
    const auto both = random_numbers<TestType>(31, 2 * 2 * width, 4);
    std::vector<TestType> pairs(both.size());
    for (std::size_t i = 0; i < both.size(); ++i) {  // row r is gates, then what they multiply
      const std::size_t row = i / static_cast<std::size_t>(2 * width),
                        c = i % static_cast<std::size_t>(2 * width), half = static_cast<std::size_t>(width);
      pairs[row * 2 * half + (c < half ? 2 * c : 2 * (c - half) + 1)] = both[i];
    }
    const auto both_device = on_device(both), pairs_device = on_device(pairs);
    const gpu::DeviceBuffer<TestType> apart(static_cast<std::size_t>(2 * width));
    const auto out =
        on_device(std::vector<TestType>(static_cast<std::size_t>(2 * (width + 1)), TestType(-9.0f)));
    const gpu::DenseView<const TestType> gate(both_device.data(), 2, width, 2 * width),
        up(both_device.data() + width, 2, width, 2 * width);
    swiglu_async(gate, up, gpu::DenseView<TestType>(apart.data(), 2, width), nullptr);
    swiglu_pairs_async(reading(pairs_device, 2, 2 * width),
                       gpu::DenseView<TestType>(out.data(), 2, width, width + 1), nullptr);
    const std::vector<TestType> expected = apart.to_host(), found = out.to_host();
    for (std::int64_t r = 0; r < 2; ++r) {
      for (std::int64_t c = 0; c < width; ++c)
        REQUIRE(found[static_cast<std::size_t>(r * (width + 1) + c)].bits ==
                expected[static_cast<std::size_t>(r * width + c)].bits);
      REQUIRE(at(found, r * (width + 1) + width) == -9);
    }
  }
}

TEST_CASE("norms and swiglu read and write their operands once", "[model][device][gpu]") {
  if (!emulator::in_use) return;
  emulator::options().count = true;                           // in one process with cases that need no counts
  const std::int64_t width = 4096, sectors = width * 2 / 32;  // of 16-bit numbers
  const auto x = on_device(random_numbers<float>(11, width)),
             gain = on_device(random_numbers<float>(12, width));
  const auto y = on_device(random_numbers<Half>(13, width));
  const gpu::DeviceBuffer<Half> out(static_cast<std::size_t>(width));
  const gpu::DenseView<Half> writing(out.data(), 1, width);
  emulator::clear_launches();
  add_norm_async(gpu::DenseView<float>(x.data(), 1, width), reading(y, 1, width), 1.0f, gain.data(), 1e-5f,
                 1.0f, writing, nullptr);
  const emulator::Counters norm = emulator::launches().back().counters;
  CHECK(norm.sectors_read == static_cast<std::uint64_t>(5 * sectors));
  CHECK(norm.sectors_written == static_cast<std::uint64_t>(3 * sectors));
  swiglu_async(reading(y, 1, width), reading(out, 1, width), writing, nullptr);
  const emulator::Counters swiglu = emulator::launches().back().counters;
  CHECK(swiglu.sectors_read == static_cast<std::uint64_t>(2 * sectors));
  CHECK(swiglu.sectors_written == static_cast<std::uint64_t>(sectors));
}

TEST_CASE("operations refuse shapes that differ", "[model][device][gpu]") {
  const gpu::DeviceBuffer<Half> a(64);
  const gpu::DenseView<const Half> wide(a.data(), 2, 8), narrow(a.data(), 2, 7);
  const gpu::DenseView<Half> out(a.data(), 2, 8);
  CHECK_THROWS_AS(swiglu_async(wide, narrow, out, nullptr), higgs::InvalidArgument);
  CHECK_THROWS_AS(swiglu_pairs_async(wide, out, nullptr), higgs::InvalidArgument);
  const Heads odd{4, 2, 7}, uneven{4, 3, 8}, broad{1, 1, 258};
  for (const Heads& heads : {odd, uneven, broad}) CHECK_THROWS_AS(check_heads(heads), higgs::InvalidArgument);
}
