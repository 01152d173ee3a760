#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes unicode_forms.inc: the canonical decompositions and combining classes of Unicode 9.0.

Normalization must not depend on the machine, and Hugging Face's `tokenizers` (0.23) normalizes by Unicode 9.0: what
came later neither decomposes nor moves there. Python's tables are newer, but decompositions and classes never change
once assigned, so leaving out the later characters is enough. Run it with Python 3.11 (Unicode 14.0) in this folder:
    python3 unicode_forms.py > unicode_forms.inc
"""
import textwrap
import unicodedata

# Characters of Unicode 10.0 to 14.0 that have a class or a decomposition, and U+1715, whose class came with 14.0.
LATER = set()
for run in """7fd 898-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1df9 1dfa a82c 10d24-10d27 10eab-10eac
        10f46-10f50 10f82-10f85 11070 1133b 1145e 11839-1183a 11938 1193d-1193e 11943 119e0 11a34 11a47 11a99
        11d42 11d44-11d45 11d97 16ff0-16ff1 1e130-1e136 1e2ae 1e2ec-1e2ef""".split():
    first, _, last = run.partition("-")
    LATER.update(range(int(first, 16), int(last or first, 16) + 1))

HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic
CODE_POINTS = [c for c in range(0x110000) if c not in LATER and not 0xD800 <= c < 0xE000]


def array(name, comment, numbers):
    body = textwrap.fill(", ".join(map(str, numbers)) + ",", 110, initial_indent="    ", subsequent_indent="    ")
    print(f"// {comment}\nconstexpr std::uint32_t {name}[] = {{\n{body}\n}};\n")


def decompositions():
    """(gap since the last one, first, second or 0), and those that do not compose again."""
    numbers, excluded, last = [], [], 0
    for c in CODE_POINTS:
        mapping = unicodedata.decomposition(chr(c))
        if not mapping or mapping.startswith("<") or c in HANGUL:
            continue
        parts = [int(part, 16) for part in mapping.split()]
        numbers += [c - last, parts[0], parts[1] if len(parts) == 2 else 0]
        if len(parts) == 2 and unicodedata.normalize("NFC", chr(c)) != chr(c):
            excluded.append(c)
        last = c
    return numbers, excluded


def classes():
    """(gap since the end of the last run, code points, class)."""
    runs, end = [], 0
    for c in CODE_POINTS:
        k = unicodedata.combining(chr(c))
        if not k:
            continue
        if runs and c == end and runs[-1][2] == k:
            runs[-1][1] += 1
        else:
            runs.append([c - end, 1, k])
        end = c + 1
    return [number for run in runs for number in run]


print("// SPDX-License-Identifier: Apache-2.0")
print("// Written by unicode_forms.py from Unicode 9.0.\n\n// clang-format off\n")
pairs, excluded = decompositions()
array("decomposition_gaps",
      f"{len(pairs) // 3} canonical decompositions: code points since the last one, first part, second part or 0.",
      pairs)
array("never_composed", "Pairs that decompose but do not compose again.", excluded)
marks = classes()
array("class_runs", f"{len(marks) // 3} runs of marks: code points since the last run, code points in it, combining class.",
      marks)
print("// clang-format on")
