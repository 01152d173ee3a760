// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/reference.hpp>
#include <higgs/quantizer.hpp>

#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "matrices.hpp"

using higgs::Isa;
using higgs::MatrixView;

namespace {
std::atomic<std::int64_t> allocations = 0;
}  // namespace

// AddressSanitizer wants memory freed by what allocated it, and libraries keep its own: there the count stays 0.
#if defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    define HIGGS_TEST_SANITIZED
#  endif
#elif defined(__SANITIZE_ADDRESS__)
#  define HIGGS_TEST_SANITIZED
#endif
#if !defined(HIGGS_TEST_SANITIZED)
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  ++allocations;
  const auto align = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(align, (size + align - 1) / align * align)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
#endif

namespace {

// RMS difference of a product to the definition, in units of what products of N(0, 1) numbers measure: sqrt(cols).
template <class T, class Book>
double relative_error(MatrixView<const T> x, const higgs::QuantizedMatrix<Book>& w,
                      MatrixView<const float> y) {
  std::vector<double> exact(static_cast<std::size_t>(x.rows * w.rows()));
  higgs::matmul_reference(x, w, MatrixView<double>(exact.data(), x.rows, w.rows()));
  double error = 0;
  for (std::int64_t i = 0; i < y.rows; ++i)
    for (std::int64_t j = 0; j < y.cols; ++j)
      error += std::pow(static_cast<double>(y(i, j)) - exact[static_cast<std::size_t>(i * w.rows() + j)], 2);
  return std::sqrt(error / static_cast<double>(y.size() * x.cols));
}

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

}  // namespace

TEST_CASE("the product equals the reference for every codebook, edge shape and instruction set",
          "[matmul][matmul]") {
  for_each_book(higgs::ShippedCodebooks{}, [](const auto& book) {
    for (const std::int64_t cols : {1, 33, 577})
      for (const std::int64_t rows : {1, 129}) {  // the last with input scales
        const Normals w(rows, cols, 1);
        const auto quantized = higgs::quantize(w.view, book, {.group = 96});
        for (const std::int64_t batch : {1, 3, 9}) {
          const Normals x(batch, cols, 2);
          std::vector<float> y(static_cast<std::size_t>(batch * rows));
          const MatrixView<float> out(y.data(), batch, rows);
          for (const Isa isa : {Isa::Portable, Isa::Avx2, Isa::Avx512}) {
            if (isa > higgs::best_isa()) continue;
            higgs::matmul(x.view, quantized, out, {}, higgs::default_executor(), isa);
            INFO(book.name() << " " << batch << " x " << cols << " x " << rows);
            REQUIRE(relative_error<float>(x.view, quantized, out) < 1e-6);  // float sums of 1536 terms
          }
        }
      }
  });
}

