// SPDX-License-Identifier: Apache-2.0
#include <higgs/store/block_format.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

using higgs::block_format_named;
using higgs::BlockFormat;

namespace {

// Blocks with every bit in use; the fp16 numbers at `halves` get a magnitude near 1/16.
std::vector<std::uint8_t> example_blocks(const BlockFormat& format, const std::vector<int>& halves,
                                         int blocks) {
  std::vector<std::uint8_t> out;
  for (int i = 0; i < blocks * format.bytes; ++i)
    out.push_back(static_cast<std::uint8_t>(i * i * 7 + i * 13 + (i >> 3) + 5));
  for (int block = 0; block < blocks; ++block)
    for (const int half : halves) {
      std::uint8_t& byte = out[static_cast<std::size_t>(block * format.bytes + half + 1)];
      byte = static_cast<std::uint8_t>((byte & 0x83) | 0x2c);
    }
  return out;
}

std::vector<float> decode(const BlockFormat& format, const std::vector<std::uint8_t>& in) {
  const std::int64_t blocks = static_cast<std::int64_t>(in.size()) / format.bytes;
  std::vector<float> out(static_cast<std::size_t>(blocks * format.block));
  format.decode(in.data(), blocks, out.data());
  return out;
}

std::uint64_t hash(const std::vector<float>& values) {
  std::uint64_t state = 0xcbf29ce484222325u;  // FNV-1a
  for (const float value : values)
    for (int byte = 0; byte < 4; ++byte)
      state = (state ^ (std::bit_cast<std::uint32_t>(value) >> 8 * byte & 255)) * 0x100000001b3u;
  return state;
}

template <class T>
void append(std::vector<std::uint8_t>& out, T value) {
  std::uint8_t bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

}  // namespace

TEST_CASE("blocks decode to the bits that the reference package gives", "[store][block_format]") {
  // Made with the Python package gguf 0.19.0 (gguf.quants.dequantize) from the same bytes: FNV-1a of the
  // floats of three blocks, and the first weight, the last of the first block, and one of the second.
  struct Golden {
    const char* name;
    std::vector<int> halves;
    std::uint64_t hash;
    float first, last, other;
  };
  const Golden goldens[] = {
      {"Q4_0", {0}, 0x294223957088aa7e, 0x1.e1ep-3f, 0x1.414p-2f, 0x1.167p-1f},
      {"Q4_1", {0, 2}, 0xe4d2eed6f941725a, 0x1.a34p-1f, 0x1.21fp+0f, 0x1.5408p-1f},
      {"Q5_0", {0}, 0x4758cfd174ad84d, 0x1.2d2cp+0f, 0x1.414p-3f, -0x1.584p-1f},
      {"Q5_1", {0, 2}, 0x6b53f3db6ef31080, 0x1.3ba2p+1f, 0x1.137ap+1f, 0x1.8b58p+0f},
      {"Q8_0", {0}, 0xc661c85bb1ed5896, 0x1.2827p+2f, 0x1.39b88p+3f, -0x1.af358p+3f},
      {"Q4_K", {0, 2}, 0x8fe4121d41bbe529, 0x1.15004p+4f, 0x1.9ebd8p+3f, 0x1.1be4cp+4f},
      {"Q5_K", {0, 2}, 0xca8665a6174fb72, 0x1.468050p+6f, 0x1.80c760p+5f, -0x1.edba70p+6f},
      {"Q6_K", {208}, 0x3ce40af294483b4e, 0x1.71c5e0p+5f, -0x1.149cp+6f, 0x1.23b7ecp+8f},
      {"Q2_K", {80, 82}, 0xec9e2ab28a25ab53, -0x1.ab44p+0f, 0x1.30ecp+0f, -0x1.6a03p+2f},
      {"Q3_K", {108}, 0xf80d0b17098156e0, 0x1.9f8p-4f, 0x1.37ap+0f, -0x1.ab8p+0f},
      {"IQ4_NL", {0}, 0x37907a48b3eb120b, 0x1.7d7cp+1f, 0x1.0a09p+2f, 0x1.e177p+2f},
      {"IQ4_XS", {0}, 0xb601cd36095c6ece, 0x1.5d03a8p+7f, 0x1.33724p+4f, 0x1.ba74cp+6f},
      {"MXFP4", {}, 0xf4dbe5e694c0cb28, -0x1p-123f, -0x1.8p-121f, -0x1.8p+77f},
      {"TQ1_0", {52}, 0xe19411c20684088d, 0x1.e7cp-4f, -0.0f, -0.0f},
      {"TQ2_0", {64}, 0x84fe822797b024d6, -0.0f, -0x1.534p-3f, -0.0f},
  };
  for (const Golden& golden : goldens) {
    INFO(golden.name);
    const BlockFormat& format = *block_format_named(golden.name);
    const std::vector<float> weights = decode(format, example_blocks(format, golden.halves, 3));
    const auto block = static_cast<std::size_t>(format.block);
    CHECK(weights.front() == golden.first);
    CHECK(weights[block - 1] == golden.last);
    CHECK(weights[block + 17] == golden.other);
    CHECK(hash(weights) == golden.hash);
  }
}

TEST_CASE("plain floats keep every bit", "[store][block_format]") {
  std::vector<std::uint8_t> f16, bf16, f32;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    append(f16, static_cast<std::uint16_t>(i));
    append(bf16, static_cast<std::uint16_t>(i));
    append(f32, i * 65537u);
  }
  const std::vector<float> from_f16 = decode(*block_format_named("F16"), f16);
  const std::vector<float> from_bf16 = decode(*block_format_named("BF16"), bf16);
  const std::vector<float> from_f32 = decode(*block_format_named("F32"), f32);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float half = static_cast<float>(higgs::Half::from_bits(bits));
    REQUIRE(std::bit_cast<std::uint32_t>(from_f16[i]) == std::bit_cast<std::uint32_t>(half));
    REQUIRE(std::bit_cast<std::uint32_t>(from_bf16[i]) == i << 16);
    REQUIRE(std::bit_cast<std::uint32_t>(from_f32[i]) == i * 65537u);
  }
}

