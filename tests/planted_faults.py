# SPDX-License-Identifier: Apache-2.0
"""Plants one fault after the other in a copy of the kernels and wants a check of that kernel to fail: prints which did.

Takes minutes, so no ctest runs it: planted_faults.py --nvcc nvcc --emulator build/cuda/tests/emulator/libhiggs_emulator.a
--catch-main build/cuda/tests/CMakeFiles/higgs_test_main.dir/main.cpp.o --folder FOLDER [WORD in the fault's name ...]
"""
import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROTATE, PALEY_TEST = "rotate/hadamard_test.cu", "rotate/paley_test.cu"
E8_TEST, PACK = "codes/e8/fragments_test.cu", "pack/packed_layout_test.cu"
MATMUL, NEAREST, FRONT = "matmul/matmul_test.cu", "encode/nearest_test.cu", "quantizer_test.cu"
OUTER, OUTER_TEST = "round/outer_product.cuh", "round/outer_product_test.cu"
FACTORS, FACTORS_TEST = "round/feedback.cuh", "round/feedback_test.cu"
ROUND, ROUND_TEST = "round/feedback_quantizer.cuh", "round/feedback_quantizer_test.cu"
VITERBI, VITERBI_TEST = "codes/window/viterbi.cuh", "codes/window/viterbi_test.cu"
DECODE, FORMATS = "matmul/decode_test.cu", "codes/formats_test.cu"
GROUP_SCALE, INPUT_SCALE = "scale/group_scale_test.cu", "scale/input_scale_test.cu"
STREAM, STREAM_CODE = "matmul/stream_kernel_test.cu", "matmul/stream_kernel_kernels.cu"
SPLIT, SUMS, TOY = "matmul/stream_task_test.cu", "matmul/stream_fixup_test.cu", "pack/fragment_decoder_test.cu"
LAUNCH, GEMM, LINEAR = "matmul/stream_launch_test.cu", "matmul/decoded_gemm_test.cu", "matmul/linear_test.cu"
GRID_TEST, GROUPED = "codes/grid/fragments_test.cu", "matmul/grouped_test.cu"
SCHEDULES, LATE, LAUNCH_TEST = "emulator/schedules_test.cu", "gpu/matrix_test.cu", "gpu/launch_test.cu"
PREFETCH, WGMMA_TEST = "matmul/stream_prefetch_test.cu", "matmul/wgmma_kernel_test.cu"
HOPPER_TESTS = {PREFETCH, WGMMA_TEST}
EXPERTS, WGMMA = "matmul/expert_kernel.cuh", "matmul/wgmma_kernel.cuh"
TRANSFORM, PALEY = "rotate/hadamard_device.cuh", "rotate/paley.cuh"
HADAMARD, KERNEL = "rotate/hadamard.cuh", "matmul/stream_kernel.cuh"
FIXUP, TASK = "matmul/stream_fixup.cuh", "matmul/stream_task.cuh"
INT8, INT8_ROWS = "matmul/int8_kernel.cuh", "matmul/int8_activations.cuh"
INT8_TEST, INT8_ROWS_TEST = "matmul/int8_kernel_test.cu", "matmul/int8_activations_test.cu"
TABLES, E8 = "codes/grid/fragments.cuh", "codes/e8/fragments.cuh"
WINDOW, WINDOW_TEST = "codes/window/fragments.cuh", "codes/window/fragments_test.cu"
FAULTS = [  # what it breaks, name, header under include/higgs, what stands there and what takes its place, the check
    ("result", "a butterfly's sign", TRANSFORM,
     {"v[i + stride] = __fsub_rn(a, b);": "v[i + stride] = __fadd_rn(a, b);"}, ROTATE),
    ("result", "Paley's matrix: a quad added that is to be subtracted", PALEY, {"Code >= 8 ?": "Code >= 9 ?"}, PALEY_TEST),
    ("race", "no __syncwarp between the passes of a warp", TRANSFORM,
     {"store_quads(v, MiddleQuads<Apart>(space, lane));\n  __syncwarp();":
      "store_quads(v, MiddleQuads<Apart>(space, lane));"}, ROTATE),
    ("race", "no barrier between the passes of a block", TRANSFORM, {"      __syncthreads();\n  }\n};": "      ;\n  }\n};"}, ROTATE),
    ("bank conflicts", "quads of a warp without their swizzle", TRANSFORM,
     {"return base ^ 16 * I;\n  }\n};\ntemplate <int Apart>\nstruct MiddleQuads":
      "return base;\n  }\n};\ntemplate <int Apart>\nstruct MiddleQuads",
      "lane % 8 * (Apart + 16)": "lane % 8 * Apart", "(lane % 4 * 2 ^ lane / 4) * 16": "lane / 4 * 16",
      "return base ^ 16 * (I % 2);": "return base;"}, ROTATE),
    ("bank conflicts", "values of a block without gaps", TRANSFORM, {"return i + (i >> 5 << 2);": "return i;"}, ROTATE),
    ("sectors", "rows are read twice", HADAMARD,
     {"const uint4 pairs = load_128(from);": "load_streaming_128(from);\n    const uint4 pairs = load_128(from);"}, ROTATE),

    ("result", "factors of the first 1024 inputs for all", HADAMARD,
     {"r.factors + first + 256 * c": "r.factors + 8 * lane + 256 * c"}, ROTATE),
    ("result", "the inverse takes the signs of a lane's first inputs for all", HADAMARD,
     {"signs = signs_of(r, at);": "signs = signs_of(r, col);"}, ROTATE),

    ("result", "sums of a group folded in another order", "scale/group_scale.cuh",
     {"for (int by = 8; by > 0; by /= 2)": "for (int by = 1; by < 16; by *= 2)"}, GROUP_SCALE),
    ("result", "a column's largest magnitude is its last", "scale/input_scale.cuh",
     {"most = max(most, std::bit_cast": "most = max(0, std::bit_cast"}, INPUT_SCALE),
    ("result", "a column's largest magnitude of positive weights alone", "scale/input_scale.cuh",
     {"(value) & std::numeric_limits<std::int32_t>::max()": "(value)"}, INPUT_SCALE),
    ("sectors", "columns are read twice", "scale/input_scale.cuh",
     {"const float value = to_float(*at);": "static_cast<void>(*reinterpret_cast<const volatile char*>(at));\n"
      "    const float value = to_float(*at);"},
     INPUT_SCALE),
    ("result", "the last of equally near points", "encode/nearest.cuh", {"score > best[b]": "score >= best[b]"}, NEAREST),
    ("result", "between two points of a line the upper", "encode/nearest.cuh", {"if (at > static": "if (at >= static"}, NEAREST),
    ("result", "the last of equally near points of a warp", "encode/nearest.cuh", {"other_code < code": "other_code > code"},
     NEAREST),
    ("result", "E8: the parity of signs in a warp", "encode/nearest.cuh", {"(odd ? 2.0f": "(!odd ? 2.0f"}, NEAREST),
    ("result", "E8: the parity of signs", "encode/nearest.cuh", {"if (odd[b] != (k >=": "if (odd[b] == (k >="}, NEAREST),
    ("race", "no __syncwarp between codes and their fit", "round/row_quantizer.cuh",
     {"    __syncwarp();\n    const GroupFit fit": "    const GroupFit fit"}, FRONT),
    ("result", "a search that takes the worse scale", "round/row_quantizer.cuh",
     {"fit.squared_error < best.squared_error": "fit.squared_error > best.squared_error"}, FRONT),

    ("result", "a scale search without its largest scale", "round/row_quantizer.cuh",
     {"turn <= 2 * how.scale_search": "turn <= 2 * how.scale_search - (how.scale_search > 0)"}, FRONT),
    ("result", "odd exponents take the wrong power of two", "round/row_quantizer.cuh",
     {"std::ldexp(1.0f, exponent_ / 2 - exponent_)": "std::ldexp(1.0f, -(exponent_ / 2))"}, FRONT),

    ("result", "window codes: any state may come first", VITERBI, {"lane * per_lane + i == start ? 0 : 1'000'000'000": "0"}, VITERBI_TEST),
    ("result", "window codes: a state after the first is forgotten", VITERBI, {"lane * per_lane + i == start": "lane + i == 0"},
     VITERBI_TEST),
    ("result", "window codes: of parallel points equally near the last", VITERBI,
     {"if (distance < least)": "if (distance <= least)"}, VITERBI_TEST),
    ("result", "window codes: the signs in the window forgotten", VITERBI,
     {"const unsigned negated = negated_by(seen_signs(bits));": "const unsigned negated = 0;"}, VITERBI_TEST),
    ("result", "window codes: of equal ends that of the highest number", VITERBI,
     {"(signs << older | bits));": "(((1 << number_bits) - 1) ^ (signs << older | bits)));",
      "static_cast<int>(best & ((1": "static_cast<int>(~best & ((1"}, VITERBI_TEST),
    ("bank conflicts", "window codes: costs without gaps", VITERBI,
     {"states / 2 + states / 64 * 4": "states / 2", " + (chunk >> 4) * 4": ""}, VITERBI_TEST),
    ("result", "window codes: the coordinates of the symbols before", "round/row_quantizer.cuh",
     {"coordinates[2 * t] =": "coordinates[2 * t ^ 2] ="}, FRONT),

    ("result", "outer products: rows of zeros behind the last one", OUTER,
     {"t < rows; ++t) multiply": "t < depth; ++t) multiply"}, OUTER_TEST),
    ("race", "outer products: no barrier between two stretches", OUTER,
     {"    if (rows > depth) store(stage ^ 1);\n    __syncthreads();": "    if (rows > depth) store(stage ^ 1);"}, OUTER_TEST),
    ("bank conflicts", "outer products: columns of a warp apart", OUTER,
     {"thread / 32 % 2 * 8 + thread % 8": "thread / 32 % 2 + thread % 8 * 2"}, OUTER_TEST),
    ("result", "second moments: each part of the inputs of the first", "round/second_moment.cuh",
     {"x.data + i * part_": "x.data"}, "round/second_moment_test.cu"),
    ("result", "factors: a run of columns subtracted in another order", FACTORS,
     {"subtract(t, high, n);": "subtract(t, t + 1, n);", "subtract(t, t + 1, high);": ";"}, FACTORS_TEST),
    ("race", "factors: a column that is used while it is divided", FACTORS,
     {"at(i, k) /= square;\n    }\n    __syncthreads();": "at(i, k) /= square;\n    }"}, FACTORS_TEST),
    ("result", "factors: signs of the first part", FACTORS,
     {"sign_words(*seed, h.cols, first)": "sign_words(*seed, h.cols)"}, FACTORS_TEST),
    ("result", "factors: a failure that nobody tells", FACTORS, {"*failed = 1;": "*failed = 0;"}, FACTORS_TEST),
    ("race", "transposing: tiles are read before they are whole", FACTORS,
     {"tiles[side][r][x] = value; });\n  __syncthreads();": "tiles[side][r][x] = value; });"}, FACTORS_TEST),
    ("result", "rounding: the state behind another symbol", ROUND, {"space.symbols[t]);": "space.symbols[0]);"}, ROUND_TEST),
    ("result", "rounding: sums in another order", ROUND,
     {"for (int lane = 0; lane < count; ++lane) sum +=": "for (int lane = count; lane-- > 0;) sum +="}, ROUND_TEST),
    ("race", "rounding: no __syncwarp behind what a segment leaves", ROUND,
     {"      carried[i] = c;\n    }\n    __syncwarp();": "      carried[i] = c;\n    }"}, ROUND_TEST),
    ("result", "rounding: rows are never kept without feedback", ROUND,
     {"without.losses[row] < errors[row].loss;": "false;"}, ROUND_TEST),
    ("result", "rounding: factors of another part", ROUND, {"begin % feedback_.part(),": "begin,"}, ROUND_TEST),
    ("result", "rounding: two bytes of a coordinate as one", "round/row_quantizer.cuh", {"if (!wide) return": "return"},
     ROUND_TEST),
    ("result", "rounding: losses of rows that nobody wants alone", OUTER,
     {"wanted[row] != 0)": "wanted[row] == 0)"}, ROUND_TEST),

    ("result", "repacking: bytes of a word swapped", TABLES,
     {"words[s * 4 + i] |= byte << j * 8": "words[s * 4 + i] |= byte << (j ^ 1) * 8"}, PACK),
    ("result", "repacking: scales in the order of rows", "pack/packed_layout.cuh",
     {"within % 8 * 8 + within / 8": "within"}, PACK),
    ("result", "3 bits: the high bits of a row from another place", TABLES,
     {"word_of(loads[1], Step) >> 4, two": "word_of(loads[1], Step) >> 2, two"}, GRID_TEST),
    ("result", "E8: signs of the second four of a symbol's coordinates from the first", E8,
     {"15 - Z - 4 * w)": "15 - Z - 4 * (w & 1))"}, E8_TEST),
    ("result", "repacking: E8's signs in another order", E8, {"exchanged ? 4u : 0u": "0u"}, E8_TEST),
    ("result", "window codes: a warp tile begins without the symbols before it", WINDOW,
     {"return is_first ? first : neighbour;": "return neighbour;"}, WINDOW_TEST),
    ("result", "window codes: the last bit of each window from its own symbol", WINDOW,
     {"select_bits<shared_bits>(shared, other_bits": "select_bits<shared_bits & 0x77777777u>(shared, other_bits"}, WINDOW_TEST),
    ("bank conflicts", "half of the copies of E8's table", E8,
     {"static_cast<unsigned>(lane) % 8 * 16": "static_cast<unsigned>(lane) % 4 * 16"}, E8_TEST),
    ("result", "dequantizing: a sign of a window code without its oldest symbol", "matmul/decode.cuh",
     {"d <= memory": "d < memory"}, DECODE),
    ("result", "decoding to weights: rows beyond the last one", "matmul/decode.cuh",
     {"    if (row >= rows) return;\n": ""}, DECODE),
    ("result", "decoding to weights: the scale of another row", "matmul/decode.cuh",
     {"r % 2 == 0 ? two.x : two.y) * output": "r % 2 == 0 ? two.y : two.x) * output"}, DECODE),
    ("bank conflicts", "decoded rows: pieces permuted by the row's number", "matmul/decode.cuh",
     {"(row % 4 * 2 + row / 4 % 2)": "(row % 8)"}, DECODE),
    ("result", "decoding to weights: rows are read before all lanes have written", "matmul/decode.cuh",
     {"load(tile + step);\n    __syncwarp();": "load(tile + step);"}, DECODE),

    ("result", "product: a nibble swapped", TABLES,
     {"words[s * 4 + i] |= byte << j * 8": "words[s * 4 + i] |= (byte >> 4 | (byte & 15u) << 4) << j * 8"}, MATMUL),
    ("result", "product: coordinates without their sign", "codes/formats.cuh",
     {"static_cast<std::int8_t>(byte)": "static_cast<std::int16_t>(byte)"}, FORMATS),
    ("result", "product: the scale of another row", KERNEL,
     {"thread % 32 / 4 * 8": "thread % 32 / 8 * 8"}, MATMUL),
    ("result", "product: rows whose last scale is zero are zeros", KERNEL,
     {"  seen |= nonzero_halves(scale);\n  scale = next": "  scale = next"}, SCHEDULES),
    ("result", "product: an expert's last tile reaches into the next expert's rows", "matmul/expert_kernel.cuh",
     {"min(columns, window.begin(from + owner + 1) - first)": "columns"}, GROUPED),
    ("result", "product: the bias of another row", FIXUP, {"? bias[i] : nothing": "? bias[0] : nothing"}, SUMS),
    ("result", "product: a border of the split off by one", TASK,
     {"std::int64_t{item + 1} * grid - 1": "std::int64_t{item} * grid"}, SPLIT),
    ("result", "product: pieces of activations that overlap", TASK, {"number % 8 * 16": "number % 4 * 16"}, SPLIT),
    ("result", "product: 32 bits for the place of partial sums", TASK,
     {"return (tile * split.slots()": "return (static_cast<int>(tile) * split.slots()"}, SPLIT),
    ("result", "an upload that nobody waits for", "gpu/matrix.cuh",
     {"    check(cudaStreamSynchronize(stream), \"higgs::gpu::DeviceBuffer\");\n": ""}, LATE),
    ("result", "a launch that tells an older error", "gpu/launch.cuh",
     {"check(cudaLaunchKernelExC(&config, function, pointers), ":
      "static_cast<void>(cudaLaunchKernelExC(&config, function, pointers));\n        check(cudaGetLastError(), "}, LAUNCH_TEST),
    ("result", "symbols read from the wrong bit", "pack/packed_layout.cuh",
     {"word >> bit % 8 &": "word >> bit % 4 &"}, TOY),
    ("result", "product: rows that are not aligned are rotated inside", "matmul/stream_launch.cuh",
     {"reinterpret_cast<std::uintptr_t>(task.x.data) % 16 == 0": "true"}, LAUNCH),
    ("result", "product: a gemm for the first rows of W alone", "matmul/decoded_gemm.cuh",
     {"task.w, row, weights, device": "task.w, 0, weights, device"}, GEMM),
    ("result", "a linear layer's workspace for the most rows alone", "matmul/linear.cuh",
     {"std::max(matmul_workspace(size, device_), matmul_workspace(fused_size, device_))":
      "matmul_workspace(size, device_)"}, LINEAR),
    ("result", "experts: signs of the first expert for all", EXPERTS,
     {"rotations[min(expert, window.experts - 1)]": "rotations[0]"}, GROUPED),
    ("result", "experts: the weight of another row", EXPERTS, {"row_weights[row]": "row_weights[m]"}, GROUPED),
    ("result", "experts: the bias of the first expert for all", EXPERTS,
     {"block.expert * w.layout.rows": "0"}, GROUPED),
    ("result", "experts: tiles of more than 32 experts counted from the first", EXPERTS,
     {"index -= __shfl_sync(all, end, 31);": "index -= 0;"}, GROUPED),
    ("result", "experts: a row block without its first range", EXPERTS,
     {"block.whole ? split.first_owner(part) : part": "block.whole ? min(split.first_owner(part) + 1, "
      "split.last_owner(part)) : part"}, GROUPED),
    ("result", "experts: kernels for many rows stay cold", "matmul/grouped.cuh", {"{1, 9, 17, 33}": "{1, 9, 17}"}, GROUPED),
    ("race", "experts: no barrier before the facts of the next unit", EXPERTS,
     {"  __syncthreads();  // all have read those of the unit before\n": ""}, GROUPED),
    ("race", "experts: no wait for the kernel in front, which may still run", EXPERTS,
     {"  wait_for_previous_kernel();  // which may write the offsets\n": ""}, PREFETCH),

    ("result", "warpgroups: activations without their swizzle", WGMMA,
     {"swizzled(static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(16 * piece))":
      "static_cast<std::uint32_t>(n * 128 + 16 * piece)"}, WGMMA_TEST),
    ("result", "warpgroups: rows whose last scale is zero are zeros", WGMMA, {"seen[j] |= scale[j];": ""}, WGMMA_TEST),
    ("result", "warpgroups: no fence before products", WGMMA, {"  fence_products(sums, a);\n": ""}, WGMMA_TEST),
    ("result", "warpgroups: no wait for products", WGMMA, {"  wait_products<0>(sums, a);\n": ""}, WGMMA_TEST),
    ("result", "warpgroups: the counter of splits is not left at zero", WGMMA,
     {"atomicInc(task.arrivals + unit, others)": "atomicAdd(task.arrivals + unit, 1u)"}, WGMMA_TEST),
    ("result", "warpgroups: the split of the inputs begins one warp tile late", WGMMA,
     {"begin = task.cols * split / task.splits;": "begin = task.cols * split / task.splits + (split > 0 ? 1 : 0);"}, WGMMA_TEST),
    ("result", "warpgroups: rows of the second launch written over those of the first", "matmul/wgmma_launch.cuh",
     {"out.first_x = first;": "out.first_x = 0;"}, WGMMA_TEST),
    ("race", "warpgroups: a stage is filled before it was read", WGMMA,
     {"    if (turn > 0) wait_for_phase(Shape::empty(s), (turn - 1) % 2);\n": ""}, WGMMA_TEST),
    ("race", "warpgroups: no barrier before sums take the place of activations", WGMMA,
     {"    sync_multipliers();  // all have read the ring\n": ""}, WGMMA_TEST),
    ("race", "warpgroups: no fence before the arrival of sums", WGMMA,
     {"  __threadfence();\n  sync_multipliers();\n": "  sync_multipliers();\n"}, WGMMA_TEST),
    ("bank conflicts", "warpgroups: rows of sums without gaps", WGMMA,
     {"sum_stride = group_rows + 4": "sum_stride = group_rows"}, WGMMA_TEST),

    ("result", "product: no wait for cp.async", KERNEL, {"wait_copies<0>();": ""}, MATMUL),
    ("result", "product: copies that belong to no group", KERNEL, {"commit_copies();": ""}, MATMUL),
    ("result", "product: the counter of arrivals is not left at zero", FIXUP,
     {"atomicInc(counter, others)": "atomicInc(counter, others + 1)"}, SUMS),
    ("race", "product: no fence before the arrival", FIXUP,
     {"{\n  __threadfence();\n  __syncthreads();": "{\n  __syncthreads();"}, SUMS),
    ("race", "product: the next chunk's copies before the barrier", KERNEL,
     {"    wait_copies<0>();\n    __syncthreads();\n": "    wait_copies<0>();\n",
      "rows.end) copy_chunk(rows, c + 1);\n": "rows.end) copy_chunk(rows, c + 1);\n    __syncthreads();\n"}, SCHEDULES),
    ("race", "product: no wait for the kernel in front, which may still run", KERNEL,
     {"      wait_for_previous_kernel();\n": ""}, PREFETCH),
    ("race", "product: no barrier before sums take the place of activations", FIXUP,
     {"      __syncthreads();  // nobody reads what is there\n": ""}, SCHEDULES),
    ("race", "product: no barrier before activations take the place of sums", FIXUP,
     {"  if (others == 0) __syncthreads();  // the next activations come there\n": ""}, SCHEDULES),
    ("race", "product: no barrier behind the rotation of x", KERNEL, {"      before_barrier();\n      __syncthreads();\n": "      before_barrier();\n"}, STREAM),
    ("result", "int8 product: integers go on into the next group", INT8,
     {"if (ends_segment || until == change || until == end_step)": "if (ends_segment || until == end_step)"}, INT8_TEST),
    ("result", "int8 product: a round begins with the first stage", INT8,
     {"stage = last & (stages - 1);": "stage = 0;"}, INT8_TEST),
    ("result", "int8 product: hi bytes count as 128", INT8_ROWS, {"? 256 * scale": "? 128 * scale"}, INT8_ROWS_TEST),
    ("result", "int8 product: inputs rounded down", INT8_ROWS,
     {"fmaf(v[2 * K], inverse, shift)": "(floorf(v[2 * K] * inverse) + shift)"}, INT8_ROWS_TEST),
    ("result", "int8 product: infinite inputs have a number for a scale", INT8_ROWS,
     {"if (!(largest < 0x1p126f)) scale": "if (false) scale"}, INT8_ROWS_TEST),
    ("race", "int8 product: no barrier before a buffer is rotated into again", INT8,
     {"    if (c > 0) __syncthreads();\n": ""}, INT8_TEST),
    ("race", "int8 product: no barrier behind the copies of a chunk", INT8,
     {"    wait_copies<0>();\n    __syncthreads();\n": "    wait_copies<0>();\n"}, INT8_TEST),
    ("sectors", "product: weights are read twice", KERNEL,
     {"return HasPolicy ? load_streaming_128(from, policy)":
      "return load_streaming_128(from), HasPolicy ? load_streaming_128(from, policy)"}, STREAM),
    ("bank conflicts", "product: the table's copies share banks", TABLES,
     {"number % 16 * 8 : number * 4": "number % 16 * 8 : number / 2 * 4"}, STREAM),
    ("instructions", "product: an mma too many", KERNEL,
     {"mma_m16n8k16<T>(sums[Row][c], a[k], b[k][c]);": "{\n          float none[4] = {};\n"
      "          mma_m16n8k16<T>(none, a[k], b[k][c]);\n          sums[Row][c][0] += none[0] * 0.0f;\n"
      "          mma_m16n8k16<T>(sums[Row][c], a[k], b[k][c]);\n        }"}, STREAM),

    ("ptxas: mma", "product: an mma too many", KERNEL,
     {"mma_m16n8k16<T>(sums[Row][c], a[k], b[k][c]);": "{\n          float none[4] = {};\n"
      "          mma_m16n8k16<T>(none, a[k], b[k][c]);\n          sums[Row][c][0] += none[0] * 0.0f;\n"
      "          mma_m16n8k16<T>(sums[Row][c], a[k], b[k][c]);\n        }"}, STREAM_CODE),
    ("ptxas: loads", "product: weights by 32 bits", KERNEL,
     {"return HasPolicy ? load_streaming_128(from, policy) : load_streaming_128(from);":
      "return uint4{" + ", ".join(f"reinterpret_cast<const volatile unsigned*>(from)[{i}]" for i in range(4)) + "};"},
     STREAM_CODE),
    ("ptxas: barrier", "product: a barrier in the loop", KERNEL, {"  ++step;\n": "  ++step;\n  __syncthreads();\n"}, STREAM_CODE),
    ("ptxas: spills", "product: registers for four blocks", KERNEL,
     {"static constexpr int blocks = 2;": "static constexpr int blocks = 4;"}, STREAM_CODE),
    ("ptxas: local memory", "product: sums behind an index", KERNEL,
     {"  ++step;\n": "  ++step;\n  sums[step & 3][0][0] += 1e-30f;\n"}, STREAM_CODE),
    ("ptxas: distance", "product: copies of loads that ptxas may move", KERNEL,
     {"stages == 1 ? opaque(step_loads[i]) : step_loads[i]": "step_loads[i]"}, STREAM_CODE),
    ("ptxas: prefetch", "product: no weights ahead for more than 32 rows", KERNEL,
     {"  if (k_warps == 1) Prefetch::begin": "  if (column_tiles < 8 && k_warps == 1) Prefetch::begin"}, STREAM_CODE),
]


