// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/matmul.hpp>
#include <higgs/matmul/reference.hpp>
#include <higgs/rotate/hadamard.hpp>

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

#include "cpu/sets.hpp"
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

// Random codes in groups of at most `group` inputs, whole points where the block allows it.
template <class Book>
higgs::QuantizedMatrix<Book> random_codes(std::int64_t rows, std::int64_t cols, std::int64_t group = 1024) {
  const std::int64_t block = higgs::choose_block(cols);
  group = std::min(group, block);
  while (block % group != 0 || (group > Book::dim && group % Book::dim != 0)) --group;
  return random_matrix<Book>(rows, cols, block, group, 1, rows > 128);
}

// A product by its definition, and the weights that it is of.
struct Expected {
  template <class Book>
  Expected(MatrixView<float> x, const higgs::QuantizedMatrix<Book>& w)
      : products(static_cast<std::size_t>(x.rows * w.rows())),
        weights(static_cast<std::size_t>(w.rows() * w.layout.padded_cols())) {
    higgs::matmul_reference(x, w, MatrixView<double>(products.data(), x.rows, w.rows()));
    const higgs::GroupDecoder<Book> points(w.book);
    std::vector<higgs::SymbolOf<Book>> codes;
    const auto padded = static_cast<std::size_t>(w.layout.padded_cols());
    for (std::int64_t n = 0; n < w.rows(); ++n)
      higgs::decode_groups(w, points, n, 0, w.layout.groups(),
                           std::span(weights).subspan(static_cast<std::size_t>(n) * padded, padded), codes);
  }
  // RMS error of y, in units of what products with N(0, 1) numbers measure: the norm of the weights.
  double relative_error(const std::vector<float>& y, std::int64_t batch) const {
    double error = 0, norm = 1e-30;
    for (std::size_t i = 0; i < y.size(); ++i) error += std::pow(double{y[i]} - products[i], 2);
    for (const float each : weights) norm += double{each} * double{each};
    return std::sqrt(error / (static_cast<double>(batch) * norm));
  }
  std::vector<double> products;  // (batch, rows)
  std::vector<float> weights;    // (rows, padded cols), rotated
};

template <class... Books>
void for_each_book(higgs::TypeList<Books...>, auto&& visit) {
  (visit(Books{}), ...);
}

}  // namespace

TEST_CASE("the product equals the reference for every codebook, edge shape and instruction set",
          "[matmul][matmul]") {
  for_each_book(higgs::ShippedCodes{}, [](const auto& book) {
    for (const std::int64_t cols : {1, 33, 577})
      for (const std::int64_t rows : {1, 129}) {  // the last with input scales
        const auto quantized = random_codes<std::remove_cvref_t<decltype(book)>>(rows, cols, 96);
        for (const std::int64_t batch : {1, 3, 9}) {
          const Normals x(batch, cols, 2);
          std::vector<float> y(static_cast<std::size_t>(batch * rows));
          const MatrixView<float> out(y.data(), batch, rows);
          const Expected expected(x.view, quantized);
          for (const Isa isa : all_isas()) {
            higgs::matmul(x.view, quantized, out, {}, higgs::default_executor(), isa);
            INFO(book.name() << " " << batch << " x " << cols << " x " << rows);
            REQUIRE(expected.relative_error(y, batch) < 1e-6);  // float sums of 1536 terms
          }
        }
      }
  });
}

