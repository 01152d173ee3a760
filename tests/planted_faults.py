# SPDX-License-Identifier: Apache-2.0
"""Plants one fault after the other in a copy of the kernels and wants the test of that kernel to fail.

Takes minutes, so no ctest runs it: planted_faults.py --nvcc nvcc --emulator build/cuda/tests/emulator/libhiggs_emulator.a
--catch-main build/cuda/tests/CMakeFiles/higgs_test_main.dir/main.cpp.o --folder FOLDER [WORD in the fault's name ...]
"""
import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROTATE, FRAGMENTS, STREAM = "rotate/hadamard_test.cu", "matmul/fragments_test.cu", "matmul/stream_kernel_test.cu"
FAULTS = [  # name, header under include/higgs, what stands there and what takes its place, the test that must fail
    ("a wrong result: a butterfly's sign", "rotate/hadamard.cuh",
     {"v[i + stride] = __fsub_rn(a, b);": "v[i + stride] = __fadd_rn(a, b);"}, ROTATE),
    ("a race: no __syncwarp between the passes", "rotate/hadamard.cuh",
     {"store_quads(v, MiddleQuads<Apart>(space, lane));\n  __syncwarp();":
      "store_quads(v, MiddleQuads<Apart>(space, lane));"}, ROTATE),
    ("bank conflicts: quads without their swizzle", "rotate/hadamard.cuh",
     {"return base ^ 16 * I;\n  }\n};\ntemplate <int Apart>\nstruct MiddleQuads":
      "return base;\n  }\n};\ntemplate <int Apart>\nstruct MiddleQuads",
      "lane % 8 * (Apart + 16)": "lane % 8 * Apart", "(lane % 4 * 2 ^ lane / 4) * 16": "lane / 4 * 16",
      "return base ^ 16 * (I % 2);": "return base;"}, ROTATE),
    ("sectors: the row is read twice", "rotate/hadamard.cuh",
     {"const uint4 pairs = load_128(from);": "load_streaming_128(from);\n    const uint4 pairs = load_128(from);"}, ROTATE),
    ("a wrong result: E8's signs in another order", "pack/tiles.cuh", {"exchanged ? 4u : 0u": "0u"}, FRAGMENTS),
    ("bank conflicts: half of the copies of E8's table", "matmul/fragments.cuh",
     {"e8_tiles ? lane % 8 * 16": "e8_tiles ? lane % 4 * 16"}, FRAGMENTS),
    ("a race: no barrier behind the rotation of x", "matmul/stream_kernel.cuh",
     {"if (c == 0) __syncthreads();": ""}, STREAM),
    ("a wrong result: the counter of arrivals is not left at zero", "matmul/stream_kernel.cuh",
     {"+ block, others);": "+ block, others + 1);"}, STREAM),
]

def run(*command):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_fails(a, copy, test):
    """What the test says of the copy; None where it passes. A copy that does not compile is an error of this script."""
    program = a.folder / "faulty"
    made = run(a.nvcc, "-std=c++20", "--expt-relaxed-constexpr", "-gencode", "arch=compute_80,code=compute_80",
               "--compress-mode=none", "-lineinfo", "-O1", "-DHIGGS_EMULATED", f"-I{copy}", f"-I{ROOT / 'tests'}",
               "-cudart", "none", ROOT / "tests" / test, a.catch_main, a.emulator, "-o", program)
    if made.returncode:
        sys.exit(made.stdout)
    done = run(program)
    return done.stdout if done.returncode else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--emulator", type=Path, required=True)
    parser.add_argument("--catch-main", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("words", nargs="*")
    a = parser.parse_args()
    missed = 0
    for name, header, edits, test in FAULTS:
        if a.words and not any(word in name for word in a.words):
            continue
        copy = a.folder / "include"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ROOT / "include", copy)
        path = copy / "higgs" / header
        text = path.read_text()
        for old, new in edits.items():
            if old not in text:
                sys.exit(f"{header} no longer has: {old}")
            text = text.replace(old, new)
        path.write_text(text)
        said = test_fails(a, copy, test)
        missed += said is None
        reason = next((line.strip() for line in (said or "").splitlines() if "race" in line or "CHECK" in line or
                       "REQUIRE" in line), "")
        print(f"{'NOT SEEN' if said is None else 'seen'}: {name}: {reason}", flush=True)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