def texts_that_are_gone(root):
    """For each fault whose place the kernels no longer have: its name and that text."""
    for _, name, header, edits, _ in FAULTS:
        text = (root / "include" / "higgs" / header).read_text()
        yield from (f"{name}: {header} no longer has: {old}" for old in edits if old not in text)


def run(*command):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")


def check_fails(a, copy, check):
    """What the check says of the copy; None where it passes. A test that does not compile is an error of this script."""
    options = ["-std=c++20", "--expt-relaxed-constexpr", f"-I{copy}", f"-I{ROOT / 'tests'}"]
    if check.endswith("_kernels.cu"):
        done = run(sys.executable, ROOT / "tests/kernel_code.py", ROOT / "tests" / check, "--nvcc", a.nvcc, "--folder",
                   a.folder / "code", "--architectures", "80", *(f"--option={o}" for o in options))
        if done.returncode and ": not " not in done.stdout:
            sys.exit(done.stdout)
        return done.stdout if done.returncode else None
    program = a.folder / "faulty"
    virtual = "compute_90a" if check in HOPPER_TESTS else "compute_80"
    made = run(a.nvcc, *options, "-gencode", f"arch={virtual},code={virtual}", "--compress-mode=none", "-lineinfo", "-O1",
               "-DHIGGS_EMULATED", "-cudart", "none", ROOT / "tests" / check, a.catch_main, a.emulator, "-o", program)
    if made.returncode:
        sys.exit(made.stdout)
    done = run(program, "~a product executes no more*")  # minutes at -O1
    return done.stdout if done.returncode else None


