# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels that a .cu instantiates with ptxas for each GPU architecture and checks what came out.

The source states what it expects, one line for each group of kernels, a regular expression for their demangled names
and then conditions in Python:

    // plan: stream_kernel<.*4.*>: registers <= 128; loop.hmma == 4 * loop.ldg128; loop.bar == 0

Conditions see `arch`, what ptxas reports (registers, stack, spills, smem, barriers), how many instructions of a kind the
kernel has (hmma, imma, hgmma, ldg32, ldg64, ldg128, stg*, lds*, sts*, ldsm, ldgsts, shfl, bar, ldl, stl, instructions), and the
same of `loop`, the innermost loop with the most hmma, imma or hgmma (`loop` is empty where there is none). `loop.ldg_distance` is
the least number of instructions from a global load of 64 or 128 bits in the loop to the first that reads what it loads, going
round the loop: what the loop executes while the load is under way. No kernel may spill or use local memory unless its plan
says how much, or be without a plan, and no plan without a kernel. ptxas must not say that something
costs speed, as products of warpgroups that it serializes do. A line `// architectures: 90a` in the source names others than the usual ones.
"""
import argparse
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

ARCHITECTURES = [80, 86, 89, 90, 100, 120]
PTX_FROM = [80, 90, 100]  # nvcc makes PTX of its own from these on, so two runs less give what -arch=sm_NN gives
ALWAYS = "spills == 0; stack == 0; ldl == 0; stl == 0"  # every kernel
OPCODES = {  # the low 9 bits of an instruction; the 3 above tell how its operands are given
    0x03C: "hmma", 0x037: "imma", 0x181: "ldg", 0x186: "stg", 0x184: "lds", 0x188: "sts", 0x03B: "ldsm", 0x1AE: "ldgsts",
    0x1F0: "hgmma", 0x11D: "bar", 0x183: "ldl", 0x187: "stl", 0x189: "shfl", 0x1BC: "ublkpf", 0x02D: "preexit",
    0x02E: "acqbulk", 0x15D: "nanosleep",
}
PRODUCTS = {"hmma", "imma", "hgmma"}
BRANCH = 0x147
UNIFORM_ADD = 0x090  # its operands are uniform registers; ptxas fills gaps with it
WIDTHS = {"ldg", "stg", "lds", "sts"}
BITS = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 64, 6: 128, 7: 128}


class Code:
    """Instructions of a kernel, or of a part of it, counted by kind."""

    def __init__(self, kinds, words=()):
        self.counts = Counter(kind for kind in kinds if kind)
        self.instructions = len(kinds)
        self.ldg_distance = ldg_distance(kinds, words)

    def __getattr__(self, kind):
        return self.counts[kind]


def registers_read(low, high, kind):
    """Those of the operands A, B and C that are registers. Bits 9 to 11 say where an operand that is none stands."""
    if low & 0x1FF == UNIFORM_ADD:
        return set()
    operands = {"a": low >> 24 & 255, "c": high & 255}
    if low >> 9 & 7 == 1:
        operands["b"] = low >> 32 & 255
    several = {"a": 4, "b": 2, "c": 4} if kind in {"hmma", "imma"} else {"b": 4} if kind == "stg128" else {}
    return {r + i for name, r in operands.items() if r != 255 for i in range(several.get(name, 1))}


def ldg_distance(kinds, words):
    """The least distance from a load of 64 or 128 bits to its first reader in a loop, 0 without such a load."""
    reads = [registers_read(low, high, kind) for kind, (low, high) in zip(kinds, words)]
    distances = []
    for at, kind in enumerate(kinds[:len(words)]):
        if kind in {"ldg64", "ldg128"}:
            first = words[at][0] >> 16 & 255
            loaded = set(range(first, first + int(kind[3:]) // 32))
            later = (k for k in range(1, len(kinds)) if loaded & reads[(at + k) % len(kinds)])
            distances.append(next(later, len(kinds)))
    return min(distances, default=0)


def signed(value, bits):
    return value - (1 << bits) if value >> (bits - 1) else value


def branch_target(pc, low, high, arch):
    if arch < 90:  # bytes
        return pc + 16 + signed(low >> 32 | (high & 0x3FFFF) << 32, 50)
    words = signed(low >> 34 | (high & 0x3FFFF) << 30, 48) * 256 + (low >> 16 & 0xFF)
    return pc + 16 + 4 * words


def census(text, arch):
    """The whole code, and its innermost loop with the most tensor-core instructions."""
    kinds, words, loops = [], [], []
    for pc in range(0, len(text), 16):
        low, high = struct.unpack_from("<QQ", text, pc)
        words.append((low, high))
        kind = OPCODES.get(low & 0x1FF, "")
        kinds.append(kind + str(BITS[high >> 9 & 7]) if kind in WIDTHS else kind)
        if low & 0x1FF == BRANCH:
            target = branch_target(pc, low, high, arch)
            if 0 <= target < pc:
                loops.append((target // 16, pc // 16 + 1))
    mma = [(begin, end) for begin, end in loops if PRODUCTS & set(kinds[begin:end])]
    innermost = [a for a in mma if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in mma)]
    products = lambda loop: sum(kind in PRODUCTS for kind in kinds[loop[0]:loop[1]])  # noqa: E731
    begin, end = max(innermost, key=products, default=(0, 0))
    return Code(kinds), Code(kinds[begin:end], words[begin:end])


def sections(cubin):
    """Name and bytes of each section of an ELF file."""
    table, = struct.unpack_from("<Q", cubin, 40)
    entry_bytes, count, names_index = struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + k * entry_bytes) for k in range(count)]
    names = headers[names_index][4]
    for name, kind, _, _, offset, size in headers:
        if kind != 8:  # one without bytes
            begin = names + name
            yield cubin[begin:cubin.index(b"\0", begin)].decode(), cubin[offset:offset + size]


def ptxas_report(text):
    """Mangled name -> what ptxas -v says."""
    report = {}
    for part in text.split("Compiling entry function '")[1:]:
        number = lambda pattern: int((re.search(pattern, part) or [0, 0])[1])  # noqa: E731
        report[part[:part.index("'")]] = {
            "registers": number(r"Used (\d+) registers"), "stack": number(r"(\d+) bytes stack frame"),
            "spills": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            "smem": number(r"(\d+) bytes smem"), "barriers": number(r"used (\d+) barriers")}
    return report


def losses(text):
    """Mangled names ("" where ptxas says none) and what ptxas says costs speed, messages C7500 to C7599: products of a
    warpgroup that wait for each other, a setmaxnreg that is ignored."""
    return [(name, reason) for reason, name in re.findall(
        r"\(C75\d\d\) Potential Performance Loss: (.*?)(?: in the function '(\w+)')?$", text, re.M)]


def demangled(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, text.splitlines()))


def plans_of(source):
    for line in Path(source).read_text().splitlines():
        found = re.match(r"\s*// plan: (.+?): (.+)", line)
        if found:
            yield found[1], [c.strip() for c in found[2].split(";") if c.strip()]


def architectures_of(source):
    """The architectures that the source names, or the usual ones."""
    found = re.search(r"^// architectures: (.+)", Path(source).read_text(), re.M)
    return found[1].split() if found else ARCHITECTURES


def output_of(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


def number_of(arch):
    """90 for 90, "90" and "90a"."""
    return int(str(arch).rstrip("a"))


def errors_of(kernels, plans, arch):
    """kernels: demangled name -> (report of ptxas, code, loop)."""
    for name, (report, code, loop) in kernels.items():
        mine = [conditions for pattern, conditions in plans if re.search(pattern, name)]
        if not mine:
            yield f"sm_{arch} {name}: no plan names it"
        values = {**report, **code.counts, "arch": number_of(arch), "instructions": code.instructions, "loop": loop}
        known = Counter(values)  # what does not occur is 0
        conditions = sum(mine, [])
        planned = {condition.split()[0] for condition in conditions}
        conditions = [c for c in ALWAYS.split("; ") if c.split()[0] not in planned] + conditions
        for condition in conditions:
            if not eval(condition, {"__builtins__": {}}, known):
                seen = {word: known[word] for word in re.findall(r"(?<![\w.])[a-z]\w*(?!\w*\.)", condition) if word in known}
                seen |= {f"loop.{w}": getattr(loop, w) for w in re.findall(r"loop\.(\w+)", condition)}
                seen.pop("loop", None)
                yield f"sm_{arch} {name}: not {condition} {seen}"
    for pattern, _ in plans:
        if not any(re.search(pattern, name) for name in kernels):
            yield f"sm_{arch}: no kernel is named {pattern}"


def check(nvcc, source, options, folder, architectures):
    """A row for each kernel and architecture, and what is wrong. The code is that of nvcc -arch=sm_NN."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(shutil.which(nvcc)).resolve().with_name("ptxas")
    ptxas = beside if beside.exists() else "ptxas"
    plans, errors, rows = list(plans_of(source)), [], []
    ptx = {}
    for arch in architectures:
        number = number_of(arch)
        virtual = arch if str(arch).endswith("a") else max(a for a in PTX_FROM if a <= number)
        if virtual not in ptx:
            ptx[virtual] = folder / f"compute_{virtual}.ptx"
            output_of(nvcc, "-ptx", f"-arch=compute_{virtual}", *options, source, "-o", ptx[virtual])
        cubin = folder / f"sm_{arch}.cubin"
        text = output_of(ptxas, "-v", f"-arch=sm_{arch}", ptx[virtual], "-o", cubin)
        report = ptxas_report(text)
        names = demangled(list(report))
        codes = {name.removeprefix(".text."): census(data, number) for name, data in sections(cubin.read_bytes())
                 if name.startswith(".text.")}
        kernels = {names[k]: (report[k], *codes[k]) for k in report}
        errors += errors_of(kernels, plans, arch)
        errors += [f"sm_{arch} {names.get(name, name)}: {reason}" for name, reason in losses(text)]
        for name, (facts, code, loop) in sorted(kernels.items()):
            counts = " ".join(f"{kind} {count}" for kind, count in sorted(loop.counts.items()))
            rows.append(f"sm_{arch:<4}{facts['registers']:4} registers {code.instructions:5} instructions"
                        f"{f', loop of {loop.instructions}: {counts}' if loop.instructions else ''}"
                        f"{f', load to use {loop.ldg_distance}' if loop.ldg_distance else ''}  {name}")
    return rows, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--folder", type=Path, required=True, help="for the cubins")
    parser.add_argument("--architectures", help="80,90, say; those of the source")
    parser.add_argument("--option", action="append", default=[], help="for nvcc")
    a = parser.parse_args()
    rows, errors = check(a.nvcc, a.source, a.option, a.folder, a.architectures.split(",") if a.architectures else architectures_of(a.source))
    print("\n".join(rows + errors))
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
