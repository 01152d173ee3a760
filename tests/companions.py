# SPDX-License-Identifier: Apache-2.0
"""Fails when a header lacks its test, a test or benchmark lacks its header, the umbrella headers forget one, or a test
case has a name that CMake takes for several."""
import re
import sys
from pathlib import Path

UMBRELLAS = {"higgs.hpp", "models.hpp", "tools.hpp"}
NO_TEST = UMBRELLAS | {"config.hpp", "codes/e8/points.hpp", "codes/window/points.hpp", "cpu/intrinsics.hpp", "cpu/isa.hpp",
                       "cpu/targets.hpp"}  # nothing in them can be called
E8_KERNELS = {f"codes/e8/search_{isa}.hpp" for isa in ("portable", "avx2", "avx512")}  # building blocks of search.hpp
NO_TEST_FOLDERS = {"gpu", "cpu/portable", "cpu/avx2", "cpu/avx512", "cpu/neon",  # building blocks: tested by their users
                   "codes/grid/tables"}  # tables that codes/grid/grid_test.cpp covers
NOT_IN_UMBRELLA = {"codes/grid/tables", "codes/e8/points.hpp", "cpu/portable", "cpu/avx2", "cpu/avx512", "cpu/neon",
                   "cpu/intrinsics.hpp", "cpu/isa.hpp", "cpu/targets.hpp",  # large tables that their user includes
                   "matmul/cublas_gemm.cuh"}  # needs cuBLAS

# TEST_CASE("name", TEMPLATE_TEST_CASE("name" and so on; a name may be several literals.
CASE = re.compile(r'^\w*TEST_CASE\w*\((?:\w+,)?\s*((?:"(?:[^"\\]|\\.)*"\s*)+)', re.M)


def in_folder(name, folders):
    return any(name.startswith(folder + "/") for folder in folders)


def errors_of(root):
    include = root / "include" / "higgs"
    headers = {p.relative_to(include).as_posix() for p in include.rglob("*") if p.suffix in {".hpp", ".cuh"}}

    unit = {".hpp": ".cpp", ".cuh": ".cu"}
    for header in sorted(headers - NO_TEST - E8_KERNELS):
        stem, suffix = header[:-4], header[-4:]
        test = f"tests/{stem}_test{unit[suffix]}"
        if not in_folder(header, NO_TEST_FOLDERS) and not header.endswith("/code.hpp") and not (root / test).exists():
            yield f"include/higgs/{header} has no {test}"

    # Code outside include/ that has tests: the application, and the emulator that runs the kernels.
    model = {p.relative_to(root / "examples").as_posix() for p in (root / "examples" / "model").rglob("*")
             if p.suffix in {".hpp", ".cuh"}}
    emulator = {f"emulator/{p.stem}.hpp" for p in (root / "tests" / "emulator").glob("*.?pp")}
    for top, ending in (("tests", "_test"), ("bench", "_bench")):
        for path in sorted((root / top).rglob(f"*{ending}.c*")):
            stem = path.relative_to(root / top).with_suffix("").as_posix().removesuffix(ending)
            if path.suffix not in {".cpp", ".cu"}:
                continue
            text = path.read_text()
            for case in CASE.finditer(text):
                if ";" in case[1]:
                    line = text.count("\n", 0, case.start()) + 1
                    yield f"{path.relative_to(root)}:{line}: the name of the case has a ';', which separates lists of CMake"
            if not {stem + ".hpp", stem + ".cuh"} & (headers | model | emulator):
                yield f"{path.relative_to(root)} has no include/higgs/{stem}.hpp"

    included = [header for umbrella in sorted(UMBRELLAS & headers) for header in
                re.findall(r"^\s*#\s*include\s*<higgs/([^>]+)>", (include / umbrella).read_text(), re.M)]
    for header in sorted(headers - UMBRELLAS - NOT_IN_UMBRELLA - E8_KERNELS):
        if not in_folder(header, NOT_IN_UMBRELLA) and included.count(header) != 1:
            yield f"<higgs/{header}> must be in one of {', '.join(sorted(UMBRELLAS))}, but is in {included.count(header)}"


if __name__ == "__main__":
    found = list(errors_of(Path(sys.argv[1])))
    print("\n".join(found) or "every header has its companion files")
    sys.exit(bool(found))
