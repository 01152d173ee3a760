# SPDX-License-Identifier: Apache-2.0
"""Reads higgs checkpoints with nothing but Python's standard library, as docs/format.md describes them.

    python3 docs/read_checkpoint.py CHECKPOINT            prints the layers
    read_checkpoint(path)[name]                           the weights of a layer, a list of rows
"""
import json
import math
import re
import struct
import sys
from pathlib import Path


def read_tensors(path):
    """{name: (shape, values)} and the metadata of a safetensors file, an index, or a folder with one of them."""
    path = Path(path)
    if path.is_dir():
        path = path / ("model.safetensors" if (path / "model.safetensors").exists() else "model.safetensors.index.json")
    tensors, metadata = {}, {}
    files = [path]
    if path.suffix == ".json":
        files = sorted({path.parent / name for name in json.loads(path.read_text())["weight_map"].values()})
    for file in files:
        data = file.read_bytes()
        begin = 8 + struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:begin])
        metadata |= header.pop("__metadata__", {})
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            letter = {"U8": "B", "I8": "b", "I16": "h", "F16": "e", "F32": "f"}[entry["dtype"]]
            count = (last - first) // struct.calcsize("<" + letter)
            tensors[name] = entry["shape"], struct.unpack_from(f"<{count}{letter}", data, begin + first)
    return tensors, metadata