// Rounding activations to steps of their runs moves a product by at most half a step for each weight. The rest is float:
// rotation, and one sum for each run.
TEST_CASE("a tiled product is as near as its activations' steps, for every codebook and edge shape",
          "[matmul][matmul]") {
  constexpr std::int64_t batch = 9;
  for_each_book(higgs::ShippedCodebooks{}, [](const auto& book) {
    for (const auto& [cols, rows, group] :
         {std::array<std::int64_t, 3>{1, 1, 1}, {5, 3, 5}, {100, 129, 30}, {577, 19, 96}, {1030, 7, 1024}}) {
      const Normals w(rows, cols, 1), x(batch, cols, 2);
      const auto quantized = higgs::quantize(w.view, book, {.group = group});
      const higgs::TiledMatrix tiled(quantized, higgs::default_executor(), higgs::TileOrder::Codes),
          coordinates(quantized, higgs::default_executor(), higgs::TileOrder::Coordinates);
      const std::int64_t padded = quantized.layout.padded_cols(), g = quantized.layout.group;
      std::vector<double> exact(static_cast<std::size_t>(batch * rows));
      higgs::matmul_reference(MatrixView<const float>(x.view), quantized,
                              MatrixView<double>(exact.data(), batch, rows));
      for (const auto kind : {higgs::Activations::Int16, higgs::Activations::Int8}) {
        INFO(book.name() << " " << cols << " x " << rows << ", group " << g);
        std::vector<float> first(exact.size()), y(exact.size());
        higgs::matmul(x.view, tiled, MatrixView<float>(first.data(), batch, rows), {},
                      higgs::default_executor(), {.activations = kind, .isa = Isa::Portable});
        for (const Isa isa : {Isa::Avx2, Isa::Avx512})
          for (const std::int64_t few : {1, 2, 3, 9}) {
            if (isa > higgs::best_isa()) continue;
            higgs::matmul(x.view.row_range(0, few), tiled, MatrixView<float>(y.data(), few, rows), {},
                          higgs::default_executor(), {.activations = kind, .isa = isa});
            REQUIRE(std::memcmp(y.data(), first.data(),
                                static_cast<std::size_t>(few * rows) * sizeof(float)) == 0);
          }
        higgs::matmul(x.view, coordinates, MatrixView<float>(y.data(), batch, rows), {},
                      higgs::default_executor(), {.activations = kind});
        REQUIRE(y == first);

        const std::int64_t run = kind == higgs::Activations::Int16 ? 512 : 64;
        const double limit = kind == higgs::Activations::Int16 ? 32639.0 : 127.0;
        std::vector<float> rotated(static_cast<std::size_t>(padded)), weights(rotated.size());
        std::vector<typename std::remove_cvref_t<decltype(book)>::Index> codes;
        const higgs::PointTable points(quantized.book);
        for (std::int64_t m = 0; m < batch; ++m) {
          std::fill(rotated.begin(), rotated.end(), 0.0f);
          std::copy_n(x.view.row(m), cols, rotated.begin());
          for (std::size_t k = 0; k < quantized.input_scales.size(); ++k)
            rotated[k] *= static_cast<float>(quantized.input_scales[k]);
          higgs::rotate_row(rotated, quantized.layout.block, quantized.seed);
          for (std::int64_t n = 0; n < rows; ++n) {
            higgs::decode_groups(quantized, points, n, 0, quantized.layout.groups(), weights, codes);
            double bound = 0, magnitude = 0;
            for (std::int64_t begin = 0, end = 0; begin < padded; begin = end) {
              end = std::min(begin + run, (begin / g + 1) * g);
              double peak = 0, sum = 0;
              for (std::int64_t i = begin; i < end; ++i) {
                const auto at = static_cast<std::size_t>(i);
                peak = std::max(peak, std::fabs(double{rotated[at]}));
                sum += std::fabs(double{weights[at]});
                magnitude += std::fabs(double{weights[at]} * double{rotated[at]});
              }
              bound += 0.505 * peak / limit * sum;  // 0.5, and the roundings of q * step
            }
            const auto at = static_cast<std::size_t>(m * rows + n);
            // Floats: 11 stages of rotation, the weights, and the sums of at most 20 runs.
            REQUIRE(std::fabs(double{first[at]} - exact[at]) <= bound + 40 * 0x1p-24 * magnitude);
          }
        }
      }
    }
  });
}

TEST_CASE("a tiled product errs by 1e-4 of its RMS, with 8-bit activations by 6e-3", "[matmul][matmul]") {
  const Normals w(64, 4096, 1), x(4, 4096, 2);
  const auto quantized = higgs::Quantizer<2, 256>{}.quantize(w.view);
  const higgs::TiledMatrix tiled(quantized);
  std::vector<float> y(4 * 64);
  const MatrixView<float> out(y.data(), 4, 64);
  higgs::matmul(x.view, tiled, out);
  CHECK(relative_error<float>(x.view, quantized, out) < 1e-4);
  higgs::matmul(x.view, tiled, out, {}, higgs::default_executor(), {.activations = higgs::Activations::Int8});
  CHECK(relative_error<float>(x.view, quantized, out) < 6e-3);
}

