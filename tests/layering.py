# SPDX-License-Identifier: Apache-2.0
"""Fails when a header includes what its folder may not see, or breaks a rule that all headers keep."""
import re
import sys
from pathlib import Path

STAGES = {  # folder: the folders it may include, besides itself and config.hpp
    "core": set(),
    "gpu": {"core"},
    "cpu": {"core", "pack"},
    "rotate": {"core", "cpu", "gpu"},
    "scale": {"core", "cpu", "gpu"},
    "encode": {"core", "cpu", "gpu", "codes"},
    "pack": {"core", "gpu"},
    "codes": {"core", "cpu", "gpu", "pack", "encode"},
    "fit": {"core", "cpu", "codes", "encode"},
    "store": {"core", "codes", "pack"},
    "round": {"core", "cpu", "gpu", "rotate", "scale", "encode", "codes", "pack", "store"},
    "matmul": {"core", "cpu", "gpu", "rotate", "codes", "pack", "store"},
    "allocate": {"core"},
}
TOP = {  # header: the folders and top headers it may include
    "config.hpp": set(),
    "quantizer.hpp": set(STAGES) - {"matmul", "allocate"},
    "quantizer.cuh": set(STAGES) - {"matmul", "allocate"} | {"quantizer.hpp"},
    "higgs.hpp": set(STAGES) | {"quantizer.hpp", "quantizer.cuh"},
    "tools.hpp": {"allocate", "fit", "round"},
    "models.hpp": {"store"},
}
# The folders of examples/model in the order of the data: each may include itself and those before it.
MODEL = ["json", "math", "tokenizer", "chat", "architecture", "source", "network", "device", "measure", "pages", "terminal",
         "quantize", "compare", "plan", "cli"]
CUDA = re.compile(r"(cuda|cub|thrust|nv|cooperative_groups|mma)\b|cuda_|device_launch|.*\.cuh$")
LICENSE = "// SPDX-License-Identifier: Apache-2.0"


def errors_of_model(name, lines):
    """The errors of a file of the application: `name` is that below examples/model."""
    folder = name.parts[0]
    if folder not in MODEL:
        yield f"examples/model/{name}:1: {folder} is not in the list of tests/layering.py"
        return
    for number, text in enumerate(lines, 1):
        include = re.match(r'\s*#\s*include\s*"([^"/]+)/', text)
        if include and include[1] not in MODEL[:MODEL.index(folder) + 1]:
            yield f"examples/model/{name}:{number}: {folder} may not include {include[1]}"


def errors_of(root):
    headers = root / "include" / "higgs"
    sources = [p for top in ("include", "tests", "bench", "examples") for p in sorted((root / top).rglob("*"))
               if p.suffix in {".hpp", ".cuh", ".cpp", ".cu"}]
    for path in sources:
        lines = path.read_text().splitlines()
        name = path.relative_to(root)
        if not lines or lines[0] != LICENSE:
            yield f"{name}:1: the first line is not: {LICENSE}"
        if root / "examples" / "model" in path.parents:
            yield from errors_of_model(path.relative_to(root / "examples" / "model"), lines)
        if headers not in path.parents:
            continue
        parts = path.relative_to(headers).parts
        table = STAGES if len(parts) > 1 else TOP
        if parts[0] not in table:
            yield f"{name}:1: {parts[0]} is not in the table of tests/layering.py"
            continue
        may_see = table[parts[0]] | {"config.hpp"} - set(parts[:1]) | ({parts[0]} if len(parts) > 1 else set())
        if "#pragma once" not in lines:
            yield f"{name}:1: no #pragma once"
        for number, text in enumerate(lines, 1):
            where = f"{name}:{number}"
            macro = re.match(r"\s*#\s*define\s+(\w+)", text)
            if macro and not macro[1].startswith("HIGGS_"):
                yield f"{where}: macro {macro[1]} does not begin with HIGGS_"
            include = re.match(r"\s*#\s*include\s*([<\"])([^>\"]+)", text)
            if not include:
                continue
            quote, target = include.groups()
            if quote == '"':
                yield f"{where}: write #include <higgs/...>, not quotes"
            if path.suffix == ".hpp" and parts != ("higgs.hpp",) and CUDA.match(target):
                yield f"{where}: a .hpp may not include CUDA ({target})"
            if target.startswith("higgs/"):
                seen = target.split("/")[1]
                if seen not in may_see:
                    yield f"{where}: {parts[0]} may not include {seen}"
                if seen == "gpu" and path.suffix == ".hpp" and parts != ("higgs.hpp",):
                    yield f"{where}: only a .cuh may include gpu"


if __name__ == "__main__":
    found = list(errors_of(Path(sys.argv[1])))
    print("\n".join(found) or "layering holds")
    sys.exit(bool(found))
