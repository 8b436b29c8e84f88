"""The rows of one cell, standardised implicitly, and compiled passes over them.

Solving a cell on a CPU is reading it again and again, so a pass takes from each read what it can: activations stay in
their 16 bits and are widened in registers, and four rows at a time share each access to the weights.

A loop either sums or stores numbers one by one. Before a loop that does both, compiled code looks whether its arrays
lie close together in memory, and sums in another order where they do: the last bits would be those of the moment.

A column j stands for (x - mean) · inverse, where `inverse` is one over its standard deviation: columns that dwarf all
others (residual streams have some) and offsets far above a column's spread then cost neither steps nor digits. Vectors
of [D + 1] numbers are of the standardised columns, and of the intercept at their end.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.compiled import compiled, specialise
from probes.solver.inputs import has_odd_scale


class Rows(NamedTuple):
    """The rows of a cell for compiled passes; n is a multiple of four, rows of zeros fill it up."""

    X: NDArray  # [n, D]: uint16, the bits of bfloat16; or float32, standardised already
    mean: NDArray  # [D] float64 to be taken off X
    inverse: NDArray  # [D] float64 that what is left is multiplied by
    stored: NDArray  # [n, D] as given: uint16, float32 or float64
    centre: NDArray  # [D] float64, the mean of every stored column
    unit: NDArray  # [D] float64, one over its deviation; 0 for a constant column


class Columns(NamedTuple):
    """The columns of the rows as stored, [D] float64 each; NaN or infinity in a column makes its mean so."""

    mean: NDArray
    deviation: NDArray  # 0 where it is no more than rounding
    least: NDArray
    most: NDArray

    def have_odd_scale(self) -> bool:
        """Whether they are so large, or differ by so little, that no probe and score in float32 can hold them."""
        return bool(has_odd_scale(torch.from_numpy(self.least), torch.from_numpy(self.most)))


def store(acts: Tensor) -> NDArray:
    """Activations [N, D] of any floating dtype as [n, D] for compiled code, in their place where that is possible."""
    n, D = acts.shape
    raw = acts.float() if acts.dtype == torch.float16 else acts
    if n % 4 or not raw.is_contiguous():
        raw = torch.zeros(n + -n % 4, D, dtype=raw.dtype)
        raw[:n] = acts
    return (raw.view(torch.uint16) if raw.dtype == torch.bfloat16 else raw).numpy()


@np.errstate(all="ignore")
def describe_columns(stored: NDArray, n: int) -> Columns:
    """Mean, deviation and range of the columns of the first n rows."""
    first, total, squares, least, most = moments(stored[:n])
    drift = total / n
    mean = first + drift
    deviation = np.sqrt(np.maximum(squares / n - drift**2, 0))
    # Sums are taken in float64, whatever the dtype: what is stored counts to its last digit.
    digits = n * np.finfo(np.float64).eps
    rounding = np.maximum(digits * np.abs(mean), 1e-12 * np.maximum(np.abs(least), np.abs(most)))
    return Columns(mean, np.where((least < most) & (deviation > rounding), deviation, 0), least, most)


def standardise(stored: NDArray, columns: Columns) -> Rows:
    """Rows for compiled passes, from [n, D] and its columns."""
    constant = columns.deviation == 0
    unit = np.where(constant, 0, 1 / np.where(constant, 1, columns.deviation))
    if stored.dtype == np.uint16:
        return Rows(stored, columns.mean, unit, stored, columns.mean, unit)
    X = ((stored - columns.mean) * unit).astype(np.float32)
    return Rows(X, np.zeros(len(unit)), np.ones(len(unit)), stored, columns.mean, unit)


def wide(x: Any) -> Any:
    """A number as a float: the bits of a bfloat16 as float32, any other as it is. For compiled code only."""
    raise NotImplementedError


@specialise(wide)
def _wide(x):
    if x.name == "uint16":
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@compiled
def moments(X: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """Of every column, [D] float64: its first number; sum and sum of squares of what it is above that; least, largest.

    The first number is taken off so that offsets far above the spread cost no digits.
    """
    D = X.shape[1]
    pivot, total, squares, least, most = np.empty(D), np.zeros(D), np.zeros(D), np.empty(D), np.empty(D)
    for j in range(D):
        pivot[j] = least[j] = most[j] = np.float64(wide(X[0, j]))
    for i in range(len(X)):
        for j in range(D):
            stored = np.float64(wide(X[i, j]))
            x = stored - pivot[j]
            total[j] += x
            squares[j] += x * x
            least[j] = min(least[j], stored)
            most[j] = max(most[j], stored)
    return pivot, total, squares, least, most


@compiled
def spread(rows: Rows, p: NDArray, z: NDArray) -> None:
    """What a direction p [D + 1] float64 does to the logits: z [n] becomes its product with every row, in float32."""
    X, mean, inverse = rows.X, rows.mean, rows.inverse
    D = X.shape[1]
    q, offset = np.empty(D, np.float32), p[D]
    for j in range(D):
        q[j] = np.float32(p[j] * inverse[j])
    for j in range(D):
        offset -= mean[j] * np.float64(q[j])
    for i in range(0, len(X), 4):
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        t0 = t1 = t2 = t3 = np.float32(0)
        for j in range(D):
            t0 += wide(x0[j]) * q[j]
            t1 += wide(x1[j]) * q[j]
            t2 += wide(x2[j]) * q[j]
            t3 += wide(x3[j]) * q[j]
        z[i], z[i + 1], z[i + 2], z[i + 3] = t0 + offset, t1 + offset, t2 + offset, t3 + offset


@compiled
def gather(rows: Rows, r: NDArray, g: NDArray) -> None:
    """The sum of the rows, each times a number r [n] float64: g [D + 1] becomes ∑ r (x, 1), in float32."""
    X, mean, inverse = rows.X, rows.mean, rows.inverse
    D = X.shape[1]
    h, total = np.zeros(D, np.float32), 0.0
    for i in range(0, len(X), 4):
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        r0, r1, r2, r3 = np.float32(r[i]), np.float32(r[i + 1]), np.float32(r[i + 2]), np.float32(r[i + 3])
        total += np.float64(r0) + np.float64(r1) + np.float64(r2) + np.float64(r3)
        for j in range(D):
            h[j] += r0 * wide(x0[j]) + r1 * wide(x1[j]) + r2 * wide(x2[j]) + r3 * wide(x3[j])
    for j in range(D):
        g[j] = (np.float64(h[j]) - mean[j] * total) * inverse[j]
    g[D] = total


@compiled
def evaluate(rows: Rows, u: NDArray, s: NDArray, logit: NDArray, r: NDArray, g: NDArray) -> None:
    """Logits and gradient of the loss at u [D + 1], in float64 from the rows as stored, in one read.

    logit [n] holds the offsets and gets the products of u with the rows added; r [n] becomes the residuals
    -s sigmoid(-sign(s) logit), where s is the weight of the row with the sign of its label; g becomes ∑ r (x, 1).
    """
    X, centre, unit = rows.stored, rows.centre, rows.unit
    D = X.shape[1]
    w, offset, total = np.empty(D), u[D], 0.0
    for j in range(D):
        w[j], g[j] = u[j] * unit[j], 0.0
    for j in range(D):
        offset -= centre[j] * w[j]
    for i in range(0, len(X), 4):
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        for j in range(D):
            t0 += np.float64(wide(x0[j])) * w[j]
            t1 += np.float64(wide(x1[j])) * w[j]
            t2 += np.float64(wide(x2[j])) * w[j]
            t3 += np.float64(wide(x3[j])) * w[j]
        logit[i] += t0 + offset
        logit[i + 1] += t1 + offset
        logit[i + 2] += t2 + offset
        logit[i + 3] += t3 + offset
        for k in range(i, i + 4):
            margin = logit[k] if s[k] > 0.0 else -logit[k]
            e = exponential(max(-abs(margin), -700.0))
            r[k] = -s[k] * (e if margin > 0.0 else 1.0) / (1.0 + e)
        r0, r1, r2, r3 = r[i], r[i + 1], r[i + 2], r[i + 3]
        for j in range(D):
            g[j] += (
                r0 * np.float64(wide(x0[j])) + r1 * np.float64(wide(x1[j]))
                + r2 * np.float64(wide(x2[j])) + r3 * np.float64(wide(x3[j]))
            )  # fmt: skip
    for i in range(len(X)):
        total += r[i]
    for j in range(D):
        g[j] = (g[j] - centre[j] * total) * unit[j]
    g[D] = total


@compiled
def exponential(x: float) -> float:
    """e^x for x in [-700, 0] to 3e-14 of it, without a call: a loop over it then runs on several numbers at once.

    e^x = 2^k e^f with f in ±ln(2)/2, of which the series is summed; k goes into the bits of the exponent.
    """
    k = np.floor(x * 1.4426950408889634 + 0.5)
    f = (x - k * 0.693145751953125) - k * 1.4286068203094172e-06
    e = 1.0 + f * (1.0 + f * (1 / 2 + f * (1 / 6 + f * (1 / 24 + f * (1 / 120 + f * (1 / 720 + f * (1 / 5040 + f * (
        1 / 40320 + f * (1 / 362880 + f * (1 / 3628800 + f * (1 / 39916800 + f / 479001600)))))))))))  # fmt: skip
    return e * np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)).view(np.float64)
