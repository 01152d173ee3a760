# SPDX-License-Identifier: Apache-2.0
"""Runs clang-tidy 19 on all headers at once, through the three umbrella headers."""
import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

UMBRELLAS = ("higgs.hpp", "tools.hpp", "models.hpp")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--clang-tidy", default="clang-tidy-19")
    arguments = parser.parse_args()
    root = arguments.source.resolve()
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "headers.cpp"
        unit.write_text("".join(f"#include <higgs/{name}>\n" for name in UMBRELLAS))
        done = subprocess.run([arguments.clang_tidy, f"--config-file={root / '.clang-tidy'}", "--quiet", unit, "--",
                               "-std=c++20", f"-I{root / 'include'}"], capture_output=True, text=True)
    findings = sorted(set(re.findall(r"^\S+: (?:error|warning): .*$", done.stdout, re.M)))
    print("\n".join(findings) or ("clang-tidy finds nothing in the headers" if done.returncode == 0 else done.stderr))
    sys.exit(bool(findings) or done.returncode)


if __name__ == "__main__":
    main()
