"""Compiled passes over the rows of a cell, for up to four descents at a time.

Solving a cell on a CPU is reading it again and again, so a pass takes from each read what it can: activations stay in
their 16 bits and are widened in registers, and four rows are taken together. For three or four descents, each number
that is read and widened then serves all of them: that takes about half the time of a pass for each.

Loops for one, two and four descents are written out, since only then their sums stay in registers.

Where the number of rows is no multiple of four, the last four rows are taken together, and what was counted before
counts as zero.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.solver.compiled import compiled
from probes.solver.rows import Rows, pair

LANES = 4  # descents that share a pass


class Scratch(NamedTuple):
    """Numbers of a pass: what goes with the first and the second columns of pairs, and with the rows."""

    a: NDArray  # [LANES, D / 2] float32
    b: NDArray  # [LANES, D / 2] float32
    t: NDArray  # [LANES, max(n, D)] float32
    v: NDArray  # [4, D / 2] float64

    @classmethod
    def empty(cls, n: int, D: int) -> "Scratch":
        """Room for passes over n rows of D columns, and over a triangle of D."""
        a, b = np.zeros((2, LANES, D // 2), np.float32)
        return cls(a, b, np.zeros((LANES, max(n, D)), np.float32), np.zeros((4, D // 2)))


@compiled
def spread(rows: Rows, p: NDArray, which: NDArray, z: NDArray, scratch: Scratch, several: bool | None) -> None:
    """What directions do to the logits: z[k] [n] becomes the product of p[k] [D + 1] with every row, in float32.

    p and z are float64, [L, D + 1] and [L, n]; `which` [m] are the numbers k of at most LANES descents.
    """
    a, b, t = scratch.a, scratch.b, scratch.t
    mean, inverse = rows.mean, rows.inverse
    n, h = rows.X.shape
    for lane in range(len(which)):
        of_lane = p[which[lane]]
        for j in range(h):
            a[lane, j] = np.float32(of_lane[2 * j] * inverse[2 * j])
            b[lane, j] = np.float32(of_lane[2 * j + 1] * inverse[2 * j + 1])
        total = of_lane[2 * h]
        for j in range(h):
            total -= mean[2 * j] * np.float64(a[lane, j]) + mean[2 * j + 1] * np.float64(b[lane, j])
        of_lane = z[which[lane]]
        for i in range(n):
            of_lane[i] = total
    multiply(rows.X, len(which), a, b, t, False, several)
    for lane in range(len(which)):
        of_lane = z[which[lane]]
        for i in range(n):
            of_lane[i] += np.float64(t[lane, i])


@compiled
def gather(rows: Rows, r: NDArray, which: NDArray, g: NDArray, scratch: Scratch, several: bool | None) -> None:
    """Sums of the rows, each times a number: g[k] [D + 1] becomes ∑ r[k] (x, 1), in float32.

    r and g are float64, [L, n] and [L, D + 1]; `which` [m] are the numbers k of at most LANES descents.
    """
    a, b, t = scratch.a, scratch.b, scratch.t
    mean, inverse = rows.mean, rows.inverse
    n, h = rows.X.shape
    for lane in range(len(which)):
        of_lane = r[which[lane]]
        for i in range(n):
            t[lane, i] = np.float32(of_lane[i])
    add_up(rows.X, len(which), t, a, b, False, several)
    for lane in range(len(which)):
        of_lane, total = g[which[lane]], 0.0
        for i in range(n):
            total += np.float64(t[lane, i])
        for j in range(h):
            of_lane[2 * j] = (np.float64(a[lane, j]) - mean[2 * j] * total) * inverse[2 * j]
            of_lane[2 * j + 1] = (np.float64(b[lane, j]) - mean[2 * j + 1] * total) * inverse[2 * j + 1]
        of_lane[2 * h] = total


@compiled
def apply_factor(factor: NDArray, which: NDArray, q: NDArray, scratch: Scratch, several: bool | None) -> None:
    """Multiply the first D numbers of q[k] by R'R, in their place, for a lower triangle R as pairs [D, D / 2]."""
    a, b, t = scratch.a, scratch.b, scratch.t
    for lane in range(len(which)):
        of_lane = q[which[lane]]
        for j in range(len(factor) // 2):
            a[lane, j], b[lane, j] = of_lane[2 * j], of_lane[2 * j + 1]
    multiply(factor, len(which), a, b, t, True, several)
    add_up(factor, len(which), t, a, b, True, several)
    for lane in range(len(which)):
        of_lane = q[which[lane]]
        for j in range(len(factor) // 2):
            of_lane[2 * j], of_lane[2 * j + 1] = a[lane, j], b[lane, j]


@compiled
def evaluate(
    rows: Rows, u: NDArray, offset: NDArray, s: NDArray, z: NDArray, r: NDArray, g: NDArray, scratch: Scratch
) -> None:
    """Logits and gradient of the loss at u [D + 1], in float64 from the rows as stored, in one read.

    z [n] becomes the products of u with the rows above the offsets [n]; r [n] the residuals -s sigmoid(-sign(s) z),
    where s is the weight of the row with the sign of its label; g [D + 1] becomes ∑ r (x, 1).
    """
    X, centre, unit = rows.stored, rows.centre, rows.unit
    n, h = X.shape
    v, w, a, b = scratch.v[0], scratch.v[1], scratch.v[2], scratch.v[3]
    bias, total = u[2 * h], 0.0
    for j in range(h):
        v[j], w[j], a[j], b[j] = u[2 * j] * unit[2 * j], u[2 * j + 1] * unit[2 * j + 1], 0.0, 0.0
    zero = True  # weights of zero, as at the start, need no products
    for j in range(h):
        zero &= v[j] == 0.0 and w[j] == 0.0
    for j in range(h):
        bias -= centre[2 * j] * v[j] + centre[2 * j + 1] * w[j]
    for start in range(0, n, 4):
        i = min(start, n - 4)
        x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
        t0 = t1 = t2 = t3 = bias
        for j in range(0 if zero else h):
            (p0, q0), (p1, q1), (p2, q2), (p3, q3) = pair(x0[j]), pair(x1[j]), pair(x2[j]), pair(x3[j])
            t0 += np.float64(p0) * v[j] + np.float64(q0) * w[j]
            t1 += np.float64(p1) * v[j] + np.float64(q1) * w[j]
            t2 += np.float64(p2) * v[j] + np.float64(q2) * w[j]
            t3 += np.float64(p3) * v[j] + np.float64(q3) * w[j]
        z[i], z[i + 1], z[i + 2], z[i + 3] = t0 + offset[i], t1 + offset[i + 1], t2 + offset[i + 2], t3 + offset[i + 3]
        for k in range(i, i + 4):
            r[k] = residual(z[k], s[k])
        t0, t1, t2, t3 = _fresh(r, i, start)
        for j in range(h):
            (p0, q0), (p1, q1), (p2, q2), (p3, q3) = pair(x0[j]), pair(x1[j]), pair(x2[j]), pair(x3[j])
            a[j] += t0 * np.float64(p0) + t1 * np.float64(p1) + t2 * np.float64(p2) + t3 * np.float64(p3)
            b[j] += t0 * np.float64(q0) + t1 * np.float64(q1) + t2 * np.float64(q2) + t3 * np.float64(q3)
    for i in range(n):
        total += r[i]
    for j in range(h):
        g[2 * j] = (a[j] - centre[2 * j] * total) * unit[2 * j]
        g[2 * j + 1] = (b[j] - centre[2 * j + 1] * total) * unit[2 * j + 1]
    g[2 * h] = total


@compiled
def residual(z: float, s: float) -> float:
    """-s sigmoid(-sign(s) z), the slope of a row's loss by its logit z; s is its weight with the sign of its label."""
    margin = z if s > 0.0 else -z
    e = exponential(max(-abs(margin), -700.0))
    return -s * (e if margin > 0.0 else 1.0) / (1.0 + e)


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


@compiled
def multiply(
    X: NDArray, lanes: int, a: NDArray, b: NDArray, t: NDArray, triangular: bool, several: bool | None
) -> None:
    """The products t [L, n] of rows, as pairs [n, D / 2], with columns (a, b) [L, D / 2], for the first lanes."""
    n, h = X.shape
    lane, stop = 0, h
    if several is not None:
        a0, a1, a2, a3, b0, b1, b2, b3 = a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]
        if lanes > 2:  # a fourth descent that is not there takes less than another read
            lane = LANES
            for start in range(0, n, 4):
                i = min(start, n - 4)
                x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
                t00 = t01 = t02 = t03 = t10 = t11 = t12 = t13 = np.float32(0)
                t20 = t21 = t22 = t23 = t30 = t31 = t32 = t33 = np.float32(0)
                if triangular:
                    stop = min(i // 2 + 2, h)
                for j in range(stop):
                    (p0, q0), (p1, q1), (p2, q2), (p3, q3) = pair(x0[j]), pair(x1[j]), pair(x2[j]), pair(x3[j])
                    t00 += p0 * a0[j] + q0 * b0[j]
                    t01 += p0 * a1[j] + q0 * b1[j]
                    t02 += p0 * a2[j] + q0 * b2[j]
                    t03 += p0 * a3[j] + q0 * b3[j]
                    t10 += p1 * a0[j] + q1 * b0[j]
                    t11 += p1 * a1[j] + q1 * b1[j]
                    t12 += p1 * a2[j] + q1 * b2[j]
                    t13 += p1 * a3[j] + q1 * b3[j]
                    t20 += p2 * a0[j] + q2 * b0[j]
                    t21 += p2 * a1[j] + q2 * b1[j]
                    t22 += p2 * a2[j] + q2 * b2[j]
                    t23 += p2 * a3[j] + q2 * b3[j]
                    t30 += p3 * a0[j] + q3 * b0[j]
                    t31 += p3 * a1[j] + q3 * b1[j]
                    t32 += p3 * a2[j] + q3 * b2[j]
                    t33 += p3 * a3[j] + q3 * b3[j]
                t[0, i], t[0, i + 1], t[0, i + 2], t[0, i + 3] = t00, t10, t20, t30
                t[1, i], t[1, i + 1], t[1, i + 2], t[1, i + 3] = t01, t11, t21, t31
                t[2, i], t[2, i + 1], t[2, i + 2], t[2, i + 3] = t02, t12, t22, t32
                t[3, i], t[3, i + 1], t[3, i + 2], t[3, i + 3] = t03, t13, t23, t33
    while lane < lanes:
        a0, b0 = a[lane], b[lane]
        for start in range(0, n, 4):
            i = min(start, n - 4)
            x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
            t0 = t1 = t2 = t3 = np.float32(0)
            if triangular:
                stop = min(i // 2 + 2, h)
            for j in range(stop):
                (p0, q0), (p1, q1), (p2, q2), (p3, q3) = pair(x0[j]), pair(x1[j]), pair(x2[j]), pair(x3[j])
                t0 += p0 * a0[j] + q0 * b0[j]
                t1 += p1 * a0[j] + q1 * b0[j]
                t2 += p2 * a0[j] + q2 * b0[j]
                t3 += p3 * a0[j] + q3 * b0[j]
            t[lane, i], t[lane, i + 1], t[lane, i + 2], t[lane, i + 3] = t0, t1, t2, t3
        lane += 1


@compiled
def add_up(X: NDArray, lanes: int, t: NDArray, a: NDArray, b: NDArray, triangular: bool, several: bool | None) -> None:
    """The sums (a, b) [L, D / 2] of rows, as pairs [n, D / 2], each times t [L, n], for the first lanes."""
    n, h = X.shape
    lane, stop = 0, h
    for k in range(lanes):
        for j in range(h):
            a[k, j] = b[k, j] = 0.0
    if several is not None:
        while lane + 1 < lanes:
            a0, b0, a1, b1 = a[lane], b[lane], a[lane + 1], b[lane + 1]
            for start in range(0, n, 4):
                i = min(start, n - 4)
                x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
                t0, t1, t2, t3 = _fresh(t[lane], i, start)
                s0, s1, s2, s3 = _fresh(t[lane + 1], i, start)
                if triangular:
                    stop = min(i // 2 + 2, h)
                for j in range(stop):
                    (p0, q0), (p1, q1), (p2, q2), (p3, q3) = pair(x0[j]), pair(x1[j]), pair(x2[j]), pair(x3[j])
                    a0[j] += t0 * p0 + t1 * p1 + t2 * p2 + t3 * p3
                    b0[j] += t0 * q0 + t1 * q1 + t2 * q2 + t3 * q3
                    a1[j] += s0 * p0 + s1 * p1 + s2 * p2 + s3 * p3
                    b1[j] += s0 * q0 + s1 * q1 + s2 * q2 + s3 * q3
            lane += 2
    while lane < lanes:
        a0, b0 = a[lane], b[lane]
        for start in range(0, n, 4):
            i = min(start, n - 4)
            x0, x1, x2, x3 = X[i], X[i + 1], X[i + 2], X[i + 3]
            t0, t1, t2, t3 = _fresh(t[lane], i, start)
            if triangular:
                stop = min(i // 2 + 2, h)
            for j in range(stop):
                (p0, q0), (p1, q1), (p2, q2), (p3, q3) = pair(x0[j]), pair(x1[j]), pair(x2[j]), pair(x3[j])
                a0[j] += t0 * p0 + t1 * p1 + t2 * p2 + t3 * p3
                b0[j] += t0 * q0 + t1 * q1 + t2 * q2 + t3 * q3
        lane += 1


@compiled
def _fresh(t, i, start):
    """Four numbers from t[i] on, of which those before `start` count as zero."""
    zero = t.dtype.type(0)
    t0, t1, t2, t3 = t[i], t[i + 1], t[i + 2], t[i + 3]
    return t0 if i >= start else zero, t1 if i + 1 >= start else zero, t2 if i + 2 >= start else zero, t3