namespace {

// Every kernel's product of x with `tiled` has the bits of the portable one, which is as near to the
// definition as the activations' steps allow: rounding to steps of their runs moves a product by at most half
// a step for each weight. The rest is float: rotation, and one sum for each run.
void check_tiled(MatrixView<float> x, const Expected& expected, std::span<const higgs::Half> input_scales,
                 const higgs::PackedMatrix& tiled, const higgs::PackedMatrix& coordinates,
                 higgs::Activations kind) {
  const std::int64_t batch = x.rows, rows = tiled.rows(), g = tiled.layout().group;
  const auto padded = static_cast<std::size_t>(tiled.layout().padded_cols());
  std::vector<float> first(expected.products.size()), y(first.size());
  const auto product = [&](std::int64_t few, const higgs::PackedMatrix& w, std::vector<float>& out, Isa isa) {
    higgs::matmul(x.row_range(0, few), w, MatrixView<float>(out.data(), few, rows), {},
                  higgs::default_executor(), {.activations = kind, .isa = isa});
  };
  product(batch, tiled, first, Isa::Portable);
  for (const Isa isa : all_isas())
    for (const std::int64_t few : {1, 2, 3, 9}) {
      product(few, tiled, y, isa);
      REQUIRE(std::memcmp(y.data(), first.data(), static_cast<std::size_t>(few * rows) * sizeof(float)) == 0);
    }
  product(batch, coordinates, y, higgs::best_isa());
  REQUIRE(y == first);

  const bool wide = kind == higgs::Activations::Int16;
  const std::size_t run = wide ? 512 : 64;
  const double limit = wide ? 32639.0 : 127.0;
  std::vector<float> rotated(padded);
  for (std::int64_t m = 0; m < batch; ++m) {
    std::fill(rotated.begin(), rotated.end(), 0.0f);
    std::copy_n(x.row(m), x.cols, rotated.begin());
    for (std::size_t k = 0; k < input_scales.size(); ++k) rotated[k] *= static_cast<float>(input_scales[k]);
    higgs::rotate_row(rotated, tiled.layout().block, tiled.seed());
    for (std::int64_t n = 0; n < rows; ++n) {
      const float* weights = expected.weights.data() + static_cast<std::size_t>(n) * padded;
      double bound = 0, magnitude = 0;
      for (std::size_t begin = 0, end = 0; begin < padded; begin = end) {
        end = std::min(begin + run, (begin / static_cast<std::size_t>(g) + 1) * static_cast<std::size_t>(g));
        double peak = 0, sum = 0;
        for (std::size_t i = begin; i < end; ++i) {
          peak = std::max(peak, std::fabs(double{rotated[i]}));
          sum += std::fabs(double{weights[i]});
          magnitude += std::fabs(double{weights[i]} * double{rotated[i]});
        }
        bound += 0.505 * peak / limit * sum;  // 0.5, and the roundings of q * step
      }
      const auto at = static_cast<std::size_t>(m * rows + n);
      // Floats: 11 stages of rotation, the weights, and the sums of at most 20 runs.
      REQUIRE(std::fabs(double{first[at]} - expected.products[at]) <= bound + 40 * 0x1p-24 * magnitude);
    }
  }
}

}  // namespace

TEST_CASE("a tiled product is as near as its activations' steps, for every codebook and edge shape",
          "[matmul][matmul]") {
  for_each_book(higgs::ShippedCodes{}, [](const auto& book) {
    for (const auto& [cols, rows, group] :
         {std::array<std::int64_t, 3>{1, 1, 1}, {5, 3, 5}, {100, 129, 30}, {577, 19, 96}, {1030, 7, 1024}}) {
      const Normals x(9, cols, 2);
      const auto w = random_codes<std::remove_cvref_t<decltype(book)>>(rows, cols, group);
      const Expected expected(x.view, w);
      const higgs::PackedMatrix tiled(w, higgs::default_executor(), higgs::PackedForm::Codes),
          coordinates(w, higgs::default_executor(), higgs::PackedForm::Coordinates);
      INFO(book.name() << " " << cols << " x " << rows << ", group " << w.layout.group);
      for (const auto kind : {higgs::Activations::Int16, higgs::Activations::Int8})
        check_tiled(x.view, expected, w.input_scales, tiled, coordinates, kind);
    }
  });
}

TEST_CASE("a tiled product errs by 1e-4 of its RMS, with 8-bit activations by 6e-3", "[matmul][matmul]") {
  constexpr std::int64_t batch = 32;
  const Normals x(batch, 4096, 2);
  const auto w = random_codes<higgs::GridCodebook<2, 256>>(100, 4096);
  const higgs::PackedMatrix tiled(w);
  const Expected expected(x.view, w);
  std::vector<float> y(batch * 100);
  const MatrixView<float> out(y.data(), batch, 100);
  higgs::matmul(x.view, tiled, out);
  CHECK(expected.relative_error(y, batch) < 1e-4);
  higgs::matmul(x.view, tiled, out, {}, higgs::default_executor(), {.activations = higgs::Activations::Int8});
  CHECK(expected.relative_error(y, batch) < 6e-3);
}

