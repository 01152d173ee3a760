// SPDX-License-Identifier: Apache-2.0
#include <higgs/matmul/grouped.cuh>
#include <higgs/matmul/routing.cuh>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "device_matrices.cuh"
#include "emulator/emulator.hpp"
#include "emulator/schedules.hpp"

using higgs::GridCodebook;
using higgs::Half;
namespace gpu = higgs::gpu;

namespace {

using Book = GridCodebook<2, 256>;
using Formats = gpu::MatmulFormats<gpu::TableFormat<4>>;
using Matrices = std::vector<higgs::QuantizedMatrix<Book>>;

/// Experts with signs, exponents and input scales of their own, every second one without input scales.
Matrices some_experts(int count, std::int64_t rows, std::int64_t cols, std::int64_t block = 64) {
  Matrices out;
  for (int e = 0; e < count; ++e) {
    out.push_back(random_matrix<Book>(rows, cols, block, 32, static_cast<std::uint64_t>(20 + e), e % 2 == 0));
    out.back().exponent = -e;
  }
  out.back().seed.reset();
  return out;
}

gpu::Experts upload(const Matrices& matrices) {
  return gpu::Experts{std::span<const higgs::QuantizedMatrix<Book>>(matrices)};
}

/// Rows of a product in host memory; empty vectors: none.
struct HostRows {
  std::vector<std::int32_t> offsets, x_rows, y_rows;
  std::vector<float> weights;
  std::int64_t count = -1;  // or the last offset
};

template <class Y>
struct HostOutput {
  std::vector<Y> y;  // what is there before, also the residual if `adds`
  std::int64_t cols;
  bool adds = false;
  std::vector<float> bias = {};
  bool gated = false;
};

/// How a test cuts the work: fewer tiles in ranges, smaller windows and fewer blocks than is best.
struct TestCut {
  std::int64_t split_tiles, window, blocks;
};

template <class Y>
std::vector<Y> grouped_product(const gpu::Experts& w, const Normals<Half>& x, const HostRows& rows,
                               const HostOutput<Y>& out, const gpu::MatmulPlan& plan,
                               std::optional<TestCut> other = {}) {
  const gpu::Device device = gpu::current_device();
  const auto upload_ids = [](const auto& ids) {
    return gpu::DeviceBuffer<std::int32_t>{std::span<const std::int32_t>(ids)};
  };
  const gpu::DeviceBuffer<Half> x_device{std::span<const Half>(x.data)};
  const auto offsets = upload_ids(rows.offsets), x_rows = upload_ids(rows.x_rows),
             y_rows = upload_ids(rows.y_rows);
  const gpu::DeviceBuffer<float> weights{std::span<const float>(rows.weights)},
      bias{std::span<const float>(out.bias)};
  const gpu::DeviceBuffer<Y> y{std::span<const Y>(out.y)};
  const gpu::ExpertRows device_rows{rows.count >= 0 ? rows.count : rows.offsets.back(), offsets.data(),
                                    x_rows.data(), y_rows.data(), weights.data()};
  const gpu::DenseView<const Half> x_view(x_device.data(), x.view.rows, x.view.cols);
  const gpu::DenseView<Y> y_view(y.data(), static_cast<std::int64_t>(out.y.size()) / out.cols, out.cols);
  const gpu::Epilogue<Y> epilogue{bias.data(), out.adds ? y.data() : nullptr, out.gated};
  if (!other) {
    const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(
        gpu::matmul_grouped_workspace(w, device_rows.count, plan, device));
    gpu::matmul_grouped_async<Formats>(x_view, w, device_rows, y_view, workspace.span(), plan, device,
                                       nullptr, epilogue);
    gpu::check(cudaDeviceSynchronize(), "grouped_product");
    const std::vector<std::byte> left = workspace.to_host();
    for (std::size_t i = 0; i < std::min(gpu::workspace_counters, left.size()); ++i)
      REQUIRE(left[i] == std::byte{0});  // ready for the next call
    return y.to_host();
  }
  gpu::detail::ExpertCut cut(w[0], w.size(), device_rows.count, plan, device);
  cut.split_tiles = other->split_tiles;
  cut.window = other->window;
  cut.blocks = other->blocks;
  cut.partial_sums =
      static_cast<std::size_t>(cut.blocks * cut.own_slots * cut.columns * plan.row_warps * 64 * 4);
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(cut.bytes());
  gpu::detail::multiply_experts<Formats, Half, Y, gpu::BuiltFor>(
      x_view, w, device_rows, y_view, workspace.data(), cut, plan, device, nullptr, epilogue);
  gpu::check(cudaDeviceSynchronize(), "grouped_product");
  return y.to_host();
}

/// Row i of the product by one call for each expert: (rows, outputs).
std::vector<float> products_one_by_one(const gpu::Experts& w, const Normals<Half>& x, const HostRows& rows,
                                       const gpu::MatmulPlan& plan) {
  std::vector<float> out;
  const std::int64_t cols = x.view.cols;
  for (int e = 0; e < w.size(); ++e) {
    const std::int64_t first = rows.offsets[static_cast<std::size_t>(e)],
                       count = rows.offsets[static_cast<std::size_t>(e + 1)] - first;
    if (count == 0) continue;
    Normals<Half> some(count, cols, 6);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t from =
          rows.x_rows.empty() ? first + i : rows.x_rows[static_cast<std::size_t>(first + i)];
      std::copy_n(x.data.begin() + from * cols, cols, some.data.begin() + i * cols);
    }
    const auto alone = device_product<float, Formats>(w[e], some, plan);
    out.insert(out.end(), alone.begin(), alone.end());
  }
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("experts with signs and input scales of their own give the bits of one call for each",
          "[matmul][grouped][gpu]") {
  const gpu::Experts experts = upload(some_experts(5, 150, 192));
  gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, gpu::current_device(), 5);
  const std::vector<std::int32_t> all_offsets[] = {{0, 0, 0, 1, 1, 1},
                                                   {0, 3, 3, 11, 12, 12},
                                                   {0, 20, 21, 21, 30, 47},
                                                   {0, 0, 0, 0, 0, 99},
                                                   {0, 1, 70, 70, 200, 260}};
  for (const std::int64_t grid :
       {plan.grid, std::int64_t{7}}) {  // 7 ranges of 9 warp tiles: several owners a row block
    plan.grid = grid;
    for (const std::vector<std::int32_t>& offsets : all_offsets) {
      const Normals<Half> x(offsets.back(), 192, 6);
      const HostRows rows{offsets, {}, {}, {}};
      INFO("grid " << grid << ", " << offsets.back() << " rows");
      const auto alone = products_one_by_one(experts, x, rows, plan);
      const HostOutput<float> out{std::vector<float>(alone.size(), 7.0f), 150};
      emulator::for_each_schedule(
          1, [&](std::uint32_t) { REQUIRE(same_bits(grouped_product(experts, x, rows, out, plan), alone)); });
    }
  }
}