TEST_CASE("a tiled product's bits depend on threads no more than on the batch, of any size",
          "[matmul][matmul]") {
  const Normals w(130, 576, 3), x(250, 576, 4);
  const higgs::TiledMatrix tiled(higgs::Quantizer<2, 64>{}.quantize(w.view));
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  for (const auto kind : {higgs::Activations::Int16, higgs::Activations::Int8}) {
    std::vector<float> whole(250 * 130), part(250 * 130);
    higgs::matmul(x.view, tiled, MatrixView<float>(whole.data(), 250, 130), {}, pool, {.activations = kind});
    for (const std::int64_t rows : {1, 2, 3, 7, 11, 13}) {
      for (std::int64_t i = 0; i < 250; i += rows) {
        const std::int64_t count = std::min<std::int64_t>(rows, 250 - i);
        higgs::matmul(x.view.row_range(i, count), tiled, MatrixView<float>(part.data() + i * 130, count, 130),
                      {}, serial, {.activations = kind});
      }
      REQUIRE(std::memcmp(part.data(), whole.data(), whole.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("row shards give the bits of the whole, column shards add up to it", "[matmul][matmul]") {
  const Normals w(70, 448, 1), x(5, 448, 2);
  higgs::SerialExecutor serial;
  const auto check = [&](const auto& quantizer, std::int64_t cut) {
    const auto quantized = quantizer(w.view, higgs::QuantizeOptions{.block = 64, .group = 32});
    std::vector<float> whole(5 * 70), rows(whole.size()), cols(whole.size()), part(whole.size());
    const auto product = [&](MatrixView<const float> input, const higgs::TiledMatrix& tiled,
                             MatrixView<float> y) { higgs::matmul(input, tiled, y, {}, serial); };
    product(x.view, higgs::TiledMatrix(quantized), MatrixView<float>(whole.data(), 5, 70));
    const MatrixView<float> out(rows.data(), 5, 70);
    product(x.view, higgs::TiledMatrix(quantized, higgs::Shard{0, 33, 0, 448}), out.col_range(0, 33));
    product(x.view, higgs::TiledMatrix(quantized, higgs::Shard{33, 37, 0, 448}), out.col_range(33, 37));
    REQUIRE(rows == whole);
    for (const auto& [first, count] : {std::array{std::int64_t{0}, cut}, std::array{cut, 448 - cut}}) {
      product(x.view.col_range(first, count),
              higgs::TiledMatrix(quantized, higgs::Shard{0, 70, first, count}),
              MatrixView<float>(part.data(), 5, 70));
      for (std::size_t i = 0; i < part.size(); ++i) cols[i] += part[i];
    }
    for (std::size_t i = 0; i < whole.size(); ++i)  // one rounding of the shards' sum, of about sqrt(448)
      REQUIRE(std::fabs(cols[i] - whole[i]) <= 100 * 14 * 0x1p-24f);
  };
  check([](auto view, auto options) { return higgs::quantize(view, higgs::GridCodebook<2, 256>{}, options); },
        192);
  check([](auto view, auto options) { return higgs::quantize(view, higgs::GridCodebook<1, 8>{}, options); },
        64);
  const auto quantized = higgs::Quantizer<1, 16>{}.quantize(w.view);
  CHECK_THROWS_AS(higgs::TiledMatrix(quantized, higgs::Shard{0, 71, 0, 448}), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::TiledMatrix(quantized, higgs::Shard{0, 70, 1, 447}), higgs::InvalidArgument);
}

TEST_CASE("a caller's own thread pool runs a product", "[matmul][matmul]") {
  struct Backwards final : higgs::Executor {  // the oddest order there is
    int width() const noexcept override { return 2; }
    void run(std::int64_t count, higgs::TaskRef task) override {
      calls += count;
      for (std::int64_t i = count; i > 0; --i) task(i - 1);
    }
    std::int64_t calls = 0;
  } pool;
  const Normals w(70, 128, 1), x(5, 128, 2);
  const higgs::TiledMatrix tiled(higgs::Quantizer<2, 64>{}.quantize(w.view));
  std::vector<float> a(5 * 70), b(a.size());
  higgs::matmul(x.view, tiled, MatrixView<float>(a.data(), 5, 70), {}, pool);
  higgs::matmul(x.view, tiled, MatrixView<float>(b.data(), 5, 70));
  CHECK(a == b);
  CHECK(pool.calls >= 3);  // strips
}

TEST_CASE("after the first call a tiled product allocates nothing", "[matmul][matmul]") {
  const Normals w(100, 512, 5), x(20, 512, 6);
  const higgs::TiledMatrix tiled(higgs::Quantizer<2, 256>{}.quantize(w.view));
  higgs::ThreadPool pool(2);
  std::vector<float> y(20 * 100);
  const MatrixView<float> out(y.data(), 20, 100);
  higgs::matmul(x.view, tiled, out, {}, pool);
  const std::int64_t before = allocations;
  higgs::matmul(x.view, tiled, out, {}, pool);
  higgs::matmul(x.view.row_range(0, 1), tiled, out.row_range(0, 1), {}, pool);
  CHECK(allocations == before);
}

TEST_CASE("NaN and infinity reach the outputs of their row alone", "[matmul][matmul]") {
  const Normals w(40, 256, 7), x(3, 256, 8);
  const higgs::TiledMatrix tiled(higgs::Quantizer<2, 256>{}.quantize(w.view));
  x.view(1, 17) = std::numeric_limits<float>::infinity();
  std::vector<float> y(3 * 40);
  higgs::matmul(x.view, tiled, MatrixView<float>(y.data(), 3, 40));
  for (std::size_t i = 0; i < 40; ++i) {
    CHECK(std::isfinite(y[i]));
    CHECK(std::isnan(y[40 + i]));
    CHECK(std::isfinite(y[80 + i]));
  }
}

TEST_CASE("tiled: bias, 16-bit types, strides, empty batches, and shapes that do not meet",
          "[matmul][matmul]") {
  const Normals w(40, 128, 5);
  const higgs::TiledMatrix tiled(higgs::Quantizer<1, 16>{}.quantize(w.view));
  const Normals<higgs::Half> x(6, 128, 6);
  std::vector<float> plain(6 * 40), bias(40), wide(x.data.size());
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(x.data[i]);
  higgs::matmul(MatrixView<float>(wide.data(), 6, 128), tiled, MatrixView<float>(plain.data(), 6, 40));
  std::vector<float> transposed(6 * 40);
  higgs::matmul(x.view, tiled, MatrixView<float>(transposed.data(), 40, 6).transposed(), bias);
  std::vector<higgs::BFloat16> narrow(6 * 40);
  higgs::matmul(x.view, tiled, MatrixView<higgs::BFloat16>(narrow.data(), 6, 40));
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t j = 0; j < 40; ++j) {
      REQUIRE(transposed[j * 6 + i] == plain[i * 40 + j] + bias[j]);
      REQUIRE(narrow[i * 40 + j] == higgs::BFloat16(plain[i * 40 + j]));
    }

  const MatrixView<float> out(plain.data(), 6, 40);
  CHECK_NOTHROW(higgs::matmul(x.view.row_range(0, 0), tiled, out.row_range(0, 0)));
  CHECK_THROWS_AS(higgs::matmul(x.view.col_range(0, 127), tiled, out), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, tiled, out.transposed()), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, tiled, out, std::span<const float>(bias).first(39)),
                  higgs::InvalidArgument);
}

TEST_CASE("a row's bits depend neither on its batch nor on the number of threads", "[matmul][matmul]") {
  const Normals w(130, 576, 3), x(20, 576, 4);
  const auto quantized = higgs::Quantizer<2, 256>{}.quantize(w.view);
  higgs::SerialExecutor serial;
  higgs::ThreadPool pool(3);
  std::vector<float> whole(20 * 130), one(130);
  higgs::matmul(x.view, quantized, MatrixView<float>(whole.data(), 20, 130), {}, pool);
  for (std::int64_t i = 0; i < 20; ++i) {
    higgs::matmul(x.view.row_range(i, 1), quantized, MatrixView<float>(one.data(), 1, 130), {}, serial);
    REQUIRE(std::memcmp(one.data(), whole.data() + i * 130, sizeof(float) * 130) == 0);
  }
}

TEST_CASE("bias, 16-bit types and strides", "[matmul][matmul]") {
  const Normals w(40, 128, 5);
  const auto quantized = higgs::Quantizer<1, 16>{}.quantize(w.view);
  const Normals<higgs::Half> x(6, 128, 6);
  std::vector<float> plain(6 * 40), bias(40), wide(x.data.size());
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(x.data[i]);
  higgs::matmul(MatrixView<float>(wide.data(), 6, 128), quantized, MatrixView<float>(plain.data(), 6, 40));

  std::vector<float> transposed(6 * 40);
  higgs::matmul(x.view, quantized, MatrixView<float>(transposed.data(), 40, 6).transposed(), bias);
  std::vector<higgs::BFloat16> narrow(6 * 40);
  higgs::matmul(x.view, higgs::AnyQuantizedMatrix(quantized),
                MatrixView<higgs::BFloat16>(narrow.data(), 6, 40));
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t j = 0; j < 40; ++j) {
      REQUIRE(transposed[j * 6 + i] == plain[i * 40 + j] + bias[j]);
      REQUIRE(narrow[i * 40 + j] == higgs::BFloat16(plain[i * 40 + j]));
    }
}

TEST_CASE("an empty batch is a product too, and shapes that do not meet are refused", "[matmul][matmul]") {
  const Normals w(8, 64, 7), x(2, 64, 8);
  const auto quantized = higgs::Quantizer<2, 16>{}.quantize(w.view);
  std::vector<float> y(16), bias(7);
  CHECK_NOTHROW(higgs::matmul(x.view.row_range(0, 0), quantized, MatrixView<float>(y.data(), 0, 8)));
  const MatrixView<float> out(y.data(), 2, 8);
  CHECK_THROWS_AS(higgs::matmul(x.view.col_range(0, 63), quantized, out), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, quantized, out.transposed()), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, quantized, out, bias), higgs::InvalidArgument);
}