TEST_CASE("doubles round to the nearest float", "[store][block_format]") {
  std::vector<std::uint8_t> in;
  for (const double value : {0.1, -1e-50, 0x1.0000011p0}) append(in, value);
  CHECK(decode(*block_format_named("F64"), in) == std::vector<float>{0.1f, -0.0f, 0x1.000002p0f});
}

TEST_CASE("every 8-bit float is what its sign, exponent and mantissa say", "[store][block_format]") {
  std::vector<std::uint8_t> all;
  for (int code = 0; code < 256; ++code) all.push_back(static_cast<std::uint8_t>(code));
  const auto check = [&](const std::vector<float>& values, int mantissa_bits, int bias, int first_nan,
                         int infinity) {
    for (int code = 0; code < 256; ++code) {
      INFO(code);
      const float value = values[static_cast<std::size_t>(code)];
      const int magnitude = code & 127, exponent = magnitude >> mantissa_bits;
      CHECK(std::signbit(value) == (code >= 128));
      CHECK(std::isnan(value) == (magnitude >= first_nan));
      CHECK(std::isinf(value) == (magnitude == infinity));
      if (magnitude >= first_nan || magnitude == infinity) continue;
      const int mantissa = magnitude - (exponent << mantissa_bits) + (exponent > 0 ? 1 << mantissa_bits : 0);
      const int power = std::max(exponent, 1) - bias - mantissa_bits;
      CHECK(std::fabs(value) == std::ldexp(static_cast<float>(mantissa), power));
    }
  };
  check(decode(*block_format_named("F8_E4M3"), all), 3, 7, 0x7f, -1);
  check(decode(*block_format_named("F8_E5M2"), all), 2, 15, 0x7d, 0x7c);
  const std::vector<float> powers = decode(higgs::detail::f8_e8m0_format, all);
  for (int code = 0; code < 255; ++code)
    CHECK(powers[static_cast<std::size_t>(code)] == std::ldexp(1.0f, code - 127));
  CHECK(std::isnan(powers[255]));
  CHECK(block_format_named("F8_E8M0") == nullptr);  // holds scales, no weights
}

TEST_CASE("a block of MXFP4 has every exponent from the subnormal ones on", "[store][block_format]") {
  const float levels[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int code = 0; code < 256; ++code) {
    std::vector<std::uint8_t> in{static_cast<std::uint8_t>(code)};
    for (int i = 0; i < 16; ++i) in.push_back(static_cast<std::uint8_t>(i | (15 - i) << 4));
    const std::vector<float> weights = decode(*block_format_named("MXFP4"), in);
    for (std::size_t i = 0; i < 16; ++i) {
      const float expected = std::ldexp(levels[i % 8], code - 127) * (i < 8 ? 1.0f : -1.0f);
      CHECK(weights[i] == expected);
      CHECK(weights[31 - i] == expected);
    }
  }
}