TEST_CASE("experts behind the 32nd meet their own rows", "[matmul][grouped][gpu]") {
  const gpu::Experts experts = upload(some_experts(70, 64, 64));
  const gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, gpu::current_device(), 2);
  // Experts 0, 31, 32, 40, 63 and 69 have rows, 9 of them more than one tile.
  HostRows rows;
  for (int e = 0; e <= 70; ++e)
    rows.offsets.push_back((e > 0) + (e > 31 ? 9 : 0) + (e > 32) + (e > 40 ? 9 : 0) + (e > 63) +
                           (e > 69 ? 9 : 0));
  const Normals<Half> x(rows.offsets.back(), 64, 6);
  const auto alone = products_one_by_one(experts, x, rows, plan);
  const HostOutput<float> out{std::vector<float>(alone.size(), 7.0f), 64};
  CHECK(same_bits(grouped_product(experts, x, rows, out, plan), alone));
}

TEST_CASE("whole row blocks, windows and few blocks change no bit of experts", "[matmul][grouped][gpu]") {
  const gpu::Experts experts = upload(some_experts(5, 150, 192));
  gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, gpu::current_device(), 5);
  plan.grid = 7;
  const HostRows rows{{0, 3, 4, 4, 30, 47}, {}, {}, {}};
  const Normals<Half> x(47, 192, 6);
  const auto alone = products_one_by_one(experts, x, rows, plan);
  const HostOutput<float> out{std::vector<float>(alone.size(), 7.0f), 150};
  for (const TestCut cut : {TestCut{0, 47, 2}, {0, 16, 5}, {0, 1, 1}})
    emulator::for_each_schedule(1, [&](std::uint32_t) {
      REQUIRE(same_bits(grouped_product(experts, x, rows, out, plan, cut), alone));
    });
}