def reason_of(said):
    """The test case or kernel that failed, and the first thing said of it."""
    lines = [line.strip() for line in said.splitlines()]
    code = next((re.search(r"([a-z_]+_kernel<.*?>)\(.*(not .*)", line) for line in lines if ": not " in line), None)
    if code:
        return f"{code[1].replace('higgs::v0::', '')}: {code[2]}"
    rule = next((i for i, line in enumerate(lines) if set(line) == {"-"}), None)
    case = lines[rule + 1] if rule is not None else ""
    what = next((line for line in lines if "race:" in line or line.startswith(("CHECK", "REQUIRE"))), "")
    return f"{case}: " + re.sub(r"^emulator: .*?(race: .*?) at PTX.*", r"\1", what)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--emulator", type=Path, required=True)
    parser.add_argument("--catch-main", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("words", nargs="*")
    a = parser.parse_args()
    seen = faults = 0
    print("| breaks | fault | seen by |\n|---|---|---|", flush=True)
    for kind, name, header, edits, check in FAULTS:
        if a.words and not any(word in f"{kind}: {name}" for word in a.words):
            continue
        copy = a.folder / "include"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ROOT / "include", copy)
        path = copy / "higgs" / header
        text = path.read_text()
        gone = [old for old in edits if old not in text]
        for old, new in edits.items():
            text = text.replace(old, new)
        path.write_text(text)
        said = None if gone else check_fails(a, copy, check)
        faults += 1
        seen += said is not None
        reason = f"{header} no longer has: {gone[0]}" if gone else reason_of(said) if said else "NOT SEEN"
        print(f"| {kind} | {name} | {check}: {reason} |", flush=True)
    print(f"{seen} of {faults} planted faults are seen")
    sys.exit(seen != faults)


if __name__ == "__main__":
    main()