TEST_CASE("a tiled product's bits depend on threads no more than on the batch, of any size",
          "[matmul][matmul]") {
  const Normals x(250, 576, 4);
  const higgs::PackedMatrix tiled(random_codes<higgs::GridCodebook<2, 64>>(130, 576));
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
  const Normals x(5, 448, 2);
  higgs::SerialExecutor serial;
  const auto check = [&](const auto& quantized, std::int64_t cut) {
    std::vector<float> whole(5 * 70), rows(whole.size()), cols(whole.size()), part(whole.size());
    const auto product = [&](MatrixView<const float> input, const higgs::PackedMatrix& tiled,
                             MatrixView<float> y) { higgs::matmul(input, tiled, y, {}, serial); };
    product(x.view, higgs::PackedMatrix(quantized), MatrixView<float>(whole.data(), 5, 70));
    const MatrixView<float> out(rows.data(), 5, 70);
    product(x.view, higgs::PackedMatrix(quantized, higgs::Shard{0, 33, 0, 448}), out.col_range(0, 33));
    product(x.view, higgs::PackedMatrix(quantized, higgs::Shard{33, 37, 0, 448}), out.col_range(33, 37));
    REQUIRE(rows == whole);
    for (const auto& [first, count] : {std::array{std::int64_t{0}, cut}, std::array{cut, 448 - cut}}) {
      product(x.view.col_range(first, count),
              higgs::PackedMatrix(quantized, higgs::Shard{0, 70, first, count}),
              MatrixView<float>(part.data(), 5, 70));
      for (std::size_t i = 0; i < part.size(); ++i) cols[i] += part[i];
    }
    for (std::size_t i = 0; i < whole.size(); ++i)  // one rounding of the shards' sum, of about sqrt(448)
      REQUIRE(std::fabs(cols[i] - whole[i]) <= 100 * 14 * 0x1p-24f);
  };
  check(random_matrix<higgs::GridCodebook<2, 256>>(70, 448, 64, 32, 1), 192);
  check(random_matrix<higgs::GridCodebook<1, 8>>(70, 448, 64, 32, 1), 64);
  check(random_matrix<higgs::E8Codebook>(70, 448, 64, 32, 1), 128);
  const auto quantized = random_codes<higgs::GridCodebook<1, 16>>(70, 448);
  CHECK_THROWS_AS(higgs::PackedMatrix(quantized, higgs::Shard{0, 71, 0, 448}), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::PackedMatrix(quantized, higgs::Shard{0, 70, 1, 447}), higgs::InvalidArgument);
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
  const Normals x(5, 128, 2);
  const higgs::PackedMatrix tiled(random_codes<higgs::GridCodebook<2, 64>>(70, 128));
  std::vector<float> a(5 * 70), b(a.size());
  higgs::matmul(x.view, tiled, MatrixView<float>(a.data(), 5, 70), {}, pool);
  higgs::matmul(x.view, tiled, MatrixView<float>(b.data(), 5, 70));
  CHECK(a == b);
  CHECK(pool.calls >= 3);  // weight panels
}

TEST_CASE("with one row no thread gets more weight panels than an equal share, nor gaps of less than a MiB",
          "[matmul]") {
  for (const std::int64_t rows : {32, 576, 4096, 49152})
    for (const std::int64_t width : {1, 2, 3, 8, 96}) {
      const higgs::PackedLayout tiles{
          .rows = rows, .groups = 4, .group = 512, .step_bytes = 128, .step_inputs = 4};
      const std::int64_t grain = higgs::detail::panel_grain(tiles.panels(), tiles.bytes(), 1, width);
      CHECK(grain >= 1);
      CHECK(grain <= (tiles.panels() + width - 1) / width);
      const bool large = tiles.bytes() >= width << 20;
      CHECK((!large || grain * tiles.panel_bytes() >= 1 << 20));
      CHECK(higgs::detail::panel_grain(tiles.panels(), tiles.bytes(), 16, width) == 1);
    }
}