TEST_CASE("experts gather rows of x, and scatter, weigh and add to rows of y", "[matmul][grouped][gpu]") {
  const gpu::Experts experts = upload(some_experts(4, 150, 192));
  const gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, gpu::current_device(), 2);
  const std::int64_t tokens = 5, n = 150;
  const Normals<Half> x(tokens, 192, 6);
  // Pairs of 5 tokens and 2 slots, sorted; no token chose expert 1, and rows 8 and 9 of y stay as they are.
  const HostRows rows{
      {0, 3, 3, 4, 8}, {4, 0, 2, 2, 1, 1, 3, 4}, {7, 0, 4, 5, 2, 3, 6, 1}, Normals(1, 10, 11).data, 8};
  const Normals residual(10, n, 9), bias(4, n, 8);
  const HostOutput<float> out{residual.data, n, true, bias.data};
  const std::vector<float> alone = products_one_by_one(experts, x, rows, plan);
  std::vector<float> expected = residual.data;
  for (std::int64_t i = 0; i < 8; ++i)
    for (std::int64_t c = 0; c < n; ++c) {
      const std::int64_t e = i < 3 ? 0 : i < 4 ? 2 : 3, row = rows.y_rows[static_cast<std::size_t>(i)];
      const float sum = alone[static_cast<std::size_t>(i * n + c)] + bias.view(e, c);
      const float weighed = sum * rows.weights[static_cast<std::size_t>(row)];
      expected[static_cast<std::size_t>(row * n + c)] += weighed;
    }
  CHECK(same_bits(grouped_product(experts, x, rows, out, plan), expected));
  CHECK(same_bits(grouped_product(experts, x, rows, out, plan, TestCut{0, 3, 2}), expected));

  std::vector<Half> halves;
  for (const float value : residual.data) halves.push_back(Half(value));
  const auto rounded = grouped_product<Half>(experts, x, rows, {halves, n, true, bias.data}, plan);
  for (std::size_t i = 0; i < rounded.size(); ++i)
    CHECK(std::abs(static_cast<float>(rounded[i]) - expected[i]) <= 2e-3f * (1 + std::abs(expected[i])));
}

TEST_CASE("experts end in silu(gate) * up", "[matmul][grouped][gpu]") {
  const gpu::Experts experts = upload(some_experts(3, 150, 192));
  const gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, gpu::current_device(), 2);
  const Normals<Half> x(7, 192, 6);
  const HostRows rows{{0, 3, 3, 7}, {}, {}, Normals(1, 7, 11).data};
  const Normals bias(3, 150, 8);
  const std::vector<float> alone = products_one_by_one(experts, x, rows, plan);
  const auto y = grouped_product<float>(experts, x, rows,
                                        {std::vector<float>(7 * 75), 75, false, bias.data, true}, plan);
  for (std::int64_t i = 0; i < 7; ++i)
    for (std::int64_t c = 0; c < 75; ++c) {
      const auto sum = [&](std::int64_t column) {
        return alone[static_cast<std::size_t>(i * 150 + column)] + bias.view(i < 3 ? 0 : 2, column);
      };
      const float gate = sum(2 * c), silu = gate / (1 + std::exp(-gate));
      const float expected = silu * sum(2 * c + 1) * rows.weights[static_cast<std::size_t>(i)];
      CHECK(std::abs(y[static_cast<std::size_t>(i * 75 + c)] - expected) <= 1e-6f * std::abs(expected));
    }
}

TEST_CASE("rows beyond the last expert's are not written", "[matmul][grouped][gpu]") {
  const gpu::Experts experts = upload(some_experts(4, 150, 192));
  const gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, gpu::current_device(), 2);
  const Normals<Half> x(20, 192, 6);
  const HostRows rows{{0, 2, 2, 3, 5}, {}, {}, {}, 20};
  const auto y = grouped_product<float>(experts, x, rows, {std::vector<float>(20 * 150, 7.0f), 150}, plan);
  const auto alone = products_one_by_one(experts, x, rows, plan);
  CHECK(same_bits({y.begin(), y.begin() + 5 * 150}, alone));
  CHECK(std::all_of(y.begin() + 5 * 150, y.end(), [](float value) { return value == 7.0f; }));
}

