// SPDX-License-Identifier: Apache-2.0
// Products with the matrices of a mixture of experts: x is gathered and rotated for each expert, then one launch
// multiplies with all of them.
#pragma once

#include <higgs/codes/formats.cuh>
#include <higgs/core/code.hpp>
#include <higgs/core/concepts.hpp>
#include <higgs/core/error.hpp>
#include <higgs/gpu/launch.cuh>
#include <higgs/gpu/matrix.cuh>
#include <higgs/matmul/expert_kernel.cuh>
#include <higgs/matmul/matmul_task.cuh>
#include <higgs/matmul/packed_matrix.cuh>
#include <higgs/matmul/stream_launch.cuh>
#include <higgs/rotate/hadamard.cuh>
#include <higgs/store/quantized_matrix.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

namespace higgs {
inline namespace v0 {
namespace gpu {

/// Owns the matrices of a mixture of experts: equal layouts and codes. Signs, input scales and exponents may differ.
class Experts {
 public:
  /// Copies all to the device and packs them there on `stream`, as PackedMatrix does; returns when that is done.
  /// Throws InvalidArgument unless their layouts and codes are equal.
  template <Code C>
  explicit Experts(std::span<const QuantizedMatrix<C>> experts, cudaStream_t stream = nullptr) {
    expects(!experts.empty(), "higgs::gpu::Experts: there must be an expert");
    std::vector<ExpertWeights> weights;
    std::vector<detail::ExpertRotation> rotations;
    for (const QuantizedMatrix<C>& w : experts) {
      const QuantizedMatrix<C>& first = experts.front();
      expects(same_shape(w.layout, first.layout) && device_table(w.book) == device_table(first.book), [&] {
        return higgs::detail::sentence("higgs::gpu::Experts: expert ", &w - experts.data(),
                                       " has another layout or code than expert 0");
      });
      matrices_.emplace_back(w, stream);
      const PackedView& view = matrices_.back().view();
      weights.push_back({view.codes, view.scales, std::ldexp(1.0f, view.exponent)});
      rotations.push_back({view.rotation.signs, view.rotation.factors});
    }
    weights_ = DeviceBuffer<ExpertWeights>(std::span<const ExpertWeights>(weights), stream);
    rotations_ =
        DeviceBuffer<detail::ExpertRotation>(std::span<const detail::ExpertRotation>(rotations), stream);
  }

  /// The number of experts.
  int size() const noexcept { return static_cast<int>(matrices_.size()); }
  /// One expert. All share the layout and table of `[0]`.
  const PackedView& operator[](int expert) const {
    return matrices_[static_cast<std::size_t>(expert)].view();
  }
  /// (size()), in device memory.
  const ExpertWeights* weights() const noexcept { return weights_.data(); }
  /// (size()), in device memory.
  const detail::ExpertRotation* rotations() const noexcept { return rotations_.data(); }

  /// Loads every kernel that products with up to `count` rows of these types may launch under this plan: launches them
  /// for no rows, in memory of its own, and waits for `stream`. For use before a capture, as Linear::warm_up is.
  /// sort_pairs_async and add_pairs_async have one kernel each for their types, which any call of them loads. Throws
  /// InvalidArgument and CudaError as matmul_grouped_async does.
  template <class X, class Y, class Formats = AnyFormat, class Archs = BuiltFor>
  void warm_up(std::int64_t count, const MatmulPlan& plan, const Device& device,
               cudaStream_t stream = nullptr) const;

 private:
  static bool same_shape(CodeLayout a, const CodeLayout& b) {
    a.input_scales = b.input_scales;  // products need neither to be equal
    a.scale_format = b.scale_format;
    return a == b;
  }

  std::vector<PackedMatrix> matrices_;
  DeviceBuffer<ExpertWeights> weights_;
  DeviceBuffer<detail::ExpertRotation> rotations_;
};

/// The rows of a mixture's product, sorted by expert: row i meets the expert e with offsets[e] <= i < offsets[e + 1]. All
/// arrays are in device memory, may change between launches of a graph, and must hold what is said here: kernels stay
/// within x and y whatever they hold, but results are undefined. sort_pairs_async makes them.
struct ExpertRows {
  std::int64_t count = 0;                 // M: the most rows that there may be
  const std::int32_t* offsets = nullptr;  // (experts + 1): ascending, from 0 to at most M
  const std::int32_t* x_rows = nullptr;   // (M): the row of x for row i; none: i
  const std::int32_t* y_rows = nullptr;   // (M): the row of y for row i, no two equal; none: i
  const float* weights = nullptr;         // a factor of each row of y; none: 1
};

/// The plan for a mixture of experts of this layout of which a token uses `active`: the Stream-K ranges of `active`
/// experts together are at most as many as the device has multiprocessors, and long. Deterministic as PerDevice: the
/// batch has no influence on the bits of a row.
inline MatmulPlan plan_experts(const PackedLayout& layout, const Device& device, int active) {
  expects(active > 0, "higgs::gpu::plan_experts: a token uses at least one expert");
  MatmulPlan plan;
  plan.row_warps = layout.warp_tile_rows() > 2 ? 4 : 2;
  const std::int64_t work = ceil_div(layout.warp_tile_rows(), plan.row_warps) * layout.warp_tile_cols();
  const std::int64_t least = 32 / plan.row_warps;  // warp tiles of a row block that are worth a prologue
  plan.grid = std::clamp<std::int64_t>(work / least, 1, std::max(device.multiprocessors / active, 1));
  return plan;
}

/// Bytes of workspace for matmul_grouped_async with up to `count` rows (ExpertRows): at most 64 MiB for plans of up to 128
/// ranges, and beside it what rotate_scratch says.
std::size_t matmul_grouped_workspace(const Experts& w, std::int64_t count, const MatmulPlan& plan,
                                     const Device& device);

/// Products with the matrices of a mixture of experts: for each row i below offsets[size()],
///
///     y[y_rows[i]] = weights[y_rows[i]] * (x[x_rows[i]] * W_e^T + bias[e]) + residual[y_rows[i]],
///
/// gated as Epilogue says if it is. x and y are as for matmul_async, bias is (size(), rows). Other rows of y are not
/// written. One launch that gathers and rotates, and one that multiplies, for each few thousand rows; which experts are
/// in use is known on the device alone. The bits of a row without weights are those of matmul_async under the same plan
/// without GEMM, warpgroup products and int8: row_warps, grid and overlap_launches are all that counts of the plan. Errors
/// are those of matmul_async.
template <class Formats = AnyFormat, class X, class Y, class Archs = BuiltFor>
void matmul_grouped_async(DenseView<X> x, const Experts& w, const ExpertRows& rows, DenseView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const std::type_identity_t<Epilogue<Y>>& epilogue = {});

namespace detail {

/// How the rows of a mixture's product are cut, and the parts of its workspace in bytes, in their order behind
/// workspace_counters, which has all arrival counters.
struct ExpertCut {
  static constexpr std::int64_t most_sums = 32 << 20, most_x = 24 << 20;  // bytes

  std::int64_t columns;      // rows of a batch tile
  std::int64_t window;       // rows of a launch
  std::int64_t tiles;        // batch tiles of a launch at most
  std::int64_t split_tiles;  // as in ExpertTask
  std::int64_t own_slots;    // as in ExpertTask
  std::int64_t blocks;       // blocks of a launch
  std::size_t partial_sums, x, scratch;

  ExpertCut(const PackedView& w, int experts, std::int64_t count, const MatmulPlan& plan,
            const Device& device) {
    check_plan("higgs::gpu::matmul_grouped_async", plan);
    const PackedLayout& layout = w.layout;
    // The rows of an expert vary: a quarter more than the mean have room.
    const std::int64_t each = ceil_div(5 * count, 4 * experts);
    columns = each <= 8 ? 8 : each <= 16 ? 16 : each <= 32 ? 32 : 64;
    window = std::min(count, std::max<std::int64_t>(most_x / (layout.depth() * 2) / 64, 1) * 64);
    tiles = window / columns + std::min<std::int64_t>(experts, window);

    const StreamSplit split = split_of(layout, plan);
    expects(tiles * std::max<std::int64_t>(plan.grid, split.row_blocks) < std::int64_t{1} << 31,
            "higgs::gpu::matmul_grouped_async: the plan has too many ranges");
    const std::int64_t slot_bytes = columns * plan.row_warps * warp_tile * 4;
    split_tiles = std::min({tiles, static_cast<std::int64_t>(workspace_counters / 4) / split.row_blocks,
                            most_sums / (slot_bytes * std::max(split.slots(), 1))});
    own_slots = 0;
    for (int r = 0; r < split.row_blocks; ++r)
      own_slots = std::max<std::int64_t>(own_slots, split.last_owner(r) - split.first_owner(r) + 1);
    blocks = std::int64_t{device.multiprocessors} * blocks_per_multiprocessor(device);
    if (tiles > split_tiles)
      blocks = std::clamp<std::int64_t>(most_sums / (slot_bytes * own_slots), 1, blocks);
    const std::int64_t slots = tiles > split_tiles ? std::max(split_tiles * split.slots(), blocks * own_slots)
                                                   : split_tiles * split.slots();
    partial_sums = whole_part(slots * slot_bytes);
    x = whole_part(window * layout.depth() * 2);
    scratch = whole_part(rotate_scratch(w.rotation, window, device) * 4);
  }
  std::size_t bytes() const { return workspace_counters + partial_sums + x + scratch; }

  static StreamSplit split_of(const PackedLayout& layout, const MatmulPlan& plan) {
    return {static_cast<int>(ceil_div(layout.warp_tile_rows(), plan.row_warps)),
            static_cast<int>(layout.warp_tile_cols()), static_cast<int>(plan.grid)};
  }
};

/// The task but for its window.
template <class Y>
ExpertTask expert_task(const Experts& w, const ExpertCut& cut, const MatmulPlan& plan, std::byte* workspace,
                       const DenseView<Y>& y, const Epilogue<Y>& epilogue) {
  const PackedLayout& layout = w[0].layout;
  ExpertTask out;
  out.w = w[0];
  out.weights = w.weights();
  out.y = {y.data, output_type<Y>, y.row_stride, epilogue.bias, epilogue.residual, epilogue.gated};
  out.arrivals = reinterpret_cast<std::uint32_t*>(workspace);
  out.partial_sums = reinterpret_cast<float*>(workspace + workspace_counters);
  out.x_stride = layout.depth();
  out.row_warps = plan.row_warps;
  out.k_warps = stream_warps / plan.row_warps;
  out.cols = static_cast<int>(layout.warp_tile_cols());
  out.group_cols = static_cast<int>(layout.padded_group() / warp_tile);
  out.rows = static_cast<int>(layout.warp_tile_rows());
  out.row_blocks = ExpertCut::split_of(layout, plan).row_blocks;
  out.grid = static_cast<int>(plan.grid);
  out.split_tiles = static_cast<int>(cut.split_tiles);
  out.most_tiles = static_cast<int>(cut.tiles);
  out.own_slots = static_cast<int>(cut.own_slots);
  return out;
}

/// Launches the instance for the format of w.
template <class Formats, class Archs, class T, int ColumnTiles>
void launch_experts(const ExpertTask& task, std::int64_t blocks, cudaStream_t stream,
                    const LaunchOptions& options) {
  with_format("higgs::gpu::matmul_grouped_async", task.w.layout, Formats{}, [&]<class Format>(Format) {
    const auto kernel = expert_kernel<Format, T, ColumnTiles>;
    require_waiting_code(options, kernel);
    gpu::launch(options, kernel, dim3(static_cast<unsigned>(blocks)), stream_threads, expert_shared, stream,
                task);
  });
}

/// matmul_grouped_async with its work cut as `cut` says.
template <class Formats, class X, class Y, class Archs>
void multiply_experts(DenseView<const X> x, const Experts& w, const ExpertRows& rows, DenseView<Y> y,
                      std::byte* workspace, const ExpertCut& cut, const MatmulPlan& plan,
                      const Device& device, cudaStream_t stream, const Epilogue<Y>& epilogue) {
  using T = OperandOf<X>;
  const Rotation& rotation = w[0].rotation;
  const LaunchOptions options = launch_options(plan, device);
  ExpertTask task = expert_task(w, cut, plan, workspace, y, epilogue);
  std::byte* const at = workspace + workspace_counters + cut.partial_sums;
  task.rotated_x = at;
  task.y_count = y.rows;
  task.row_weights = rows.weights;
  for (std::int64_t first = 0; first < rows.count; first += cut.window) {
    const std::int64_t count = std::min(cut.window, rows.count - first);
    task.batch = count;
    task.window = {rows.offsets, w.size(), static_cast<int>(first), static_cast<int>(count)};
    task.y_rows = rows.y_rows != nullptr ? rows.y_rows + first : nullptr;
    task.first_y = first;

    const DenseView<T> rotated(reinterpret_cast<T*>(at), count, w[0].layout.depth());
    if (rotation.group != rotation.padded_group)
      check(cudaMemsetAsync(rotated.data, 0, static_cast<std::size_t>(count * rotated.cols) * sizeof(T),
                            stream),
            "higgs::gpu::matmul_grouped_async");
    const ExpertSource source{task.window, w.rotations(),
                              rows.x_rows != nullptr ? rows.x_rows + first : nullptr,
                              static_cast<std::uint32_t>(x.rows)};
    rotate_rows_async<X, T, Archs>(rotation, source, x, rotated, device, stream,
                                   reinterpret_cast<float*>(at + cut.x));
    switch (cut.columns) {
      case 8:
        launch_experts<Formats, Archs, T, 1>(task, cut.blocks, stream, options);
        break;
      case 16:
        launch_experts<Formats, Archs, T, 2>(task, cut.blocks, stream, options);
        break;
      case 32:
        launch_experts<Formats, Archs, T, 4>(task, cut.blocks, stream, options);
        break;
      default:
        launch_experts<Formats, Archs, T, 8>(task, cut.blocks, stream, options);
    }
  }
}

/// Throws InvalidArgument for an argument that is not aligned, and for one that is written and shares memory with
/// another.
template <class X, class Y>
void check_pointers(const char* function, const DenseView<X>& x, const Experts& w, const ExpertRows& rows,
                    const DenseView<Y>& y, const Epilogue<Y>& epilogue, const MatmulPlan& plan,
                    std::span<const std::byte> workspace) {
  const MatmulTask<std::remove_const_t<X>, Y> task{
      {w[0], x.rows, plan, false, epilogue.gated}, x, {}, y, epilogue};
  check_pointers(function, task, workspace);
  const ByteRows out(y), space(workspace.data(), std::ssize(workspace));
  const auto check_array = [&](const char* name, const auto* data, std::int64_t count) {
    expect_aligned(function, name, data, sizeof(*data));
    const ByteRows array(data, data != nullptr ? count * std::int64_t{sizeof(*data)} : 0);
    expect_apart(function, name, array, "y", out);
    expect_apart(function, "the workspace", space, name, array);
  };
  check_array("offsets", rows.offsets, w.size() + 1);
  check_array("x_rows", rows.x_rows, rows.count);
  check_array("y_rows", rows.y_rows, rows.count);
  check_array("weights", rows.weights, y.rows);
}

/// Throws InvalidArgument unless x, y and the device serve a mixture's product.
template <class X, class Y>
void expect_grouped(const char* function, const DenseView<X>& x, const Experts& w, const ExpertRows& rows,
                    const DenseView<Y>& y, bool gated, const Device& device) {
  const std::int64_t outputs = outputs_of(function, w[0].layout, gated), inputs = w[0].rotation.cols;
  using higgs::detail::sentence;
  expects(x.cols == inputs && y.cols == outputs, [&] {
    return sentence(function, ": x has ", x.cols, " columns and y ", y.cols, ", but the experts have ",
                    inputs, " inputs and ", outputs, " outputs");
  });
  expects(rows.count >= 0 && rows.count <= std::numeric_limits<std::int32_t>::max() - 64,
          [&] { return sentence(function, ": ", rows.count, " rows, but 0 to 2^31 - 65 are possible"); });
  expects(rows.count == 0 || ((rows.x_rows != nullptr ? x.rows > 0 : x.rows >= rows.count) &&
                              (rows.y_rows != nullptr || y.rows >= rows.count)),
          [&] {
            return sentence(function, ": x has ", x.rows, " rows and y ", y.rows, ", but there may be ",
                            rows.count, " rows without x_rows or y_rows");
          });
  expects(rows.offsets != nullptr || rows.count == 0,
          [&] { return sentence(function, ": offsets is null"); });
  check_device(function, w[0], device);
  expects(device.shared_bytes >= expert_shared, [&] {
    return sentence(function, ": a block of the device may have ", device.shared_bytes,
                    " bytes of shared memory, and needs ", expert_shared);
  });
}

}  // namespace detail

inline std::size_t matmul_grouped_workspace(const Experts& w, std::int64_t count, const MatmulPlan& plan,
                                            const Device& device) {
  return count == 0 ? 0 : detail::ExpertCut(w[0], w.size(), count, plan, device).bytes();
}

template <class Formats, class X, class Y, class Archs>
void matmul_grouped_async(DenseView<X> x, const Experts& w, const ExpertRows& rows, DenseView<Y> y,
                          std::span<std::byte> workspace, const MatmulPlan& plan, const Device& device,
                          cudaStream_t stream, const std::type_identity_t<Epilogue<Y>>& epilogue) {
  constexpr const char* function = "higgs::gpu::matmul_grouped_async";
  detail::expect_grouped(function, x, w, rows, y, epilogue.gated, device);
  if (rows.count == 0 || y.cols == 0) return;
  const detail::ExpertCut cut(w[0], w.size(), rows.count, plan, device);
  detail::check_workspace(function, workspace, cut.bytes());
  detail::check_pointers(function, x, w, rows, y, epilogue, plan, workspace.first(cut.bytes()));
  detail::multiply_experts<Formats, std::remove_const_t<X>, Y, Archs>(x, w, rows, y, workspace.data(), cut,
                                                                      plan, device, stream, epilogue);
}

template <class X, class Y, class Formats, class Archs>
void Experts::warm_up(std::int64_t count, const MatmulPlan& plan, const Device& device,
                      cudaStream_t stream) const {
  // The fewest rows for each size of a batch tile (ExpertCut). Offsets are zeros: no expert has any of them.
  std::vector<std::int64_t> counts;
  for (const std::int64_t each : {1, 9, 17, 33})
    if (const std::int64_t fewest = (each - 1) * 4 * size() / 5 + 1; fewest <= count)
      counts.push_back(fewest);
  if (counts.empty()) return;
  std::size_t bytes = 0;
  for (const std::int64_t rows : counts)
    bytes = std::max(bytes, matmul_grouped_workspace(*this, rows, plan, device));
  const PackedView& w = (*this)[0];
  const auto offsets = DeviceBuffer<std::int32_t>::zeros(static_cast<std::size_t>(size() + 1)),
             ids = DeviceBuffer<std::int32_t>::zeros(static_cast<std::size_t>(counts.back()));
  const auto x = DeviceBuffer<X>::zeros(static_cast<std::size_t>(w.rotation.cols + 1));
  const DeviceBuffer<Y> y(static_cast<std::size_t>(w.layout.rows));
  const auto workspace = DeviceBuffer<std::byte>::zeros(bytes);
  for (const std::int64_t rows : counts)
    for (const int unaligned : {0, 1})  // another kernel may rotate rows that begin anywhere
      matmul_grouped_async<Formats, const X, Y, Archs>(
          DenseView<const X>(x.data() + unaligned, 1, w.rotation.cols), *this,
          {rows, offsets.data(), ids.data(), ids.data()}, DenseView<Y>(y.data(), 1, w.layout.rows),
          workspace.span(), plan, device, stream);
  check(cudaStreamSynchronize(stream), "higgs::gpu::Experts::warm_up");
}

}  // namespace gpu
}  // namespace v0
}  // namespace higgs
