// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/formats.cuh>
#include <higgs/codes/grid/tables/2x1024.hpp>
#include <higgs/matmul/matmul.cuh>

#include <catch2/catch.hpp>

#include <type_traits>
#include <vector>

#include "codes/toy_code.hpp"
#include "matmul/device_matrices.cuh"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

// A code of neighbouring symbols without a format of its own.
struct PlainToyCode : ToyCode {};

template <class Code, class Format>
constexpr bool is_in = std::is_same_v<typename gpu::FormatOf<Code>::type, Format>;

static_assert(is_in<GridCodebook<4, 256>, gpu::TableFormat<2>> &&
              is_in<GridCodebook<1, 4>, gpu::TableFormat<2>>);
static_assert(is_in<GridCodebook<2, 64>, gpu::TableFormat<3>> &&
              is_in<GridCodebook<1, 8>, gpu::TableFormat<3>>);
static_assert(is_in<GridCodebook<2, 256>, gpu::TableFormat<4>>);
static_assert(is_in<GridCodebook<1, 256>, gpu::TableFormat<8>>);
static_assert(is_in<higgs::E8Codebook, gpu::E8Format>);
static_assert(is_in<higgs::WindowCode<8>, gpu::WindowFormat<8>> &&
              is_in<higgs::WindowCode<5>, gpu::WindowFormat<5>> &&
              is_in<higgs::WindowCode<3>, gpu::WindowFormat<5>> &&
              is_in<higgs::WindowCode<2>, gpu::WindowFormat<4>>);
// 2 bits in three dimensions: three symbols do not fill a byte; 5 bits; 12 bits a symbol.
static_assert(gpu::FormatOf<GridCodebook<3, 64>>::stores_coordinates);
static_assert(gpu::FormatOf<GridCodebook<2, 1024>>::stores_coordinates);
static_assert(gpu::FormatOf<GridCodebook<4, 4096>>::stores_coordinates);
static_assert(!gpu::FormatOf<GridCodebook<2, 256>>::stores_coordinates);
static_assert(gpu::FormatOf<higgs::WindowCode<9>>::stores_coordinates);

template <class Code>
void check_stored_coordinates(std::int64_t rows, std::int64_t cols, std::int64_t block, std::int64_t group) {
  INFO(Code::name());
  const auto w = random_matrix<Code>(rows, cols, block, group, 5, true);
  const Normals<Half> x(3, cols, 6);
  std::vector<double> exact(static_cast<std::size_t>(3 * rows));
  higgs::matmul_reference(higgs::MatrixView<const Half>(x.view), w,
                          higgs::MatrixView<double>(exact.data(), 3, rows));
  const gpu::PackedMatrix device(w);
  const auto y = device_product<float, gpu::MatmulFormats<gpu::TableFormat<8>>>(
      device.view(), x, gpu::plan_matmul(device.view().layout, gpu::current_device()));
  CHECK(relative_error(y, exact) < 3e-4);
}

}  // namespace

TEST_CASE("codes without a format of their own are multiplied as coordinates", "[codes][formats][gpu]") {
  check_stored_coordinates<GridCodebook<3, 64>>(70, 130, 64, 64);
  check_stored_coordinates<GridCodebook<3, 64>>(5, 300, 60,
                                                20);  // a symbol cut short at the end of each group
  check_stored_coordinates<GridCodebook<2, 1024>>(64, 128, 128, 128);
  check_stored_coordinates<PlainToyCode>(70, 130, 64, 64);
}

TEST_CASE("a format without a compiled kernel is refused by name", "[codes][formats][gpu]") {
  const gpu::PackedLayout layout = gpu::packed_layout<gpu::TableFormat<3>>(1, 3, 64, 1, 64);
  int calls = 0;
  gpu::with_format("f", layout, gpu::AnyFormat{}, [&]<class Format>(Format) { calls += Format::loads; });
  CHECK(calls == 3);
  CHECK_THROWS_WITH(gpu::with_format("f", layout, gpu::MatmulFormats<gpu::TableFormat<4>>{}, [](auto) {}),
                    Catch::Contains("f: no kernel was compiled for the format of w"));
}