TEST_CASE("no offset or row number makes experts leave x, y or the workspace", "[matmul][grouped][gpu]") {
  if (!emulator::in_use) return;  // which sees every access
  const gpu::Experts experts = upload(some_experts(4, 150, 192));
  const gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, gpu::current_device(), 2);
  const Normals<Half> x(3, 192, 6);
  const std::vector<std::int32_t> bad{-5, 2000000000, 2, 0, -2000000000, 3, 7, 1};
  for (const std::vector<std::int32_t>& offsets :
       {std::vector<std::int32_t>{0, 8, 0, 8, 8}, {9, -7, 2000000000, 3, 1}, {-3, 0, 5, 2, 2000000000}}) {
    const HostRows rows{offsets, bad, bad, Normals(1, 5, 1).data, 8};
    CHECK(grouped_product<float>(experts, x, rows, {std::vector<float>(5 * 150), 150}, plan).size() ==
          5 * 150);
  }
}

TEST_CASE("offsets that claim all rows for many experts take no more of the workspace than others",
          "[matmul][grouped][gpu]") {
  if (!emulator::in_use) return;
  const gpu::Experts experts = upload(some_experts(24, 150, 192));
  gpu::MatmulPlan plan;
  plan.grid = 3;  // all three ranges of an expert have slots in the workspace
  std::vector<std::int32_t> offsets(25);
  for (std::size_t e = 1; e < offsets.size(); e += 2) offsets[e] = 8;
  const HostRows rows{offsets, {0, 1, 2, 0, 1, 2, 0, 1}, {0, 1, 2, 3, 4, 5, 6, 7}, Normals(1, 8, 1).data, 8};
  const Normals<Half> x(3, 192, 6);
  CHECK(grouped_product<float>(experts, x, rows, {std::vector<float>(8 * 150), 150}, plan).size() == 8 * 150);
}

TEST_CASE("a layer of a mixture goes from a router's choices to outputs of tokens",
          "[matmul][grouped][gpu]") {
  const gpu::Device device = gpu::current_device();
  const int experts = 6, slots = 2;
  const std::int64_t tokens = 9, count = tokens * slots, width = 128, hidden_width = 96;
  const gpu::Experts up = upload(some_experts(experts, 2 * hidden_width, width)),
                     down = upload(some_experts(experts, width, hidden_width, 32));
  const Normals<Half> x_host(tokens, width, 6);
  const Normals weights_host(tokens, slots, 3);
  std::vector<std::int32_t> ids_host;
  for (std::size_t i = 0; i < 18; ++i)  // 6 is no expert
    ids_host.push_back(static_cast<std::int32_t>(higgs::random_bits(4, i) % 7));
  const gpu::DeviceBuffer<Half> x_data{std::span<const Half>(x_host.data)},
      hidden_data(static_cast<std::size_t>(count * hidden_width));
  const gpu::DeviceBuffer<std::int32_t> ids_data{std::span<const std::int32_t>(ids_host)}, offsets_data(7),
      pairs_data(18), pair_tokens_data(18);
  const gpu::DeviceBuffer<float> weights_data{std::span<const float>(weights_host.data)},
      parts_data(static_cast<std::size_t>(count * width)), y_data(static_cast<std::size_t>(tokens * width));
  const gpu::DenseView<const std::int32_t> ids(ids_data.data(), tokens, slots);
  const gpu::DenseView<const Half> x(x_data.data(), tokens, width);
  const gpu::DenseView<Half> hidden(hidden_data.data(), count, hidden_width);
  const gpu::DenseView<float> parts(parts_data.data(), count, width), y(y_data.data(), tokens, width);
  std::int32_t *const offsets = offsets_data.data(), *const pairs = pairs_data.data(),
                      *const pair_tokens = pair_tokens_data.data();
  const float* const weights = weights_data.data();
  cudaStream_t stream = nullptr;

  const auto up_plan = gpu::plan_experts(up[0].layout, device, slots);
  const auto down_plan = gpu::plan_experts(down[0].layout, device, slots);
  const auto bytes = std::max(gpu::matmul_grouped_workspace(up, count, up_plan, device),
                              gpu::matmul_grouped_workspace(down, count, down_plan, device));
  const auto workspace = gpu::DeviceBuffer<std::byte>::zeros(bytes);
  const auto space = workspace.span();
  // For each step, from ids and weights (tokens, slots) of the router:
  gpu::sort_pairs_async(ids, experts, {offsets, pairs, pair_tokens}, stream);
  gpu::matmul_grouped_async<Formats>(x, up, {count, offsets, pair_tokens}, hidden, space, up_plan, device,
                                     stream, {nullptr, nullptr, true});
  gpu::matmul_grouped_async<Formats>(hidden, down, {count, offsets, nullptr, pairs, weights}, parts, space,
                                     down_plan, device, stream);
  gpu::add_pairs_async<float>(parts, ids, experts, y, stream);

  gpu::check(cudaDeviceSynchronize(), "a layer of a mixture");
  const std::vector<float> found = y_data.to_host();
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::vector<double> expected(static_cast<std::size_t>(width));
    for (std::int64_t s = 0; s < slots; ++s) {
      const int id = ids_host[static_cast<std::size_t>(t * slots + s)];
      if (id == experts) continue;
      Normals<Half> row(1, width, 0), inner(1, hidden_width, 0);
      std::copy_n(x_host.data.begin() + t * width, width, row.data.begin());
      const auto sums = device_product<float, Formats>(up[id], row, up_plan);
      for (std::size_t i = 0; i < inner.data.size(); ++i)
        inner.data[i] = Half(sums[2 * i] / (1 + std::exp(-sums[2 * i])) * sums[2 * i + 1]);
      const auto product = device_product<float, Formats>(down[id], inner, down_plan);
      for (std::size_t n = 0; n < expected.size(); ++n)
        expected[n] += double{product[n]} * double{weights_host.view(t, s)};
    }
    CHECK(relative_error(std::vector<float>(found.begin() + t * width, found.begin() + (t + 1) * width),
                         expected) < 1e-3);
  }
}