TEST_CASE("products of one x have the bits of single calls, and share the activations that are equal",
          "[matmul][matmul]") {
  struct Counting final : higgs::Executor {
    int width() const noexcept override { return 3; }
    void run(std::int64_t count, higgs::TaskRef task) override {
      ++loops;
      for (std::int64_t i = 0; i < count; ++i) task(i);
    }
    std::int64_t loops = 0;
  } pool;
  const auto matrix = [](auto book, std::int64_t rows, std::int64_t group, std::uint64_t seed, bool scales) {
    auto w = random_matrix<decltype(book)>(rows, 192, 64, group, 3, true);
    w.seed = seed;
    std::vector<higgs::Half> input_scales(w.input_scales.begin(), w.input_scales.end());
    if (!scales) input_scales[191] = higgs::Half(1.75f);
    w.input_scales = input_scales;
    return higgs::PackedMatrix(w);
  };
  const higgs::GridCodebook<2, 64> narrow;
  const higgs::GridCodebook<2, 256> wide;
  const std::vector<higgs::PackedMatrix> all{matrix(narrow, 70, 32, 1, true), matrix(narrow, 1, 32, 1, true),
                                             matrix(wide, 33, 32, 1, true),   matrix(wide, 40, 64, 1, true),
                                             matrix(wide, 40, 64, 2, true),   matrix(wide, 40, 64, 2, false)};
  const Normals x(200, 192, 2), bias(1, 70, 5);
  for (std::int64_t k = 0; k < 192; ++k) x.view(1, k) *= 1e30f;  // a row that is scaled down
  for (const higgs::Activations kind : {higgs::Activations::Int16, higgs::Activations::Int8})
    for (const Isa isa : all_isas())
      for (const std::int64_t batch : {1, 2, 9, 200}) {
        std::vector<std::vector<float>> single, together;
        std::vector<higgs::Product<float>> products;
        for (const higgs::PackedMatrix& w : all) {
          const auto size = static_cast<std::size_t>(batch * w.rows());
          const std::span<const float> added =
              w.rows() == 70 ? std::span<const float>(bias.data) : std::span<const float>();
          higgs::matmul(x.view.row_range(0, batch), w,
                        MatrixView<float>(single.emplace_back(size).data(), batch, w.rows()), added, pool,
                        {.activations = kind, .isa = isa});
          products.push_back(
              {&w, MatrixView<float>(together.emplace_back(size).data(), batch, w.rows()), added});
        }
        pool.loops = 0;
        higgs::matmul(x.view.row_range(0, batch), std::span<const higgs::Product<float>>(products), pool,
                      {.activations = kind, .isa = isa});
        CHECK(single == together);
        std::vector<float> last(70);  // rows of y are those of x, also beyond a block of rows
        higgs::matmul(x.view.row_range(batch - 1, 1), all[0], MatrixView<float>(last.data(), 1, 70),
                      std::span<const float>(bias.data), higgs::default_executor(),
                      {.activations = kind, .isa = isa});
        CHECK(std::equal(last.begin(), last.end(), together[0].end() - 70));
        std::int64_t runs = 1;  // of neighbours that share
        for (std::size_t i = 1; i < all.size(); ++i)
          runs += !higgs::detail::reads_same_activations(
              all[i - 1], all[i], std::min<std::int64_t>(batch, 192), {.activations = kind, .isa = isa});
        CHECK(runs >= 4);  // groups, seeds and input scales differ
        CHECK(
            higgs::detail::reads_same_activations(all[0], all[1], batch, {.activations = kind, .isa = isa}));
        if (batch <= 192) CHECK(pool.loops == 2 * runs);
      }
  const higgs::PackedMatrix empty;
  std::vector<float> y(40);
  const MatrixView<float> row(y.data(), 1, 40);
  for (const higgs::Product<float> wrong :
       {higgs::Product<float>{nullptr, row}, higgs::Product<float>{&empty, row},
        higgs::Product<float>{&all[0], row}, higgs::Product<float>{&all[3], row, std::span(bias.data)}}) {
    const std::array products{higgs::Product<float>{&all[3], row}, wrong};
    CHECK_THROWS_AS(higgs::matmul(x.view.row_range(0, 1), std::span<const higgs::Product<float>>(products)),
                    higgs::InvalidArgument);
  }
  higgs::matmul(x.view, std::span<const higgs::Product<float>>());  // nothing to do
}

