# SPDX-License-Identifier: Apache-2.0
"""Fails when clang-format 19 would change a source file. Tables that programs write are left as they are."""
import argparse
import subprocess
import sys
from pathlib import Path

SUFFIXES = {".hpp", ".inc", ".cuh", ".cpp", ".cu"}
GENERATED = ("include/higgs/codes/grid/tables/", "include/higgs/codes/grid/gaussian_grids.hpp",
             "include/higgs/codes/e8/points.hpp", "include/higgs/codes/window/points.hpp", "examples/model/tokenizer/unicode_forms.inc")


def files_of(root):
    for top in ("include", "tests", "bench", "examples", "cmake"):
        for path in sorted((root / top).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix in SUFFIXES and not name.startswith(GENERATED):
                yield name


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--fix", action="store_true", help="format the files in place")
    parser.add_argument("--clang-format", default="clang-format-19")
    arguments = parser.parse_args()
    files = list(files_of(arguments.source))
    if arguments.fix:
        sys.exit(subprocess.run([arguments.clang_format, "-i", *files], cwd=arguments.source).returncode)
    wrong = []
    for name in files:
        done = subprocess.run([arguments.clang_format, "--dry-run", "-Werror", name], cwd=arguments.source,
                              capture_output=True, text=True)
        if done.returncode != 0:
            wrong.append(done.stderr.splitlines()[0] if done.stderr else name)
    print("\n".join(wrong) or f"{len(files)} files are formatted")
    if wrong:
        print(f"{len(wrong)} of {len(files)} files are not formatted; tests/format.py --fix formats them")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
