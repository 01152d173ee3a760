// SPDX-License-Identifier: Apache-2.0
#include <higgs/codes/lattice/code.hpp>
#include <higgs/codes/registry.hpp>
#include <higgs/core/random.hpp>
#include <higgs/encode/nearest.cuh>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace gpu = higgs::gpu;

namespace {

// One thread for each batch of vectors; their codes, and the points that these name.
template <class Search>
__global__ void find_kernel(const std::uint32_t* words, Search search, const std::int32_t* y, int vectors,
                            std::uint32_t* codes, int* points) {
  const int first = static_cast<int>(threadIdx.x + blockIdx.x * blockDim.x) * Search::batch;
  if (first >= vectors) return;
  float fixed[Search::batch][Search::dim];
  std::uint32_t found[Search::batch] = {};
  for (int i = 0; i < Search::batch * Search::dim; ++i)
    fixed[i / Search::dim][i % Search::dim] = static_cast<float>(y[first * Search::dim + i]);
  search.find(words, fixed, found);
  for (int b = 0; b < Search::batch; ++b) {
    codes[first + b] = found[b];
    for (int d = 0; d < Search::dim; ++d)
      points[(first + b) * Search::dim + d] = search.coordinate(words, found[b], d);
  }
}

// One warp for each vector, whose lanes share the points; each lane's code.
template <class Search>
__global__ void __launch_bounds__(32)
    find_warp_kernel(const std::uint32_t* words, Search search, const std::int32_t* y, std::uint32_t* codes) {
  float fixed[Search::dim];
  for (int d = 0; d < Search::dim; ++d) fixed[d] = static_cast<float>(y[blockIdx.x * Search::dim + d]);
  codes[blockIdx.x * 32 + threadIdx.x] = search.find_warp(words, fixed);
}

template <class Book>
void check_equals_nearest(const Book& book, int vectors) {
  INFO(Book::name());
  using Search = typename gpu::DeviceSearchOf<Book>::Type;
  constexpr int dim = Book::dim;
  const auto count = static_cast<std::size_t>(vectors * dim);
  std::vector<std::int32_t> y(count);
  const std::int32_t limit = higgs::fixed_limit<Book>;
  for (std::size_t i = 0; i < count; ++i) {
    const auto v = static_cast<std::uint64_t>(i / static_cast<std::size_t>(dim));
    const double typical = higgs::random_normal(7, i) / book.step() * (1 << higgs::fraction_bits<Book>);
    switch (v % 4) {
      case 0:  // anywhere
        y[i] = static_cast<std::int32_t>(higgs::random_bits(8, i) % (2 * static_cast<unsigned>(limit) + 1)) -
               limit;
        break;
      case 1: {  // between two points: ties
        const auto point = [&](std::uint64_t salt) {
          const auto code = higgs::random_bits(salt, v) % static_cast<std::uint64_t>(Book::size);
          return book.decode(static_cast<typename Book::Index>(code))[i % static_cast<std::size_t>(dim)];
        };
        y[i] = (point(9) + point(10)) * (1 << (higgs::fraction_bits<Book> - 1));
        break;
      }
      default:
        y[i] = std::clamp(static_cast<std::int32_t>(typical), -limit, limit);
    }
  }
  const gpu::DeviceBuffer<std::uint32_t> words{std::span<const std::uint32_t>(Search::words(book))};
  const gpu::DeviceBuffer<std::int32_t> y_device{std::span<const std::int32_t>(y)};
  const gpu::DeviceBuffer<std::uint32_t> codes(static_cast<std::size_t>(vectors));
  const gpu::DeviceBuffer<int> points(count);
  const int threads = vectors / Search::batch;
  gpu::launch(find_kernel<Search>, dim3(static_cast<unsigned>(gpu::ceil_div(threads, 32))), 32, 0, nullptr,
              words.data(), Search{gpu::DeviceSearchOf<Book>::size}, y_device.data(), vectors, codes.data(),
              points.data());
  const gpu::DeviceBuffer<std::uint32_t> of_lanes(static_cast<std::size_t>(vectors) * 32);
  gpu::launch(find_warp_kernel<Search>, dim3(static_cast<unsigned>(vectors)), 32, 0, nullptr, words.data(),
              Search{gpu::DeviceSearchOf<Book>::size}, y_device.data(), of_lanes.data());
  gpu::check(cudaDeviceSynchronize(), "find_kernel");
  const std::vector<std::uint32_t> found_by_warps = of_lanes.to_host();
  const std::vector<std::uint32_t> found = codes.to_host();
  const std::vector<int> decoded = points.to_host();
  std::size_t wrong = 0;
  for (std::size_t v = 0; v < found.size(); ++v) {
    const std::span<const std::int32_t, static_cast<std::size_t>(dim)> at(
        y.data() + v * static_cast<std::size_t>(dim), static_cast<std::size_t>(dim));
    const auto code = higgs::nearest(book, at);
    const auto point = book.decode(code);
    wrong += found[v] != code;
    for (std::size_t lane = 0; lane < 32; ++lane) wrong += found_by_warps[32 * v + lane] != code;
    for (std::size_t d = 0; d < point.size(); ++d) wrong += decoded[v * point.size() + d] != point[d];
  }
  CHECK(wrong == 0);
}

// Codes that are chains have no nearest point.
template <class C>
void check_code() {
  if constexpr (higgs::Codebook<C>) check_equals_nearest(C{}, C::size > 4096 ? 64 : 256);
}
template <class... Codes>
void check_all(higgs::TypeList<Codes...>) {
  (check_code<Codes>(), ...);
}

}  // namespace

TEST_CASE("a thread and a warp find the nearest point of every codebook, the lowest of several",
          "[encode][nearest][gpu]") {
  check_all(higgs::ShippedCodes{});
  check_equals_nearest(higgs::GridCodebook<3, 512>{}, 128);
  check_equals_nearest(higgs::GridCodebook<8, 256>{}, 128);
  check_equals_nearest(higgs::UniformCodebook<3>{}, 256);
}

TEST_CASE("points on a line may come in any order, and twice", "[encode][nearest][gpu]") {
  using Book = higgs::GridCodebook<1, 5>;
  check_equals_nearest(Book({{{7}, {-20}, {7}, {100}, {0}}}, 0.05, 1.0), 256);
}