TEST_CASE("after the first call a tiled product allocates nothing", "[matmul][matmul]") {
  const Normals x(20, 512, 6);
  const higgs::PackedMatrix tiled(random_codes<higgs::GridCodebook<2, 256>>(100, 512));
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
  const Normals x(3, 256, 8);
  const higgs::PackedMatrix tiled(random_codes<higgs::GridCodebook<2, 256>>(40, 256));
  x.view(1, 17) = std::numeric_limits<float>::infinity();
  std::vector<float> y(3 * 40);
  higgs::matmul(x.view, tiled, MatrixView<float>(y.data(), 3, 40));
  for (std::size_t i = 0; i < 40; ++i) {
    CHECK(std::isfinite(y[i]));
    CHECK(std::isnan(y[40 + i]));
    CHECK(std::isfinite(y[80 + i]));
  }
}

namespace {

// Checks a matrix with rows of x of many magnitudes: what is finite when exact comes out finite and right, whatever the
// path, and paths that promise it agree in every bit.
template <class Book>
void check_magnitudes(bool input_scales) {
  constexpr std::int64_t cols = 2048, rows = 40;
  const auto w = random_matrix<Book>(rows, cols, 1024, 512, 3, input_scales);
  const float magnitudes[] = {1e-38f, 1e-30f, 1e-20f, 1e-5f, 1,     1e5f,
                              1e17f,  1e20f,  1e30f,  1e35f, 1e37f, 3e38f};
  const auto batch = static_cast<std::int64_t>(2 * std::size(magnitudes));
  Normals x(batch, cols, 4);
  for (std::int64_t m = 0; m < batch; ++m)
    for (std::int64_t k = 0; k < cols; ++k) {
      const float size = magnitudes[m / 2];  // the same number throughout, then other signs
      x.view(m, k) = m % 2 == 0 ? size : std::copysign(size, x.view(m, k));
    }
  std::vector<double> exact(static_cast<std::size_t>(batch * rows));
  higgs::matmul_reference(x.view, w, MatrixView<double>(exact.data(), batch, rows));
  std::vector<float> y(exact.size()), first(exact.size());
  const MatrixView<float> out(y.data(), batch, rows);
  const auto check = [&](double tolerance) {
    for (std::int64_t m = 0; m < batch; ++m) {
      const double size = double{magnitudes[m / 2]};
      double squares = 0;
      for (std::int64_t n = 0; n < rows; ++n) {
        const double due = exact[static_cast<std::size_t>(m * rows + n)] / size;
        squares += due * due / rows;
      }
      for (std::int64_t n = 0; n < rows; ++n) {
        INFO(Book::name() << ", x of " << size << ", row " << m << ", output " << n);
        const double due = exact[static_cast<std::size_t>(m * rows + n)], got = double{out(m, n)};
        const double slack = tolerance * size * std::sqrt(squares);
        if (std::fabs(due) + slack > 3.4e38) {  // may pass the largest float
          REQUIRE(std::fabs(got) >= std::min(std::fabs(due) - slack, 3.4e38));
          continue;
        }
        REQUIRE(std::isfinite(got));
        if (size > 1e-25) REQUIRE(std::fabs(got - due) <= slack);
      }
    }
  };
  const higgs::PackedMatrix tiled(w);
  for (const auto kind : {higgs::Activations::Int16, higgs::Activations::Int8}) {
    for (const Isa isa : all_isas()) {
      higgs::matmul(x.view, tiled, out, {}, higgs::default_executor(), {kind, isa});
      if (isa == Isa::Portable) first = y;
      REQUIRE(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
    }
    check(kind == higgs::Activations::Int16 ? 1e-3 : 0.1);
    for (const std::int64_t m : {0, 13, 22, 23}) {  // alone as in the batch
      higgs::matmul(x.view.row_range(m, 1), tiled, out.row_range(m, 1), {}, higgs::default_executor(),
                    {kind});
      REQUIRE(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
    }
  }
  for (const Isa isa : all_isas()) {
    higgs::matmul(x.view, w, out, {}, higgs::default_executor(), isa);
    check(1e-4);
  }
  // bf16 reaches as far as float.
  Normals<higgs::BFloat16> narrow(1, cols, 4);
  for (higgs::BFloat16& value : narrow.data) value = higgs::BFloat16(3e38f);
  higgs::matmul(narrow.view, tiled, out.row_range(0, 1));
  for (std::int64_t n = 0; n < rows; ++n) REQUIRE_FALSE(std::isnan(out(0, n)));
}

}  // namespace

TEST_CASE("rows of any finite magnitude give finite products where the exact ones are", "[matmul][matmul]") {
  check_magnitudes<higgs::GridCodebook<2, 256>>(true);
  check_magnitudes<higgs::GridCodebook<1, 256>>(false);  // two planes
  check_magnitudes<higgs::E8Codebook>(true);
}

TEST_CASE("rows of huge numbers take their bias, and NaN and infinity are NaN among them too",
          "[matmul][matmul]") {
  const auto w = random_codes<higgs::GridCodebook<2, 256>>(40, 256);
  const higgs::PackedMatrix tiled(w);
  const Normals x(2, 256, 8);
  for (std::int64_t k = 0; k < 256; ++k) x.view(0, k) = x.view(1, k) = 1e30f;
  x.view(1, 3) = std::numeric_limits<float>::infinity();
  std::vector<float> plain(80), with(80), bias(40, 1e31f);
  const auto check = [&] {
    for (std::size_t i = 0; i < 40; ++i) {
      CHECK(with[i] == plain[i] + 1e31f);
      CHECK(std::isnan(with[40 + i]));
    }
  };
  higgs::matmul(x.view, tiled, MatrixView<float>(plain.data(), 2, 40));
  higgs::matmul(x.view, tiled, MatrixView<float>(with.data(), 2, 40), bias);
  check();
  higgs::matmul(x.view, w, MatrixView<float>(plain.data(), 2, 40));
  higgs::matmul(x.view, w, MatrixView<float>(with.data(), 2, 40), bias);
  check();
}

#if defined(__FLT16_MAX__) && (!defined(__clang__) || __clang_major__ >= 15)
TEST_CASE("the compiler's own 16-bit floats are taken as what they are", "[matmul][matmul]") {
  const Normals<higgs::Half> x(3, 128, 6);
  std::vector<_Float16> same(x.data.size()), y(3 * 40);
  std::memcpy(same.data(), x.data.data(), same.size() * 2);
  std::vector<higgs::Half> expected(y.size());
  const auto w = random_codes<higgs::GridCodebook<1, 16>>(40, 128);
  const MatrixView<const _Float16> in(same.data(), 3, 128);
  const auto check = [&](const auto& matrix) {
    higgs::matmul(x.view, matrix, MatrixView<higgs::Half>(expected.data(), 3, 40));
    higgs::matmul(in, matrix, MatrixView<_Float16>(y.data(), 3, 40));
    for (std::size_t i = 0; i < y.size(); ++i)
      REQUIRE(static_cast<float>(y[i]) == static_cast<float>(expected[i]));
  };
  check(higgs::PackedMatrix(w));
  check(w);
  check(higgs::AnyQuantizedMatrix(w));
}
#endif

TEST_CASE("tiled: bias, 16-bit types, strides, empty batches, and shapes that do not meet",
          "[matmul][matmul]") {
  const higgs::PackedMatrix tiled(random_codes<higgs::GridCodebook<1, 16>>(40, 128));
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
  const Normals x(20, 576, 4);
  const auto quantized = random_codes<higgs::GridCodebook<2, 256>>(130, 576);
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
  const auto quantized = random_codes<higgs::GridCodebook<1, 16>>(40, 128);
  const Normals<higgs::Half> x(6, 128, 6);
  std::vector<float> plain(6 * 40), bias(40), wide(x.data.size());
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(x.data[i]);
  higgs::matmul(MatrixView<float>(wide.data(), 6, 128), quantized, MatrixView<float>(plain.data(), 6, 40));

  std::vector<float> transposed(6 * 40);
  higgs::matmul(x.view, quantized, MatrixView<float>(transposed.data(), 40, 6).transposed(), bias);
  std::vector<higgs::BFloat16> narrow(6 * 40);
  higgs::matmul(x.view, quantized, MatrixView<higgs::BFloat16>(narrow.data(), 6, 40));
  std::vector<float> any(plain.size());
  higgs::matmul(MatrixView<float>(wide.data(), 6, 128), higgs::AnyQuantizedMatrix(quantized),
                MatrixView<float>(any.data(), 6, 40));
  CHECK(any == plain);
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t j = 0; j < 40; ++j) {
      REQUIRE(transposed[j * 6 + i] == plain[i * 40 + j] + bias[j]);
      REQUIRE(narrow[i * 40 + j] == higgs::BFloat16(plain[i * 40 + j]));
    }
}

TEST_CASE("an empty batch is a product too, and shapes that do not meet are refused", "[matmul][matmul]") {
  const Normals x(2, 64, 8);
  const auto quantized = random_codes<higgs::GridCodebook<2, 16>>(8, 64);
  std::vector<float> y(16), bias(7);
  CHECK_NOTHROW(higgs::matmul(x.view.row_range(0, 0), quantized, MatrixView<float>(y.data(), 0, 8)));
  const MatrixView<float> out(y.data(), 2, 8);
  CHECK_THROWS_AS(higgs::matmul(x.view.col_range(0, 63), quantized, out), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, quantized, out.transposed()), higgs::InvalidArgument);
  CHECK_THROWS_AS(higgs::matmul(x.view, quantized, out, bias), higgs::InvalidArgument);
}