TEST_CASE("experts take a bounded workspace for any number of rows", "[matmul][grouped][gpu]") {
  struct Shape {
    std::int64_t rows, cols;
    int experts;
  };
  gpu::Device device;
  device.multiprocessors = 132;
  device.shared_bytes = 227 * 1024;
  device.architecture = 90;
  for (const Shape shape : {Shape{1536, 2048, 128}, {2048, 768, 128}, {4096, 7168, 256}, {28672, 4096, 8}}) {
    gpu::PackedView w;
    w.layout = gpu::packed_layout<gpu::TableFormat<4>>(2, 8, shape.rows, shape.cols / 256, 256);
    w.rotation = {shape.cols, 256, nullptr, nullptr, 256, 256};
    for (const int active : {1, 2, 8}) {
      const gpu::MatmulPlan plan = gpu::plan_experts(w.layout, device, active);
      const std::int64_t work = gpu::ceil_div(shape.rows, 256) * (shape.cols / 64);
      CHECK((plan.grid * active <= 132 && work / plan.grid >= 8));
      for (const std::int64_t count : {1, 8, 128, 1024, 8192, 32768, 1 << 20})
        CHECK(gpu::detail::ExpertCut(w, shape.experts, count, plan, device).bytes() <= std::size_t{64} << 20);
    }
  }
}

