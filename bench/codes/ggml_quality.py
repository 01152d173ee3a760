#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rows of make_quality_table for the formats of ggml, rounded by ggml itself.

    pip download --no-deps --no-binary :all: llama-cpp-python && tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B ggml -DBUILD_SHARED_LIBS=ON && cmake --build ggml --target ggml-base
    bench/codes/ggml_quality.py ggml/bin/libggml-base.so

1024 x 4096 weights of N(0, 1) from another generator than ours; the standard error is that of the mean over rows.
Formats that weigh inputs by importance get equal importances, which is what such weights have.
"""
import argparse
import ctypes
import math

import numpy

FORMATS = (
    "iq1_s iq1_m iq2_xxs iq2_xs iq2_s q2_K iq3_xxs iq3_s q3_K iq4_xs iq4_nl q4_0 q4_1 q4_K q5_0 q5_K q6_K q8_0".split()
)


class TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


def load(path):
    """The library with its signatures, and type numbers by name."""
    ggml = ctypes.CDLL(path)
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    traits = {number: ggml.ggml_get_type_traits(number).contents for number in range(40)}
    return ggml, {t.name.decode(): (number, t) for number, t in traits.items() if t.name}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="libggml-base.so")
    parser.add_argument("--rows", type=int, default=1024)
    arguments = parser.parse_args()
    ggml, types = load(arguments.library)
    cols = 4096
    weights = numpy.random.default_rng(1).standard_normal((arguments.rows, cols), dtype=numpy.float32)
    importances = numpy.ones(cols, dtype=numpy.float32)
    print("| format | bits | MSE | +- | dB | Shannon bits |\n|---|---:|---:|---:|---:|---:|")
    results = []
    for name in FORMATS:
        number, traits = types[name]
        packed = numpy.empty(arguments.rows * cols // traits.block * traits.bytes, dtype=numpy.uint8)
        ggml.ggml_quantize_chunk(number, weights.ctypes.data, packed.ctypes.data, 0,
                                 arguments.rows, cols, importances.ctypes.data)
        rounded = numpy.empty_like(weights)
        traits.to_float(packed.ctypes.data, rounded.ctypes.data, weights.size)
        rows = ((rounded - weights).astype(numpy.float64) ** 2).mean(axis=1)
        bits = 8 * traits.bytes / traits.block
        results.append((bits, -rows.mean(), name, rows.std() / math.sqrt(arguments.rows)))
    for bits, mse, name, error in sorted(results):
        decibels = 10 * math.log10(-mse) + 20 * math.log10(2) * bits
        print(f"| {name} | {bits:.4f} | {-mse:.4g} | {error:.0e} | {decibels:.2f} | {-math.log2(-mse) / 2:.2f} |")


if __name__ == "__main__":
    main()