TEST_CASE("a block of Q2_K has a scale and a minimum for each 16 weights", "[store][block_format]") {
  std::vector<std::uint8_t> in;
  for (int group = 0; group < 16; ++group) in.push_back(static_cast<std::uint8_t>(group | (15 - group) << 4));
  for (int i = 0; i < 64; ++i) in.push_back(0xe4);  // 0, 1, 2, 3 from the lowest pair on
  append(in, higgs::Half(0.5f).bits);
  append(in, higgs::Half(2.0f).bits);
  const std::vector<float> weights = decode(*block_format_named("Q2_K"), in);
  for (int w = 0; w < 256; ++w) {
    const float q = static_cast<float>(w / 32 % 4), scale = static_cast<float>(w / 16);
    CHECK(weights[static_cast<std::size_t>(w)] == 0.5f * scale * q - 2 * (15 - scale));
  }
}

TEST_CASE("a block of Q3_K finds each scale and each third bit", "[store][block_format]") {
  for (int wanted = 0; wanted < 16; ++wanted) {  // one scale is 37 - 32, the others are 0 - 32
    std::vector<std::uint8_t> in(110);
    const auto at = [&](int i) -> std::uint8_t& { return in[static_cast<std::size_t>(i)]; };
    for (int i = 0; i < 32; ++i) at(i) = 0x0f;  // quarters 0 to 3 are 0, the others -4
    at(96 + wanted % 8) = static_cast<std::uint8_t>(5 << wanted / 8 * 4);
    at(104 + wanted % 4) = static_cast<std::uint8_t>(2 << wanted / 4 * 2);
    at(109) = 0x3c;  // 1.0
    const std::vector<float> weights = decode(*block_format_named("Q3_K"), in);
    for (int w = 0; w < 256; ++w) {
      const float scale = w / 16 == wanted ? 5.0f : -32.0f;
      CHECK(weights[static_cast<std::size_t>(w)] == scale * (w < 128 ? 0.0f : -4.0f));
    }
  }
}

TEST_CASE("a block of Q4_0 has its low nibbles first", "[store][block_format]") {
  std::vector<std::uint8_t> in;
  append(in, higgs::Half(0.5f).bits);
  for (int i = 0; i < 16; ++i) in.push_back(static_cast<std::uint8_t>(i | (15 - i) << 4));
  const std::vector<float> weights = decode(*block_format_named("Q4_0"), in);
  for (int i = 0; i < 16; ++i) {
    CHECK(weights[static_cast<std::size_t>(i)] == 0.5f * static_cast<float>(i - 8));
    CHECK(weights[static_cast<std::size_t>(16 + i)] == 0.5f * static_cast<float>(7 - i));
  }
}

TEST_CASE("decoding does not depend on where a block lies or how many there are", "[store][block_format]") {
  for (const BlockFormat& format : higgs::detail::block_formats) {
    if (!format.decode) continue;
    INFO(format.name);
    std::vector<std::uint8_t> in =
        example_blocks(format, {}, 4);  // fp16 infinities and NaNs among the scales
    const std::vector<float> whole = decode(format, in);
    in.insert(in.begin(), 0);
    for (int block = 0; block < 4; ++block) {
      std::vector<float> one(static_cast<std::size_t>(format.block));
      format.decode(in.data() + 1 + block * format.bytes, 1, one.data());
      CHECK(std::memcmp(one.data(), whole.data() + block * format.block, one.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("a format is found by its name alone", "[store][block_format]") {
  CHECK(block_format_named("Q4_K")->row_bytes(512) == 288);
  CHECK(block_format_named("I32")->decode == nullptr);
  CHECK(block_format_named("IQ2_XXS")->decode == nullptr);
  CHECK(block_format_named("q4_k") == nullptr);
  CHECK(block_format_named("") == nullptr);
}

TEST_CASE("any tensor is a matrix", "[store][block_format]") {
  CHECK(higgs::matrix_rows({}) == 1);
  CHECK(higgs::matrix_cols({}) == 1);
  CHECK(higgs::matrix_rows({5}) == 1);
  CHECK(higgs::matrix_cols({5}) == 5);
  CHECK(higgs::matrix_rows({2, 3, 4}) == 6);
  CHECK(higgs::matrix_cols({2, 3, 4}) == 4);
}
