# SPDX-License-Identifier: Apache-2.0
"""GPTQ, written from its paper alone (Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
transformers", ICLR 2023, algorithm 1) in Python's doubles, leaves the loss that the library's rounding with feedback leaves:
tr((W - Q) H (W - Q)^T), within 1 %.

    gptq.py SOURCE PROGRAM      PROGRAM writes the rounded matrices, see tests/round/write_rounded.cpp

GPTQ rounds the rotated weights with the rotated second moment, by the definitions of docs/format.md. The paper leaves the
grid to the caller. The library's is that of its code with the RMS of a group's updated weights as scale, and least squares
fit the scale once the group is rounded, so GPTQ gets the same rules here.
"""
import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

DAMPING = 0.01  # "1 % of the average diagonal value" (section 3.3)


def dot(a, b):
    return sum(map(float.__mul__, a, b))


def transposed(matrix):
    return [list(column) for column in zip(*matrix)]


def cholesky(matrix):
    """Lower triangular L with L L^T = matrix."""
    lower = []
    for i, row in enumerate(matrix):
        lower.append([])
        for j in range(i):
            lower[i].append((row[j] - dot(lower[i], lower[j][:j])) / lower[j][j])
        lower[i].append(math.sqrt(row[i] - dot(lower[i], lower[i])))
    return lower


def inverse(matrix):
    """Of a positive definite matrix."""
    n, lower = len(matrix), cholesky(matrix)
    columns = []
    for c in range(n):
        y = []
        for i in range(n):
            y.append(((i == c) - dot(lower[i][:i], y)) / lower[i][i])
        x = [0.0] * n
        for i in reversed(range(n)):
            x[i] = (y[i] - sum(lower[j][i] * x[j] for j in range(i + 1, n))) / lower[i][i]
        columns.append(x)
    return columns


def loss(errors, moment):
    """tr(E H E^T)."""
    return sum(dot(e, [dot(e, row) for row in moment]) for e in errors)


class Gptq:
    """Algorithm 1 for the rows of a matrix, with the rules for scales above."""

    def __init__(self, moment, grid, group):
        damping = DAMPING * sum(row[i] for i, row in enumerate(moment)) / len(moment)
        damped = [[h + damping * (i == j) for j, h in enumerate(row)] for i, row in enumerate(moment)]
        inverted = inverse(damped)
        self.factor = [column[j:] for j, column in enumerate(transposed(padded(cholesky(inverted))))]
        self.grid, self.group = grid, group
        ends = range(group, len(moment) + 1, group)
        # What errors of the inputs before `end` cost once all others are free to make up for them.
        self.costs = [inverse([row[:end] for row in inverted[:end]]) for end in ends]

    def round(self, weights):
        """The errors of a row, and those of rounding each weight to the nearest."""
        left, errors, nearest = list(weights), [], []
        for g, begin in enumerate(range(0, len(weights), self.group)):
            end = begin + self.group
            step = rms(left[begin:end])
            points = self.run(list(left), begin, end, lambda j, value: self.nearest(value / step), step)
            scale = self.fit(errors + weights[begin:end], points, self.costs[g])
            self.run(left, begin, end, lambda j, value: points[j - begin], scale)
            errors += [w - scale * p for w, p in zip(weights[begin:end], points)]
            step = rms(weights[begin:end])
            nearest += [w - step * self.nearest(w / step) for w in weights[begin:end]]
        return errors, nearest

    def run(self, left, begin, end, choose, scale):
        """Rounds inputs [begin, end) and moves all behind each of them: the points."""
        points = []
        for j in range(begin, end):
            points.append(choose(j, left[j]))
            error = (left[j] - scale * points[-1]) / self.factor[j][0]
            left[j:] = [value - error * factor for value, factor in zip(left[j:], self.factor[j])]
        return points

    def nearest(self, value):
        return min(self.grid, key=lambda point: abs(point - value))

    @staticmethod
    def fit(weights, points, cost):
        """The scale of the last points that costs least where errors of earlier inputs are fixed."""
        late = [0.0] * (len(weights) - len(points)) + points
        moved = [dot(late, row) for row in cost]
        return dot(moved, weights) / dot(moved, late)


def padded(lower):
    return [row + [0.0] * (len(lower) - len(row)) for row in lower]


def rms(values):
    return math.sqrt(dot(values, values) / len(values))


def rotated(reader, layer, row):
    """A row of numbers for each input, as docs/format.md rotates it."""
    block = layer["block"]
    row = row + [0.0] * (-len(row) % block)
    if layer["seed"] is not None:
        seed = int(layer["seed"])
        row = [-v if reader.random_bits(seed, c // 64) >> c % 64 & 1 else v for c, v in enumerate(row)]
    return [v for begin in range(0, len(row), block) for v in reader.transform(row[begin:begin + block])]


def matrix_of(tensors, name):
    (rows, cols), values = tensors[name]
    return [list(values[r * cols:(r + 1) * cols]) for r in range(rows)]


def compare(reader, layer, tensors, name, rounded):
    """The losses of the library, of GPTQ and of rounding to the nearest."""
    weights, moment = matrix_of(tensors, name + ".weights"), matrix_of(tensors, name + ".moment")
    lost = loss([[w - q for w, q in zip(*rows)] for rows in zip(weights, rounded)], moment)
    scales = tensors[name + ".input_scales"][1] if layer.get("input_scales") else [1.0] * layer["cols"]
    half = [rotated(reader, layer, [h * s for h, s in zip(row, scales)]) for row in moment]
    half = [[h * s for h in row] for row, s in zip(half, scales)]
    moment = [rotated(reader, layer, column) for column in transposed(half)]
    grid = [point * layer["step"] for point in tensors[name + ".codebook"][1]]
    gptq = Gptq(moment, grid, layer["group"])
    errors = [gptq.round(rotated(reader, layer, [w / s for w, s in zip(row, scales)])) for row in weights]
    return lost, loss([e for e, _ in errors], moment), loss([e for _, e in errors], moment)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("program", help="higgs_write_rounded")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.source / "docs"))
    import read_checkpoint as reader  # noqa: E402
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rounded.safetensors"
        subprocess.run([arguments.program, file], check=True)
        tensors, metadata = reader.read_tensors(file)
        for name, rounded in reader.read_checkpoint(file).items():
            layer = json.loads(metadata["higgs.layer." + name])
            ours, theirs, nearest = compare(reader, layer, tensors, name, rounded)
            # Where GPTQ gains little, a library without feedback would pass.
            ok = abs(ours / theirs - 1) <= 0.01 and theirs < 0.9 * nearest
            failed += not ok
            print(f"{'ok' if ok else 'WRONG'}: {name}: {ours / theirs:.5f} of the loss of GPTQ, "
                  f"which has {theirs / nearest:.3f} of that of nearest rounding")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
