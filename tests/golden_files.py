# SPDX-License-Identifier: Apache-2.0
"""The reader that was written from docs/format.md decodes the golden files as the library does; with --made, the files that
the library writes today are the golden ones, byte for byte."""
import argparse
import math
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True


def errors_of_reader(reader, golden):
    for name in ("all", "sharded"):
        checkpoint = golden / (name if (golden / name).is_dir() else f"{name}.safetensors")
        expected, _ = reader.read_tensors(golden / f"{name}.weights.safetensors")
        tensors, metadata = reader.read_tensors(checkpoint)
        weights = reader.read_checkpoint(checkpoint)
        if set(weights) != set(expected):
            yield f"{checkpoint}: layers {sorted(weights)}, but the library wrote {sorted(expected)}"
            continue
        for layer, ((rows, cols), values) in expected.items():
            inputs = tensors[layer + ".input_scales"][1] if layer + ".input_scales" in tensors else [1.0] * cols
            for r in range(rows):
                row, truth = weights[layer][r], values[r * cols:(r + 1) * cols]
                # The library works in floats: at most 16 + 28 additions and a product, each off by 2^-24 of a sum that the
                # Euclidean norm of the row bounds. The reader works in doubles.
                norm = math.sqrt(sum((v / s) ** 2 for v, s in zip(truth, inputs) if s))
                worst = max(abs(a - b) / s for a, b, s in zip(row, truth, inputs))
                if len(row) != cols or not worst <= 45 * 2.0 ** -24 * norm:
                    yield f"{checkpoint}: layer \"{layer}\", row {r}: a weight is off by {worst:g} of {norm:g}"
                    break


def errors_of_tables(reader, source):
    page = (source / "docs" / "format.md").read_text()
    words = re.findall(r"\b[0-9a-f]{8}\b", page.split("### e8\n")[1].split("### e8nB")[0])
    if [int(word, 16) for word in words] != reader.PATTERNS or " ".join(map(str, reader.LEVELS)) not in page:
        yield "docs/format.md and its reader have different tables of e8"


def errors_of_bytes(made, golden):
    names = {p.relative_to(folder) for folder in (made, golden) for p in folder.rglob("*") if p.is_file()}
    for name in sorted(names):
        a, b = made / name, golden / name
        if not a.exists() or not b.exists():
            yield f"{name} is in one of the two folders only"
        elif a.read_bytes() != b.read_bytes():
            yield f"{name}: the library writes other bytes than the golden file has"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--made", type=Path, help="the program that writes the golden files")
    arguments = parser.parse_args()
    golden = arguments.source / "tests" / "store" / "golden"
    sys.path.insert(0, str(arguments.source / "docs"))
    import read_checkpoint  # noqa: E402
    found = [*errors_of_reader(read_checkpoint, golden), *errors_of_tables(read_checkpoint, arguments.source)]
    if arguments.made:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([arguments.made, folder], check=True)
            found += errors_of_bytes(Path(folder), golden)
    print("\n".join(found) or "docs/format.md, its reader and the library agree")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
