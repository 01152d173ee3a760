// SPDX-License-Identifier: Apache-2.0
#include <higgs/core/code.hpp>
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/reference.hpp>
#include <higgs/quantizer.hpp>
#include <higgs/store/checkpoint.hpp>
#include <higgs/store/checkpoint_writer.hpp>
#include <higgs/store/shard.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <type_traits>
#include <vector>

#include "codes/toy_code.hpp"
#include "cpu/sets.hpp"
#include "matmul/matrices.hpp"

namespace {

// A toy code that leaves its packed format to the library.
struct PlainToyCode : ToyCode {
  using PackedFormat = higgs::cpu::CoordinateBytes;
};

// y by every instruction set, for a few numbers of rows of x.
template <class C>
void check_product(const higgs::QuantizedMatrix<C>& w) {
  const higgs::PackedMatrix packed(w);
  for (const std::int64_t batch : {1, 2, 5, 20}) {
    const Normals x(batch, w.cols(), 3);
    std::vector<double> exact(static_cast<std::size_t>(batch * w.rows()));
    higgs::matmul_reference(x.view, w, higgs::MatrixView<double>(exact.data(), batch, w.rows()));
    std::vector<float> first(exact.size()), y(exact.size());
    higgs::matmul(x.view, packed, higgs::MatrixView<float>(first.data(), batch, w.rows()), {},
                  higgs::default_executor(), {.isa = higgs::Isa::Portable});
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < exact.size(); ++i) {
      error += (exact[i] - first[i]) * (exact[i] - first[i]);
      norm += exact[i] * exact[i];
    }
    CHECK(std::sqrt(error / norm) < 1e-4);  // 16-bit activations leave 3e-5
    for (const auto isa : all_isas()) {
      higgs::matmul(x.view, packed, higgs::MatrixView<float>(y.data(), batch, w.rows()), {},
                    higgs::default_executor(), {.isa = isa});
      CHECK(y == first);
    }
    higgs::matmul(x.view, w, higgs::MatrixView<float>(y.data(), batch, w.rows()));
    for (std::size_t i = 0; i < y.size(); ++i) REQUIRE(y[i] == Approx(exact[i]).margin(1e-3));
  }
}

}  // namespace

TEST_CASE("a symbol takes the whole bits that its code needs", "[core][code]") {
  STATIC_REQUIRE(higgs::code_bits<higgs::GridCodebook<2, 256>> == 8);
  STATIC_REQUIRE(higgs::code_bits<higgs::GridCodebook<2, 84>> == 7);
  STATIC_REQUIRE(higgs::code_bits<higgs::E8Codebook> == 16);
  STATIC_REQUIRE(higgs::code_bits<ToyCode> == 2);
  STATIC_REQUIRE(std::is_same_v<higgs::SymbolOf<ToyCode>, std::uint8_t>);
  STATIC_REQUIRE_FALSE(higgs::Code<int>);
}

TEST_CASE("a codebook decodes the symbols of a group one by one, the last one cut short", "[core][code]") {
  const higgs::GridCodebook<4, 256> book;
  const std::array<std::uint8_t, 2> symbols{17, 200};
  std::array<std::int8_t, 6> values{};
  higgs::decode_group(book, std::span<const std::uint8_t>(symbols), std::span<std::int8_t>(values));
  for (std::size_t i = 0; i < values.size(); ++i) CHECK(values[i] == book.decode(symbols[i / 4])[i % 4]);
}

TEMPLATE_TEST_CASE(
    "a code of neighbouring symbols quantizes, decodes and multiplies without a change to a kernel",
    "[core][code]", ToyCode, PlainToyCode) {
  const Normals w(70, 1280, 5);
  for (const std::int64_t group : {16, 256, 1024}) {
    const auto quantized = higgs::quantize(w.view, TestType{}, {.group = group});
    CHECK(quantized.t2 < 0.2);
    std::vector<float> back(70 * 1280);
    higgs::dequantize(quantized, higgs::MatrixView<float>(back.data(), 70, 1280));
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < back.size(); ++i) {
      error += std::pow(double{back[i]} - double{w.data[i]}, 2);
      norm += std::pow(double{w.data[i]}, 2);
    }
    CHECK(error / norm == Approx(quantized.weight_error).epsilon(1e-4));
    check_product(quantized);
  }
}

TEST_CASE("shards of a chain code are the columns of the whole", "[core][code]") {
  const Normals w(40, 512, 6);
  const auto quantized = higgs::quantize(w.view, ToyCode{}, {.block = 128, .group = 64});
  const higgs::Shard part{.first_row = 3, .rows = 20, .first_col = 128, .cols = 256};
  const higgs::ShardedMatrix<ToyCode> shard(quantized, part);
  check_product(shard.matrix);
  std::vector<std::uint8_t> whole(512), own(256);
  for (std::int64_t r = 0; r < part.rows; ++r) {
    higgs::unpack_bits(quantized.row_codes(part.first_row + r), 2, 0, std::span(whole));
    higgs::unpack_bits(shard.matrix.row_codes(r), 2, 0, std::span(own));
    REQUIRE(std::equal(own.begin(), own.end(), whole.begin() + part.first_col));
  }
}

TEST_CASE("a code that does not ship is stored beside others, and loaded by its type", "[core][code]") {
  const auto path = std::filesystem::temp_directory_path() / "higgs_toy_code.safetensors";
  const Normals w(130, 256, 7);
  const auto toy = higgs::quantize(w.view, ToyCode{});
  const auto grid = higgs::Quantizer<2, 256>{}.quantize(w.view);
  higgs::CheckpointContents contents;
  contents.add_layer("toy", toy, "F32");
  contents.add_layer("grid", grid, "F32");
  higgs::CheckpointWriter writer(path, std::move(contents));
  writer.write_layer("toy", toy);
  writer.write_layer("grid", grid);
  writer.commit();
  const auto checkpoint = higgs::Checkpoint::open(path);
  CHECK(checkpoint.load("grid").codebook() == "2x256");
  const auto loaded = checkpoint.load<ToyCode>("toy");
  CHECK(std::equal(loaded.codes.begin(), loaded.codes.end(), toy.codes.begin(), toy.codes.end()));
  CHECK(loaded.layout == toy.layout);
  check_product(loaded);
  CHECK_THROWS_WITH(checkpoint.load("toy"), Catch::Contains("toy"));
  std::filesystem::remove(path);
}
