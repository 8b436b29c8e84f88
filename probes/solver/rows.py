"""The rows of one cell as they are stored, and compiled passes over them.

Solving a cell on a CPU is reading it again and again, so a pass takes from each read what it can: activations stay in
their 16 bits and are widened in registers, a row that is in cache serves both the logits and the sum over rows, and
four rows at a time share each access to the weights. PyTorch reads a cell of float32 twice for the same.

Everywhere X [n, D] are rows of which `mean` [D] is still to be taken off, and n is a multiple of four.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.compiled import compiled, specialise

HEAVY, MOST_HEAVY = 64.0, 31  # a column with so many times the median sum of squares is split off, if few are


class Rows(NamedTuple):
    """Rows of a cell for compiled passes, without the columns that dwarf all others (residual streams have some).

    Those form the *border*, with the intercept: in X they would drown the other columns' digits.
    """

    X: NDArray  # [n, D]: uint16, the bits of bfloat16, or float32, float64; heavy columns and rows at the end are zero
    mean: NDArray  # [D] float64, to be taken off X
    stored: NDArray  # [n, D]: what was given, exact, where X is rounded by centring or scaling; else X
    border: NDArray  # [n, 1 + m] float64: ones, and the heavy columns, centred and scaled
    heavy: NDArray  # [m] int64, numbers of the heavy columns
    zeroed: NDArray  # [D] bool: columns that X holds as zeros, heavy ones and, standardised, constant ones
    centre: NDArray  # [D] float64: the mean of every column as stored, heavy ones too
    scale: NDArray  # [D] float64: what centred columns are divided by

    @classmethod
    @np.errstate(all="ignore")
    def of(cls, acts: Tensor, standardize: bool) -> "Rows":
        """Copy activations [n, D] of any floating dtype; NaN or infinity among them makes `centre` so."""
        n, D = acts.shape
        raw = torch.zeros(n + -n % 4, D, dtype=torch.float32 if acts.dtype == torch.float16 else acts.dtype)
        raw[:n] = acts
        stored = (raw.view(torch.uint16) if raw.dtype == torch.bfloat16 else raw).numpy()
        total, squares = moments(stored)
        centre, scale, constant = total / n, np.ones(D), np.zeros(D, bool)
        if raw.dtype == torch.bfloat16 and not standardize:
            bits, mean = stored, centre.copy()
        else:  # float32 has the digits for what is left once the mean is off
            bits = (raw.float() if raw.dtype == torch.bfloat16 else raw.clone()).numpy()
            bits[:n] -= centre.astype(bits.dtype)
            mean, (_, squares) = np.zeros(D), moments(bits)
            if standardize:
                spread = np.sqrt(squares / n)
                constant = spread <= n * np.finfo(bits.dtype).eps * np.abs(centre)  # but for rounding
                scale = np.where(constant, 1, spread)
                bits[:n] /= scale.astype(bits.dtype)
                bits[:, constant] = 0
                squares = np.where(constant, 0, squares / scale**2)
        heavy = np.flatnonzero(squares > HEAVY * np.median(squares))
        heavy = heavy[np.argsort(-squares[heavy], kind="stable")[:MOST_HEAVY]]
        border = np.zeros((len(bits), 1 + len(heavy)))
        border[:n, 0] = 1
        columns = raw[:n, torch.from_numpy(heavy)].double().numpy()
        border[:n, 1:] = (columns - centre[heavy]) / scale[heavy]
        bits[:, heavy] = 0
        mean[heavy] = 0
        zeroed = np.zeros(D, bool)
        zeroed[heavy] = True
        return cls(bits, mean, stored, border, heavy, zeroed | constant, centre, scale)


def wide(x: Any) -> Any:
    """A number as a float: the bits of a bfloat16 as float32, any other as it is. For compiled code only."""
    raise NotImplementedError


@specialise(wide)
def _wide(x):
    if x.name == "uint16":
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@compiled
def moments(X: NDArray) -> tuple[NDArray, NDArray]:
    """Sum and sum of squares of every column as stored, [D] float64."""
    total, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for i in range(len(X)):
        for j in range(X.shape[1]):
            x = np.float64(wide(X[i, j]))
            total[j] += x
            squares[j] += x * x
    return total, squares


@compiled
def lengths(X: NDArray, mean: NDArray) -> tuple[NDArray, NDArray]:
    """Of every row: its square once the mean is off, |x - mean|², and x·mean; [n] float64."""
    square, along = np.zeros(len(X)), np.zeros(len(X))
    for i in range(len(X)):
        a, b = 0.0, 0.0
        for j in range(X.shape[1]):
            x = np.float64(wide(X[i, j]))
            a += (x - mean[j]) * (x - mean[j])
            b += x * mean[j]
        square[i], along[i] = a, b
    return square, along


@compiled
def evaluate(
    X: NDArray, mean: NDArray, w: NDArray, s: NDArray, sign: NDArray, logit: NDArray, gradient: NDArray
) -> None:
    """Logits and the gradient of the loss in float64, from one read.

    logit [n] holds the border's part and gets w·(x - mean) added; gradient [D] becomes ∑ r (x - mean) with the
    residuals r = -s sigmoid(-sign logit), where s is the weight of the row with the sign of its label.
    """
    offset, total = 0.0, 0.0
    for j in range(X.shape[1]):
        offset += mean[j] * w[j]
    gradient[:] = 0.0
    r = np.empty(4)
    for i in range(0, len(X), 4):
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
        for j in range(X.shape[1]):
            t0 += np.float64(wide(x0[j])) * w[j]
            t1 += np.float64(wide(x1[j])) * w[j]
            t2 += np.float64(wide(x2[j])) * w[j]
            t3 += np.float64(wide(x3[j])) * w[j]
        r[0], r[1], r[2], r[3] = t0, t1, t2, t3
        for k in range(4):
            logit[i + k] += r[k] - offset
            r[k] = -s[i + k] / (1.0 + math.exp(sign[i + k] * logit[i + k]))
            total += r[k]
        r0, r1, r2, r3 = r[0], r[1], r[2], r[3]
        for j in range(X.shape[1]):
            gradient[j] += (
                r0 * np.float64(wide(x0[j])) + r1 * np.float64(wide(x1[j]))
                + r2 * np.float64(wide(x2[j])) + r3 * np.float64(wide(x3[j]))
            )  # fmt: skip
    for j in range(X.shape[1]):
        gradient[j] -= total * mean[j]


@compiled
def product(X: NDArray, mean: NDArray, p: NDArray, curvature: NDArray, t: NDArray, v: NDArray) -> None:
    """What a direction p [D] does to the logits, and the product with the Hessian, from one read.

    t [n] float64 holds the border's part and gets p·(x - mean) added; v [D] becomes ∑ curvature t (x - mean). Sums run
    in the dtype of p and v.
    """
    offset, total = 0.0, 0.0
    for j in range(X.shape[1]):
        offset += mean[j] * p[j]
    v[:] = 0
    for i in range(0, len(X), 4):
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        t0 = t1 = t2 = t3 = v.dtype.type(0)
        for j in range(X.shape[1]):
            t0 += wide(x0[j]) * p[j]
            t1 += wide(x1[j]) * p[j]
            t2 += wide(x2[j]) * p[j]
            t3 += wide(x3[j]) * p[j]
        t[i] += t0 - offset
        t[i + 1] += t1 - offset
        t[i + 2] += t2 - offset
        t[i + 3] += t3 - offset
        t0 = v.dtype.type(curvature[i] * t[i])
        t1 = v.dtype.type(curvature[i + 1] * t[i + 1])
        t2 = v.dtype.type(curvature[i + 2] * t[i + 2])
        t3 = v.dtype.type(curvature[i + 3] * t[i + 3])
        total += t0 + t1 + t2 + t3
        for j in range(X.shape[1]):
            v[j] += t0 * wide(x0[j]) + t1 * wide(x1[j]) + t2 * wide(x2[j]) + t3 * wide(x3[j])
    for j in range(X.shape[1]):
        v[j] -= total * mean[j]