TEST_CASE("a product with an empty matrix, null data or sizes that do not meet says which and how large",
          "[matmul][matmul]") {
  using Catch::Contains;
  const Normals x(3, 128, 2);
  const auto quantized = random_matrix<higgs::GridCodebook<2, 256>>(40, 128, 128, 64, 1);
  higgs::PackedMatrix tiled(quantized);
  std::vector<float> y(3 * 40);
  const MatrixView<float> out(y.data(), 3, 40);
  CHECK_THROWS_WITH(higgs::matmul(x.view.col_range(0, 127), tiled, out),
                    Contains("x is (3, 127), but w has 128 columns"));
  CHECK_THROWS_WITH(higgs::matmul(x.view, quantized, out.transposed()), Contains("y is (40, 3)"));
  CHECK_THROWS_WITH(higgs::matmul(MatrixView<float>(nullptr, 3, 128), tiled, out), Contains("x is (3, 128)"));
  CHECK_THROWS_WITH(higgs::matmul(x.view, tiled, MatrixView<float>(nullptr, 3, 40)),
                    Contains("y is (3, 40)"));
  CHECK_THROWS_WITH(higgs::dequantize(quantized, out), Contains("out is (3, 40), but w is (40, 128)"));
  const higgs::PackedMatrix moved = std::move(tiled);
  CHECK_THROWS_WITH(higgs::matmul(x.view, tiled, out), Contains("w is empty"));
  CHECK_THROWS_WITH(higgs::matmul(x.view.col_range(0, 0), higgs::PackedMatrix(), out.col_range(0, 0)),
                    Contains("w is empty"));
  CHECK_THROWS_WITH(higgs::matmul(x.view, higgs::AnyQuantizedMatrix(), out), Contains("w is empty"));
  CHECK_NOTHROW(higgs::matmul(x.view, moved, out));
}
