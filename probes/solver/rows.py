"""The rows of one cell, standardised implicitly: how they are held, and what their columns are like.

A column j stands for (x - mean) · inverse, where `inverse` is one over its standard deviation: columns that dwarf all
others (residual streams have some) and offsets far above a column's spread then cost neither steps nor digits. Vectors
of [D + 1] numbers are of the standardised columns, and of the intercept at their end.

Two neighbours of a row are read as one: two bfloat16 as one uint32, two float16 as one int32, two floats as one complex
number. `pair` takes them apart. That is how 16 bits are widened in registers at the cost of one to four operations.

Passes over large cells wait for memory. Float32 and float64 rows of these are standardised and rounded to float16 for
the passes, where the penalty is so strong that this only costs a few steps (`is_coarse`).

A loop either sums or stores numbers one by one. Before a loop that does both, compiled code looks whether its arrays
lie close together in memory, and sums in another order where they do: the last bits would be those of the moment.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.compiled import compiled, specialise
from probes.solver.inputs import has_odd_scale


class Rows(NamedTuple):
    """The rows of a cell for compiled passes: at least four of them, and an even number D of columns."""

    X: NDArray  # [n, D / 2] pairs as given, uint32 or int32; or standardised already, int32 or complex64
    mean: NDArray  # [D] float64 to be taken off X
    inverse: NDArray  # [D] float64 that what is left is multiplied by
    stored: NDArray  # [n, D / 2] pairs as given: uint32, int32, complex64 or complex128
    centre: NDArray  # [D] float64, the mean of every stored column
    unit: NDArray  # [D] float64, one over its deviation; 0 for a constant column

    @property
    def is_coarse(self) -> bool:
        """Whether X was rounded to float16."""
        return self.X.dtype == np.int32 and self.stored.dtype != np.int32


class Columns(NamedTuple):
    """The columns of the rows as stored, [D] float64 each; NaN or infinity in a column makes its mean so."""

    mean: NDArray
    deviation: NDArray  # 0 where it is no more than rounding
    least: NDArray
    most: NDArray

    def have_odd_scale(self) -> bool:
        """Whether they are so large, or differ by so little, that no probe and score in float32 can hold them."""
        return bool(has_odd_scale(torch.from_numpy(self.least), torch.from_numpy(self.most)))


PAIRS = {
    torch.bfloat16: np.uint32,
    torch.float16: np.int32,
    torch.float32: np.complex64,
    torch.float64: np.complex128,
}
BEYOND_HALF = 65536.0  # what infinity and NaN in float16 are widened to, at least; all else is below
LARGE = 2**21  # numbers of a cell from which on its passes wait for memory
WEAK = 1e-5  # penalty for each row of scaled columns below which rounding to float16 may mislead directions
BLOCK = 2**17  # numbers standardised at a time, so that they stay in cache


def store(acts: Tensor) -> NDArray:
    """Activations [N, D] of any floating dtype as pairs for compiled code, in their place where that is possible.

    Fewer than four rows are filled up with the first one, and an odd number of columns with one of zeros.
    """
    n, D = acts.shape
    # Compiled code widens small float16 numbers by way of subnormal float32 ones, which some programs flush to zero.
    flushed = acts.dtype == torch.float16 and np.float32(1e-40) * np.float32(1) == 0
    raw = acts.float() if flushed else acts
    if n < 4 or D % 2 or not raw.is_contiguous() or raw.data_ptr() % (2 * raw.element_size()):
        raw = torch.zeros(max(n, 4), D + D % 2, dtype=raw.dtype)
        raw[:n, :D], raw[n:, :D] = acts, acts[:1]
    return (raw.view(torch.uint16) if raw.dtype == torch.bfloat16 else raw).numpy().view(PAIRS[raw.dtype])


def unpair(pairs: NDArray) -> NDArray:
    """The rows [n, D] of pairs [n, D / 2], in the same memory: uint16 (of bfloat16), float16, float32 or float64."""
    return pairs.view({"u": np.uint16, "i": np.float16, "c": f"f{pairs.itemsize // 2}"}[pairs.dtype.kind])


@np.errstate(all="ignore")
def describe_columns(stored: NDArray, n: int) -> Columns:
    """Mean, deviation and range of the columns of n rows, from `store`."""
    first, total, squares, least, most = moments(stored).transpose(0, 2, 1).reshape(5, -1)
    drift = total / n
    mean = first + drift
    if stored.dtype == np.int32:
        mean[(most >= BEYOND_HALF) | (least <= -BEYOND_HALF)] = np.nan
    deviation = np.sqrt(np.maximum(squares / n - drift**2, 0))
    # Sums are taken in float64, whatever the dtype: what is stored counts to its last digit.
    digits = n * np.finfo(np.float64).eps
    rounding = np.maximum(digits * np.abs(mean), 1e-12 * np.maximum(np.abs(least), np.abs(most)))
    return Columns(mean, np.where((least < most) & (deviation > rounding), deviation, 0), least, most)


def standardise(stored: NDArray, columns: Columns, ridge: float = 0.0) -> Rows:
    """Rows for compiled passes, from pairs [n, D / 2] and their columns.

    `ridge` is the least penalty of any problem on a weight of scaled columns; with 0 large cells are not rounded.
    """
    constant = columns.deviation == 0
    unit = np.where(constant, 0, 1 / np.where(constant, 1, columns.deviation))
    if stored.dtype in (np.uint32, np.int32):
        return Rows(stored, columns.mean, unit, stored, columns.mean, unit)
    given, n = torch.from_numpy(unpair(stored)), len(stored)
    coarse = given.numel() >= LARGE and ridge >= WEAK * n
    X = torch.empty(given.shape, dtype=torch.float16 if coarse else torch.float32)
    mean, scale = torch.from_numpy(columns.mean), torch.from_numpy(unit)
    block = max(1, BLOCK // given.shape[1])
    for some, out in zip(given.split(block), X.split(block), strict=True):
        out.copy_((some - mean).mul_(scale))
    pairs = X.numpy().view(PAIRS[X.dtype])
    return Rows(pairs, np.zeros(len(unit)), np.ones(len(unit)), stored, columns.mean, unit)


def pair(x: Any) -> Any:
    """Two neighbours of a row, widened if they have 16 bits. For compiled code only."""
    raise NotImplementedError


@specialise(pair)
def _pair(x):
    if x.name == "uint32":
        return lambda x: (
            np.uint32(x << np.uint32(16)).view(np.float32),
            np.uint32(x & np.uint32(0xFFFF0000)).view(np.float32),
        )
    if x.name == "int32":
        raised = _raise_exponent()
        return lambda x: (
            raised(np.int32((np.int32(x << np.int32(16)) >> np.int32(3)) & np.int32(-0x70002000)).view(np.float32)),
            raised(np.int32((x >> np.int32(3)) & np.int32(-0x70002000)).view(np.float32)),
        )
    return lambda x: (x.real, x.imag)


def _raise_exponent() -> Any:
    """A function for compiled code that multiplies a float32 number by 2^112.

    The bits of a float16 number, moved to their place in float32, mean 2^-112 of it, because exponents count from 127
    there and from 15 here. Infinity and NaN become numbers of at least 65,536. The function has no fast arithmetic:
    otherwise the compiler takes the factor out of a sum, whose terms are then too small or too large for float32.
    """
    import numba

    exponent = np.float32(2.0**112)
    return numba.njit(fastmath=False, forceinline=True)(lambda x: x * exponent)


@compiled
def moments(X: NDArray) -> NDArray:
    """Of every column of pairs [n, D / 2], n at least 4: [5, 2, D / 2] float64, second columns after all first ones.

    The five are its number in the first row; the sum and the sum of squares of what it is above that; least, largest.
    The first number is taken off so that offsets far above the spread cost no digits.
    """
    n, h = X.shape
    out = np.zeros((5, 2, h))
    for j in range(h):
        for side in range(2):
            out[0, side, j] = out[3, side, j] = out[4, side, j] = pair(X[0, j])[side]
    for start in range(0, n, 4):  # four rows share each access to the sums; those summed before count as zero
        i = min(start, n - 4)
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        w0, w1, w2 = 1.0 if i >= start else 0.0, 1.0 if i + 1 >= start else 0.0, 1.0 if i + 2 >= start else 0.0
        for side in range(2):
            first, total, squares, least, most = out[0, side], out[1, side], out[2, side], out[3, side], out[4, side]
            for j in range(h):
                a0, a1, a2, a3 = pair(x0[j])[side], pair(x1[j])[side], pair(x2[j])[side], pair(x3[j])[side]
                d0, d1 = w0 * (np.float64(a0) - first[j]), w1 * (np.float64(a1) - first[j])
                d2, d3 = w2 * (np.float64(a2) - first[j]), np.float64(a3) - first[j]
                total[j] += (d0 + d1) + (d2 + d3)
                squares[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
                least[j] = min(least[j], min(min(a0, a1), min(a2, a3)))
                most[j] = max(most[j], max(max(a0, a1), max(a2, a3)))
    return out
