// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/packed_matrix.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "matrices.hpp"

TEST_CASE("a packed matrix keeps its shape, its seed and its size, and copies share the bytes",
          "[matmul][packed_matrix]") {
  const Normals w(70, 300, 1);
  const auto quantized = higgs::Quantizer<2, 64>{}.quantize(w.view);
  const higgs::PackedMatrix packed{higgs::AnyQuantizedMatrix(quantized)};
  CHECK(packed.rows() == 70);
  CHECK(packed.cols() == 300);
  CHECK(packed.seed() == quantized.seed);
  CHECK(packed.exponent() == quantized.exponent);
  CHECK(packed.bytes().size() == static_cast<std::size_t>(packed.packed().bytes()));
  const higgs::PackedMatrix copy = packed;
  CHECK(copy.bytes().data() == packed.bytes().data());
}

TEST_CASE("a packed matrix may be made empty, and is empty once it was moved from",
          "[matmul][packed_matrix]") {
  struct Layer {
    higgs::PackedMatrix q, k;
  };
  std::vector<Layer> layers(3);
  const auto empty = [](const higgs::PackedMatrix& w) {
    return w.rows() == 0 && w.cols() == 0 && w.bytes().empty() && w.input_scales().empty() && !w.seed() &&
           w.first_col() == 0 && w.exponent() == 0;
  };
  CHECK(empty(layers[2].k));
  CHECK(empty(higgs::PackedMatrix(higgs::AnyQuantizedMatrix{})));
  const Normals w(130, 256, 1);
  const auto quantized = higgs::quantize(w.view, "2x256", {.block = 128});
  layers[0].q = higgs::PackedMatrix(quantized, higgs::Shard{0, 130, 128, 128});
  const auto bytes = layers[0].q.bytes();
  layers[1].q = std::move(layers[0].q);
  CHECK(empty(layers[0].q));
  higgs::PackedMatrix last = std::move(layers[1].q);
  CHECK(empty(layers[1].q));
  CHECK(last.rows() == 130);
  CHECK(last.first_col() == 128);
  CHECK(last.bytes().data() == bytes.data());
  auto& self = last;
  last = std::move(self);
  CHECK(last.rows() == 130);
}

TEST_CASE("a matrix whose spans are not those of its layout is refused", "[matmul][packed_matrix]") {
  auto w = random_matrix<higgs::GridCodebook<2, 256>>(3, 64, 64, 32, 1);
  w.codes = w.codes.first(5);
  CHECK_THROWS_WITH(higgs::PackedMatrix(w),
                    Catch::Contains("5 bytes") && Catch::Contains("96") && Catch::Contains("6 scales"));
}
