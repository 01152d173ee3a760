# SPDX-License-Identifier: Apache-2.0
"""Fails when a document names a path or a heading that is not there, shows C++ that no file of the tree has, or when it
or a header uses a word that the glossary has replaced."""
import re
import sys
import textwrap
from pathlib import Path

DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md", "docs/format.md", "docs/glossary.md"]
TOPS = ["include", "tests", "bench", "examples", "cmake", "docs"]
PATH = re.compile(r"(?<![\w./>-])((?:include|tests|bench|examples|cmake|docs|higgs|\.ci)/[\w./*-]*)(?![\w<{$])")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`([\w-]+\.(?:md|hpp|cuh|cpp|cu|py|sh|txt|json))`")
HEADING = re.compile(r"^#+ +(.+?) *$", re.M)
FENCE = re.compile(r"^```cpp\n(.*?)^```", re.M | re.S)
BLOCK = re.compile(r"^```.*?^```$", re.M | re.S)
REGION = re.compile(r"^[^\n]*// README: begin\n(.*?)^[^\n]*// README: end", re.M | re.S)
SOURCES = {".hpp", ".cuh", ".inc", ".cpp", ".cu"}
REPLACED = {  # a word that documents must not use: the word of docs/glossary.md for its meaning
    r"strips?": "weight panel",
    r"slabs?": "warp tile",
    r"tolls?": "Lagrange multiplier",
    r"interchange order": "canonical layout",
    r"doors?": "companion files",
    r"brief": "log8",
    r"TiledMatrix": "PackedMatrix",
    r"in halves": "split evenly",
}


def anchors_of(text):
    """The anchors that GitHub makes of the headings."""
    headings = HEADING.findall(BLOCK.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def lines_of(text):
    """Without indentation and empty lines, so that a snippet may be cut from any depth."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


def errors_of_links(root, path, text):
    for link in sorted(set(LINK.findall(text))):
        target, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:") or not anchor:
            continue
        other = (path.parent / target) if target else path
        if other.is_file() and anchor not in anchors_of(other.read_text()):
            yield f"{path.relative_to(root)} links to the heading {link}, which is not there"


def errors_of_words(root, path, text):
    for word, better in REPLACED.items():
        for found in re.finditer(rf"\b{word}\b", text, re.I):
            line = text.count("\n", 0, found.start()) + 1
            yield f'{path.relative_to(root)}:{line}: "{found[0]}" is not in docs/glossary.md, which calls it {better}'


def errors_of(root):
    regions = [textwrap.dedent(region).strip() for path in sorted((root / "examples").rglob("*"))
               if path.suffix in SOURCES for region in REGION.findall(path.read_text())]
    sources = None
    documents = [root / name for name in DOCUMENTS]
    documents += [path for path in sorted((root / "docs").rglob("*.md")) if path not in documents]
    for path in documents:
        document = path.relative_to(root).as_posix()
        if not path.exists():
            yield f"{document} is missing"
            continue
        text = path.read_text()
        names = PATH.findall(text) + FILE.findall(text)
        names += [link.partition("#")[0] for link in LINK.findall(text)
                  if "://" not in link and not link.startswith(("mailto:", "#"))]
        for name in sorted({name.rstrip(".") for name in names}):
            places = [path.parent, root, root / "include"]
            if "/" not in name:  # a file's bare name, wherever it is
                places += [folder for top in TOPS for folder in (root / top).rglob("*") if folder.is_dir()]
            if not any(next(place.glob(name.rstrip("/")), None) for place in places):
                yield f"{document} names {name}, which is not there"
        yield from errors_of_links(root, path, text)
        for snippet in FENCE.findall(text):
            first = snippet.strip().splitlines()[0]
            if document == "README.md":
                if snippet.strip() not in regions:
                    yield f'README.md: the snippet that begins "{first}" is no README region of an example'
                continue
            if sources is None:
                sources = [lines_of(file.read_text()) for top in ("examples", "tests", "include")
                           for file in sorted((root / top).rglob("*")) if file.suffix in SOURCES]
            if not any("\n" + lines_of(snippet) in "\n" + source for source in sources):
                yield f'{document}: the snippet that begins "{first}" is in no file of examples, tests or include'
        if document != "CHANGELOG.md":  # which names old words
            yield from errors_of_words(root, path, text)
    for path in sorted((root / "include").rglob("*")):
        if path.suffix in SOURCES:
            yield from errors_of_words(root, path, path.read_text())


if __name__ == "__main__":
    found = list(errors_of(Path(sys.argv[1])))
    print("\n".join(found) or "documents and tree agree")
    sys.exit(bool(found))
