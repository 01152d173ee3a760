# SPDX-License-Identifier: Apache-2.0
"""How other methods round a matrix, written from their papers; ggml rounds by itself.

Each function takes weights (rows, cols) and what the inputs of the matrix are, and gives the rounded weights and all bits that
a file needs for them, scales and zero points included.
"""
import ctypes
import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "codes"))
from ggml_quality import FORMATS, load  # noqa: E402, F401

GROUP = 128
SHRINKS = [1 - 0.04 * i for i in range(13)]  # of a group's range, for the search of its scale
# What llama-quantize takes for a matrix whose rows are no whole blocks of 256.
OTHER_TYPES = {"q4_K": "q5_0", "q5_K": "q5_1", "q6_K": "q8_0"}


class Inputs:
    """What is known of a matrix's inputs: H = sum of x^T x, and the sums of |x|."""

    def __init__(self, cols):
        self.moment = torch.zeros(cols, cols)
        self.magnitudes = torch.zeros(cols)
        self.rows = 0

    def add(self, x):
        x = x.reshape(-1, x.shape[-1])
        self.moment.addmm_(x.T, x)
        self.magnitudes += x.abs().sum(0)
        self.rows += len(x)


def costs(moment, errors):
    """e H e^T of each row e of errors."""
    return ((errors @ moment) * errors).sum(1)


class Uniform:
    """An asymmetric uniform grid for each row: fp16 scale, and a zero point that is one of its 2^bits points."""

    def __init__(self, x, bits, shrink=1.0):
        low, high = x.amin(1, keepdim=True).clamp(max=0) * shrink, x.amax(1, keepdim=True).clamp(min=0) * shrink
        self.most = 2**bits - 1
        self.scale = ((high - low) / self.most).half().float().clamp(min=2.0**-24)
        self.zero = (-low / self.scale).round().clamp(0, self.most)

    def round(self, x):
        return ((x / self.scale + self.zero).round().clamp(0, self.most) - self.zero) * self.scale

    @classmethod
    def searched(cls, x, bits, cost):
        """That of the shrunk ranges that costs each row least; `cost` takes errors (rows, n)."""
        best = cls(x, bits)
        least = cost(best.round(x) - x)
        for shrink in SHRINKS[1:]:
            other = cls(x, bits, shrink)
            costs = cost(other.round(x) - x)
            better = costs < least
            least = torch.where(better, costs, least)
            best.scale = torch.where(better[:, None], other.scale, best.scale)
            best.zero = torch.where(better[:, None], other.zero, best.zero)
        return best


def uniform_bits(rows, cols, bits):
    """Codes, and the scale and the zero point of each group."""
    return rows * (cols * bits + -(-cols // GROUP) * (16 + bits))


def gptq(weights, inputs, bits, act_order):
    """GPTQ (Frantar et al., 2022): columns in turn, each error fed to the columns behind it; damping of 1 %.

    A group's grid is that of the least squared error on the weights as they are when the group begins. `act_order`: columns
    in order of falling mean square; a file then says where each column belongs, in 16 bits.
    """
    moment, left = inputs.moment.double(), weights.clone()
    dead = moment.diagonal() == 0
    moment.diagonal()[dead] = 1
    left[:, dead] = 0
    moment.diagonal().add_(0.01 * moment.diagonal().mean())
    rows, cols = weights.shape
    order = moment.diagonal().argsort(descending=True) if act_order else torch.arange(cols)
    left, moment = left[:, order], moment[order][:, order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    rounded = torch.empty_like(left)
    for begin in range(0, cols, GROUP):
        end = min(begin + GROUP, cols)
        grid = Uniform.searched(left[:, begin:end], bits, lambda e: e.square().sum(1))
        errors = torch.empty(rows, end - begin)
        for c in range(begin, end):
            rounded[:, c] = grid.round(left[:, c:c + 1])[:, 0]
            errors[:, c - begin] = (left[:, c] - rounded[:, c]) / factor[c, c]
            left[:, c:end].addr_(errors[:, c - begin], factor[c, c:end], alpha=-1)
        left[:, end:] -= errors @ factor[begin:end, end:]
    return rounded[:, order.argsort()], uniform_bits(rows, cols, bits) + (16 * cols if act_order else 0)


def awq(weights, inputs, bits):
    """AWQ (Lin et al., 2023): inputs are scaled by a power of their mean magnitude, weights by its inverse, then rounded to
    the nearest. The power is searched in steps of 1/10, then of 1/20, then the range of each group of each row; all by the
    error of the matrix's own outputs. The scales of inputs are 16 bits each.
    """
    rows, cols = weights.shape
    magnitudes = (inputs.magnitudes / inputs.rows).clamp(min=1e-6)
    groups = [slice(begin, min(begin + GROUP, cols)) for begin in range(0, cols, GROUP)]

    def scaled(power):
        scales = magnitudes**power
        return (scales / (scales.max() * scales.min()).sqrt()).half().float()

    def rounded(scales, search):
        x, out = weights * scales, torch.empty_like(weights)
        for group in groups:
            moment = inputs.moment[group, group] / (scales[group, None] * scales[group])
            cost = functools.partial(costs, moment)
            grid = Uniform.searched(x[:, group], bits, cost) if search else Uniform(x[:, group], bits)
            out[:, group] = grid.round(x[:, group]) / scales[group]
        return out

    def lost(candidate):
        return costs(inputs.moment, candidate - weights).sum().item()

    tried = {}

    def lost_with(power):
        if power not in tried:
            tried[power] = lost(rounded(scaled(power), search=False))
        return tried[power]

    power = min((i / 10 for i in range(10)), key=lost_with)
    power = min((power, max(power - 0.05, 0.0), power + 0.05), key=lost_with)
    best = min((rounded(scaled(power), search) for search in (False, True)), key=lost)
    return best, uniform_bits(rows, cols, bits) + 16 * cols


@functools.cache
def ggml_types(library):
    return load(str(library))


def ggml(weights, inputs, name, library):
    """A type of ggml, with the mean squares of inputs as importance matrix, which llama-imatrix would measure."""
    quantizer, types = ggml_types(library)
    rows, cols = weights.shape
    number, traits = types[name]
    if cols % traits.block:
        number, traits = types[OTHER_TYPES.get(name, "iq4_nl")]
    weights = weights.contiguous()
    importances = (inputs.moment.diagonal() / inputs.rows).contiguous()
    packed = (ctypes.c_uint8 * (rows * cols // traits.block * traits.bytes))()
    quantizer.ggml_quantize_chunk(number, weights.data_ptr(), ctypes.addressof(packed), 0, rows, cols,
                                  importances.data_ptr())
    rounded = torch.empty_like(weights)
    traits.to_float(ctypes.addressof(packed), rounded.data_ptr(), rounded.numel())
    return rounded, 8 * len(packed)