TEST_CASE("a mixture says which argument does not fit", "[matmul][grouped][gpu]") {
  using Catch::Contains;
  const gpu::Device device = gpu::current_device();
  Matrices matrices = some_experts(3, 150, 192);
  const gpu::Experts experts = upload(matrices);
  const gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, device, 2);
  const gpu::DeviceBuffer<Half> x(8 * 192);
  const gpu::DeviceBuffer<float> y(8 * 150);
  const auto offsets = gpu::DeviceBuffer<std::int32_t>::zeros(4);
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_grouped_workspace(experts, 8, plan, device));
  const auto call = [&](std::int64_t x_rows, std::int64_t x_cols, std::int64_t y_cols, std::size_t bytes,
                        bool gated) {
    gpu::matmul_grouped_async<Formats>(gpu::DenseView<const Half>(x.data(), x_rows, x_cols), experts,
                                       {8, offsets.data()}, gpu::DenseView<float>(y.data(), 8, y_cols),
                                       workspace.span().first(bytes), plan, device, nullptr,
                                       {nullptr, nullptr, gated});
  };
  const std::size_t all = workspace.size();
  CHECK_NOTHROW(call(8, 192, 150, all, false));
  CHECK_THROWS_WITH(call(8, 190, 150, all, false), Contains("x has 190 columns"));
  CHECK_THROWS_WITH(call(8, 192, 150, all, true), Contains("192 inputs and 75 outputs"));
  CHECK_THROWS_WITH(call(7, 192, 150, all, false), Contains("x has 7 rows"));
  CHECK_THROWS_WITH(call(8, 192, 150, all - 256, false), Contains("the workspace holds"));
  const gpu::ExpertRows in_y{8, reinterpret_cast<const std::int32_t*>(y.data())};
  CHECK_THROWS_WITH(gpu::matmul_grouped_async<Formats>(gpu::DenseView<const Half>(x.data(), 8, 192), experts,
                                                       in_y, gpu::DenseView<float>(y.data(), 8, 150),
                                                       workspace.span(), plan, device, nullptr),
                    Contains("offsets") && Contains("y"));
  const gpu::ExpertRows crooked{8, reinterpret_cast<const std::int32_t*>(workspace.data() + all - 2)};
  CHECK_THROWS_WITH(gpu::matmul_grouped_async<Formats>(gpu::DenseView<const Half>(x.data(), 8, 192), experts,
                                                       crooked, gpu::DenseView<float>(y.data(), 8, 150),
                                                       workspace.span(), plan, device, nullptr),
                    Contains("offsets begins 2"));
  CHECK_THROWS_AS(gpu::plan_experts(experts[0].layout, device, 0), higgs::InvalidArgument);
  CHECK_THROWS_AS(upload({}), higgs::InvalidArgument);
  matrices.back() = random_matrix<Book>(150, 192, 64, 64, 3);
  CHECK_THROWS_WITH(upload(matrices), Contains("expert 2 has another layout"));
}

TEST_CASE("experts that are warm are captured for any number of rows without the first use of a kernel",
          "[matmul][grouped][gpu]") {
  const emulator::Options before = emulator::options();
  emulator::options().refuse_cold = true;
  // A format and a type that no other case uses with experts, so that their kernels are cold here.
  using Cold = gpu::MatmulFormats<gpu::TableFormat<2>>;
  using higgs::BFloat16;
  std::vector<higgs::QuantizedMatrix<GridCodebook<2, 16>>> matrices;
  for (std::uint64_t e = 0; e < 3; ++e)
    matrices.push_back(random_matrix<GridCodebook<2, 16>>(70, 1024, 64, 64, 5 + e));
  const gpu::Experts experts{std::span<const higgs::QuantizedMatrix<GridCodebook<2, 16>>>(matrices)};
  const gpu::Device here = gpu::current_device();
  const gpu::MatmulPlan plan = gpu::plan_experts(experts[0].layout, here, 2);
  constexpr std::int64_t most = 100;
  const auto x = gpu::DeviceBuffer<BFloat16>::zeros(most * 1024 + 1);
  const gpu::DeviceBuffer<float> y(most * 70);
  const auto offsets = gpu::DeviceBuffer<std::int32_t>::zeros(4);
  const auto workspace =
      gpu::DeviceBuffer<std::byte>::zeros(gpu::matmul_grouped_workspace(experts, most, plan, here));
  const auto captures = [&](std::int64_t rows, int first) {
    return can_be_captured([&](cudaStream_t stream) {
      gpu::matmul_grouped_async<Cold>(gpu::DenseView<const BFloat16>(x.data() + first, rows, 1024), experts,
                                      {rows, offsets.data()}, gpu::DenseView<float>(y.data(), rows, 70),
                                      workspace.span(), plan, here, stream);
    });
  };
  const auto cold = [&](std::int64_t from, std::int64_t to) {
    int count = 0;
    for (const int first : {0, 1})
      for (std::int64_t rows = from; rows <= to; ++rows) count += !captures(rows, first);
    return count;
  };
  experts.warm_up<BFloat16, float, Cold>(0, plan, here);  // no rows, no kernels
  if (emulator::in_use) CHECK(cold(1, 1) == 2);
  experts.warm_up<BFloat16, float, Cold>(19, plan, here);
  CHECK(cold(1, 19) == 0);
  if (emulator::in_use) CHECK(cold(20, 20) > 0);
  experts.warm_up<BFloat16, float, Cold>(most, plan, here);
  CHECK(cold(1, most) == 0);
  emulator::options() = before;
}
