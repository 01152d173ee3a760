# SPDX-License-Identifier: Apache-2.0
"""Fails when a document names a path that is not there, or README.md shows C++ that no example runs."""
import re
import sys
import textwrap
from pathlib import Path

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md"]
TOPS = ["include", "tests", "bench", "examples", "cmake"]
PATH = re.compile(r"(?<![\w./>-])((?:include|tests|bench|examples|cmake|higgs|\.ci)/[\w./*-]*)(?![\w<{$])")
LINK = re.compile(r"\]\(([^)#\s]+)")
FILE = re.compile(r"`([\w-]+\.(?:md|hpp|cuh|cpp|cu|py|sh|txt|json))`")
FENCE = re.compile(r"^```cpp\n(.*?)^```", re.M | re.S)
REGION = re.compile(r"^[^\n]*// README: begin\n(.*?)^[^\n]*// README: end", re.M | re.S)


def errors_of(root):
    regions = [textwrap.dedent(region).strip() for path in sorted((root / "examples").rglob("*"))
               if path.suffix in {".cpp", ".cu"} for region in REGION.findall(path.read_text())]
    for document in DOCUMENTS:
        path = root / document
        if not path.exists():
            yield f"{document} is missing"
            continue
        text = path.read_text()
        names = PATH.findall(text) + FILE.findall(text)
        names += [link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")]
        for name in sorted({name.rstrip(".") for name in names}):
            places = [path.parent, root, root / "include"]
            if "/" not in name:  # a file's bare name, wherever it is
                places += [folder for top in TOPS for folder in (root / top).rglob("*") if folder.is_dir()]
            if not any(next(place.glob(name.rstrip("/")), None) for place in places):
                yield f"{document} names {name}, which is not there"
        if document == "README.md":
            for snippet in FENCE.findall(text):
                if snippet.strip() not in regions:
                    first = snippet.strip().splitlines()[0]
                    yield f'README.md: the snippet that begins "{first}" is no README region of an example'


if __name__ == "__main__":
    found = list(errors_of(Path(sys.argv[1])))
    print("\n".join(found) or "documents and tree agree")
    sys.exit(bool(found))