def random_bits(seed, counter):
    def scatter(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31
    golden = 0x9E3779B97F4A7C15
    return scatter((scatter((seed + golden) % 2**64) + golden * (counter + 1)) % 2**64)


def base_matrix(m):
    """H_m of docs/format.md, a list of rows."""
    if m == 1:
        return [[1]]
    p, power = {12: (11, 1), 20: (19, 1), 28: (13, 1), 36: (17, 1), 44: (43, 1), 52: (5, 2), 60: (59, 1), 68: (67, 1),
                76: (37, 1), 84: (83, 1), 100: (7, 2)}[m]
    squares = {i * i % p for i in range(1, p)}
    non_residue = min(set(range(2, p)) - squares)

    def chi(i, j):
        a, b = (i + j) % p, (i // p + j // p) % p
        norm = a if power == 1 else (a * a - non_residue * b * b) % p
        return 0 if norm == 0 else 1 if norm in squares else -1
    q = p ** power
    if q % 4 == 3:
        return [[1 if i < 0 or j < 0 or chi(i, j) == 1 else -1 for j in range(-1, q)] for i in range(-1, q)]
    blocks = {1: [[1, 1], [1, -1]], 0: [[1, -1], [-1, -1]], -1: [[-1, -1], [-1, 1]]}

    def entry(row, col):
        i, j = row // 2 - 1, col // 2 - 1
        kind = 0 if i < 0 and j < 0 else 1 if i < 0 or j < 0 else chi(i, j)
        return blocks[kind][row % 2][col % 2] * (-1) ** ((row == 1) + (col == 1))
    return [[entry(row, col) for col in range(m)] for row in range(m)]


def transform(x):
    """H / sqrt(n) times the vector x."""
    n = len(x)
    run = n if n & (n - 1) == 0 else (n & -n) // 4
    for stride in (2 ** s for s in range(run.bit_length() - 1)):
        x = [x[i] + x[i + stride] if i & stride == 0 else x[i - stride] - x[i] for i in range(n)]
    rows = base_matrix(n // run)
    x = [sum(sign * x[j * run + i % run] for j, sign in enumerate(rows[i // run])) for i in range(n)]
    return [value / math.sqrt(n) for value in x]


def nearest_e8(y, unit):
    def nearest_d8(z):
        point = [(v + unit // 2) // unit * unit for v in z]
        if sum(v // unit for v in point) % 2:
            worst = max(range(8), key=lambda d: (abs(z[d] - point[d]), -d))
            point[worst] += -unit if z[worst] < point[worst] else unit
        return point
    whole, half = nearest_d8(y), [v + unit // 2 for v in nearest_d8([v - unit // 2 for v in y])]
    return half if math.dist(y, half) < math.dist(y, whole) else whole


def code_of(name, shape, table):
    """code_bits, dim and the function from the codes of a group to its coordinates."""
    size, dim = shape
    if re.fullmatch(r"w([1-4](\.5)?|5)", name):
        return int(2 * float(name[1:])), 2, lambda codes: decode_window(name, table, codes)
    code_bits, dim, point = point_of(name, size, dim, table)
    return code_bits, dim, lambda codes: [v for code in codes for v in point(code)]


def decode_window(name, table, codes):
    code_bits = int(2 * float(name[1:]))
    window_bits = max(8, code_bits)
    signs_of = SIGNS_OF["from w4 on" if code_bits >= 8 else "below w4"]
    window, signs, out = 0, [0] * 5, []
    for code in codes:
        window = window >> code_bits | code << window_bits - code_bits
        for c in range(2):
            negative = sum(signs[-d] for d in signs_of[c]) % 2
            out.append((-1) ** negative * table[2 * window + c])
        signs.append(window >> window_bits - 1)
    return out


def point_of(name, size, dim, table):
    """code_bits, dim and the function from a code to its point."""
    if name == "e8":
        def point(code):
            pattern, signs = code >> 7 & 255, code & 127
            signs |= (signs.bit_count() + (pattern >> 7) & 1) << 7
            shift = -10 if code >> 15 else 10
            return [(-1) ** (signs >> d & 1) * LEVELS[PATTERNS[pattern] >> 4 * d & 15] + shift for d in range(8)]
        return 16, 8, point
    if name.startswith("e8n"):
        bits = int(name[3:])

        def point(code):
            t = [code >> bits * d & 2 ** bits - 1 for d in range(8)]
            whole = [2 * t[0] - t[1], *(t[d] - t[d + 1] for d in range(1, 6)), t[6], 0]
            x = [4 * w + 2 * t[7] + 1 for w in whole]
            return [v - near for v, near in zip(x, nearest_e8(x, 4 << bits))]
        return 8 * bits, 8, point
    rows = [table[i * dim:(i + 1) * dim] for i in range(size)]
    radix = re.fullmatch(r"\d+x\d+r(\d+)", name)
    if not radix:
        return (size - 1).bit_length(), dim, lambda code: rows[code]
    count = int(radix[1])
    return 32, dim * count, lambda code: [
        v for i in range(count) for v in rows[code // size ** (count - 1 - i) % size]]


def scale_of_byte(b):
    k = (b + 1) % 16
    fraction = (k * (11410 + k * (230 + 5 * k)) + 128) // 256
    return struct.unpack("<e", struct.pack("<H", ((b + 1) // 16 + 14) * 1024 + fraction))[0] if b else 0.0


def read_layer(layer, tensors, name):
    rows, cols, block, group = (layer[key] for key in ("rows", "cols", "block", "group"))
    code_bits, dim, decode = code_of(layer["codebook"], *tensors[name + ".codebook"])
    scales = tensors[name + ".scales"][1]
    if layer.get("scales") == "log8":
        scales = [scale_of_byte(b) for b in scales]
    inputs = tensors[name + ".input_scales"][1] if layer.get("input_scales") else [1.0] * cols
    padded = -(-cols // block) * block
    groups, codes_per_group = padded // group, -(-group // dim)
    row_bytes = (groups * codes_per_group * code_bits + 7) // 8
    weights = []
    for r in range(rows):
        bits = int.from_bytes(bytes(tensors[name + ".codes"][1][r * row_bytes:(r + 1) * row_bytes]), "little")
        x = []
        for g in range(groups):
            codes = [bits >> (g * codes_per_group + n) * code_bits & 2 ** code_bits - 1 for n in range(codes_per_group)]
            coordinates = decode(codes)[:group]
            x += [2.0 ** layer["exponent"] * scales[r * groups + g] * v for v in coordinates]
        x = [v for b in range(0, padded, block) for v in transform(x[b:b + block])]
        if layer["seed"] is not None:
            x = [-v if random_bits(int(layer["seed"]), c // 64) >> c % 64 & 1 else v for c, v in enumerate(x)]
        weights.append([v * s for v, s in zip(x, inputs)])
    return weights


def read_checkpoint(path):
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != "higgs" or metadata.get("higgs.version") != "1":
        raise ValueError(f"{path} is no higgs checkpoint of version 1")
    prefix = "higgs.layer."
    return {key[len(prefix):]: read_layer(json.loads(text), tensors, key[len(prefix):])
            for key, text in metadata.items() if key.startswith(prefix)}


# Symbols before a window code's symbol whose sign bits negate x and y.
SIGNS_OF = {"from w4 on": ((2, 4), (1, 5)), "below w4": ((3, 5), (2, 4, 5))}
LEVELS = [0, 16, 18, 20, 23, 27, 32, 44, 53, 56, 63, 67, 76, 91, 102, 111]
PATTERNS = [int(word, 16) for word in """
26222222 22222222 43d23432 28222282 333233d2 22882222 22828222 82822222 28822222 82282222 29292222 82228222
29228222 22288222 82222822 28222822 22822822 22228822 22282922 3aaa3a22 aaaa3332 993a9332 aaa3a332 3baaa332
82222282 22822282 22282282 22228282 22222882 aa3a33a2 a332a9a2 432aa9a2 a33b3aa2 33ab3ba2 b3b3a3b2 98222223
a3aaa323 aaa43a23 aa3a3a23 e4343233 233d2333 2344d433 24978833 a3a3aa33 3a2aaa33 a23aaa33 aa43ba43 82883383
aaa332a3 33aaa2a3 3aaa33a3 aa33a3a3 b33aa3a3 3aa3b3a3 3b3bb3a3 33b4b9a3 b3b33aa3 4ab33aa3 2e333424 a2aa2a24
32233d34 4be44444 4b44e444 e4444b44 4b444e44 78333894 3a33aaa4 2b3b4bb4 566b65f4 b56f5555 455fc555 c565f555
55fc6665 5f5555b5 cf656546 f5b66556 65c55f56 5455aeb6 22282227 29222228 22822228 22228228 22222828 39893338
22222288 92222229 93832939 33488299 39222299 33328999 33392a99 33b33aa9 3ba43a2a aaa3333a aa3a333a aa32a33a
2a3aa33a a33aa43a 3ba3b43a 33a3aa3a aa333b3a 3a33bb3a 44e3444a 233abb4a b50b5b5a 445e459a 3bb223aa b23a33aa
b333a3aa 4456e5aa 4b3a42ba cb4433ba 33b943ba b3333bba 444444ea a3aa333b a3a3a33b 33ab3a3b 43bab34b 3b3b4b4b
a332ab4b a3a322ab 4b42a3ab 55b0a5bb 3339343c 4242434e 4b44544e 54655a9f 72222222 22722222 22227222 22282222
2a222222 22222722 29882222 22222282 23292982 33933992 82892222 99922222 99228222 29929222 29289222 2322b222
99292322 22992822 99222922 92922922 29922922 92229922 29329922 22289922 23222b22 32929832 22933d32 92328292
82922292 99222292 92282292 29293292 39239292 22289292 29933392 92222992 29322992 22329992 5544e4a2 444e44b2
92929223 92289223 23989223 b3222323 232c8323 9322d323 92282923 d2933333 822d3333 29292933 4444ae33 9d333343
22992293 23929293 333933d3 23b22234 44d92334 4eb44444 b5f44444 e44b4444 4e4b4444 4b4e4444 44ae4444 e444b444
4e44b444 44e4b444 44b4e444 444be444 eb444544 4e444b44 444e4b44 4444eb44 b4443e44 454b4e44 5bb4bb54 2c233284
44442ea4 e44444b4 44e444b4 bb656bb4 b44444e4 4b4444e4 44b444e4 4444b4e4 44444be4 45e44b45 55acbb55 27333366
343222b6 b6bb55b6 22222227 ba69c667 22289329 29922229 82922229 92282229 22993229 92229329 92222929 22282929
29223929 22229929 23929239 99222339 39292339 29229339 22932939 33292289 23922299 22329299 93222399 33222999
444e442a 4443e42a 666a97ca 4e44444b e444454b 45444e4b 6bca656b b6b67b6b 4b544abb 2422222c 44444a2e b544444e
44b4444e 4444b44e 454442be 555c545f
""".split()]

if __name__ == "__main__":
    for layer_name, weight_rows in read_checkpoint(sys.argv[1]).items():
        print(f"{layer_name}: {len(weight_rows)} x {len(weight_rows[0])}")
