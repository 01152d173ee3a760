#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Products of ggml beside ours, in turns: K = N = 4096, weights beyond the caches, one thread, processor time.

    pip download --no-deps --no-binary :all: llama-cpp-python && tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B ggml -DBUILD_SHARED_LIBS=ON -DCMAKE_BUILD_TYPE=Release
    cmake --build ggml --target ggml
    bench/run.sh matmul/matmul        # builds matmul_bench
    bench/matmul/ggml_matmul.py ggml/bin build/release-bench/bench/matmul_bench

Each round runs every type of ggml, as it is and repacked by its CPU_REPACK buffers, then ours. Printed are medians over
the rounds, in microseconds for one row of x and in GFLOP/s for more.
"""
import argparse
import ctypes
import re
import statistics
import subprocess
import time
from pathlib import Path

import numpy

SIZE = 4096
TYPES = {"Q4_0": 2, "Q4_K": 12, "IQ4_XS": 23, "Q3_K": 11, "IQ3_XXS": 18, "Q2_K": 10, "IQ2_XXS": 16}
REPACKED = {"Q4_0", "Q4_K", "Q2_K"}  # what CPU_REPACK takes on x86-64
OURS = "2x256|1x16|2x64|2x16|4x256|e8|w4|w3.5|w3|w2.5|w2"


class InitParams(ctypes.Structure):
    """`struct ggml_init_params` of ggml.h."""

    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Ggml:
    """As much of ggml as a product needs."""

    def __init__(self, folder):
        for name in ("base", "cpu"):
            setattr(self, name, ctypes.CDLL(str(folder / f"libggml-{name}.so"), mode=ctypes.RTLD_GLOBAL))
        pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        for library, name, result, arguments in (
            (self.base, "ggml_init", pointer, [InitParams]),
            (self.base, "ggml_free", None, [pointer]),
            (self.base, "ggml_new_tensor_2d", pointer, [pointer, number, size, size]),
            (self.base, "ggml_mul_mat", pointer, [pointer, pointer, pointer]),
            (self.base, "ggml_new_graph", pointer, [pointer]),
            (self.base, "ggml_build_forward_expand", None, [pointer, pointer]),
            (self.base, "ggml_nbytes", ctypes.c_size_t, [pointer]),
            (self.base, "ggml_quantize_chunk", ctypes.c_size_t, [number, pointer, pointer, size, size, size, pointer]),
            (self.base, "ggml_backend_alloc_ctx_tensors_from_buft", pointer, [pointer, pointer]),
            (self.base, "ggml_backend_buffer_free", None, [pointer]),
            (self.base, "ggml_backend_tensor_set", None, [pointer, pointer, ctypes.c_size_t, ctypes.c_size_t]),
            (self.base, "ggml_backend_graph_compute", number, [pointer, pointer]),
            (self.base, "ggml_backend_reg_get_proc_address", pointer, [pointer, ctypes.c_char_p]),
            (self.base, "ggml_backend_reg_dev_get", pointer, [pointer, ctypes.c_size_t]),
            (self.cpu, "ggml_backend_cpu_init", pointer, []),
            (self.cpu, "ggml_backend_cpu_set_n_threads", None, [pointer, number]),
            (self.cpu, "ggml_backend_cpu_buffer_type", pointer, []),
            (self.cpu, "ggml_backend_cpu_reg", pointer, []),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.backend = self.cpu.ggml_backend_cpu_init()
        self.cpu.ggml_backend_cpu_set_n_threads(self.backend, 1)
        self.plain = self.cpu.ggml_backend_cpu_buffer_type()
        registry = self.cpu.ggml_backend_cpu_reg()
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(
            self.base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        )
        self.repack = extra(self.base.ggml_backend_reg_dev_get(registry, 0))[0]

    def context(self):
        return self.base.ggml_init(InitParams(1 << 24, None, True))

    def set(self, tensor, values):
        self.base.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, values.nbytes)

    def seconds(self, kind, packed, rows, repacked):
        """The median processor time of a product with `rows` rows of x."""
        ggml, copies = self.base, 12 if rows == 1 else 2
        weights = self.context()
        matrices = [ggml.ggml_new_tensor_2d(weights, kind, SIZE, SIZE) for _ in range(copies)]
        memory = ggml.ggml_backend_alloc_ctx_tensors_from_buft(weights, self.repack if repacked else self.plain)
        for matrix in matrices:
            self.set(matrix, packed)
        values = self.context()
        x = ggml.ggml_new_tensor_2d(values, 0, SIZE, rows)
        graph = ggml.ggml_new_graph(values)
        for matrix in matrices:
            ggml.ggml_build_forward_expand(graph, ggml.ggml_mul_mat(values, matrix, x))
        room = ggml.ggml_backend_alloc_ctx_tensors_from_buft(values, self.plain)
        self.set(x, numpy.random.default_rng(2).standard_normal((rows, SIZE), dtype=numpy.float32))
        times = []
        for _ in range(10 if rows == 1 else 4):
            start = time.process_time()
            ggml.ggml_backend_graph_compute(self.backend, graph)
            times.append((time.process_time() - start) / copies)
        for buffer, context in ((room, values), (memory, weights)):
            ggml.ggml_backend_buffer_free(buffer)
            ggml.ggml_free(context)
        return statistics.median(times[1:])

    def quantize(self, kind, values):
        probe = self.context()
        packed = numpy.empty(self.base.ggml_nbytes(self.base.ggml_new_tensor_2d(probe, kind, SIZE, SIZE)), numpy.uint8)
        self.base.ggml_free(probe)
        importances = numpy.ones(SIZE, numpy.float32)
        self.base.ggml_quantize_chunk(
            kind, values.ctypes.data, packed.ctypes.data, 0, SIZE, SIZE, importances.ctypes.data
        )
        return packed


def ours(bench, rows):
    """Seconds of our products by name."""
    pattern = f"matmul/matmul/cpu(_int8)?/({OURS})/({'|'.join(map(str, rows))})x{SIZE}x"
    out = subprocess.run(
        [bench, f"--benchmark_filter={pattern}", "--benchmark_min_time=0.1"], capture_output=True, text=True, check=True
    ).stdout
    for name, count, time_us in re.findall(r"matmul/matmul/cpu(\S*?)/(\d+)x\d+x\d+/manual_time\s+([\d.]+) us", out):
        activations, codebook = name.split("/")
        yield f"HIGGS {codebook}{', 8-bit x' if activations else ''}", int(count), float(time_us) * 1e-6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where libggml-base.so and libggml-cpu.so are")
    parser.add_argument("bench", help="our matmul_bench")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ggml = Ggml(arguments.folder.resolve())
    # 64 rows again and again: searching for the codes of all would take minutes.
    values = numpy.tile(numpy.random.default_rng(1).standard_normal((64, SIZE), dtype=numpy.float32), (SIZE // 64, 1))
    packed = {name: ggml.quantize(kind, values) for name, kind in TYPES.items()}
    times = {}
    for _ in range(arguments.rounds):
        for name, kind in TYPES.items():
            for repacked in (False, True) if name in REPACKED else (False,):
                for rows in arguments.rows:
                    seconds = ggml.seconds(kind, packed[name], rows, repacked)
                    times.setdefault(f"ggml {name}{', repacked' if repacked else ''}", {}).setdefault(rows, []).append(seconds)
        for name, rows, seconds in ours(arguments.bench, arguments.rows):
            times.setdefault(name, {}).setdefault(rows, []).append(seconds)
    print("| | " + " | ".join(f"M = {rows}" for rows in arguments.rows) + " |")
    print("|---|" + "---:|" * len(arguments.rows))
    for name, by_rows in times.items():
        cells = []
        for rows in arguments.rows:
            median = statistics.median(by_rows[rows])
            cells.append(f"{median * 1e6:.0f} us" if rows == 1 else f"{2 * rows * SIZE**2 / median * 1e-9:.0f} GFLOP/s")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
