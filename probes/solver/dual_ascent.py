"""Dual coordinate ascent: sweeps over the rows of a cell that carry logistic regression most of the way.

The weights are w = ∑ s a (x - mean) / l2, where s is the weight that the row has in the loss, with the sign of its
label, and a in (0, 1) is a coefficient of the row. At the optimum a = sigmoid(-sign(s) logit): what the loss of a row
of weight 1 falls by per unit of margin. A sweep visits the rows in random order and, with all others held, gives each
the coefficient for which this holds: a step that no line search could better, at the price of one read of the row,
while a step on all weights at once costs a read of every row (Yu, Huang & Lin 2011, Machine Learning 85).

The intercept carries no penalty and heavy columns hardly any for their size, which would leave these coefficients no
freedom to move one by one. So the border's values v are held near where the last sweep left them, by a penalty that
makes the border a hundredth part of a row's length, but is a small part of the loss's own curvature; as the centre
follows, that penalty vanishes (the proximal point method; Rockafellar 1976, SIAM J. Control and Optimization 14).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probes.solver.compiled import compiled
from probes.solver.rows import Rows, wide

SETTLED = 1e-5  # a sweep that finds every margin so near to what its coefficient stands for has little left to do
SWEEPS = 90  # most sweeps; beyond them the rows are so alike that conjugate gradients are faster
BORDER_SHARE = 0.01  # of a row's squared length, as far as its coefficient can tell
LOSS_SHARE = 0.1  # of the largest curvature of the loss, a quarter a row
UNTOUCHED = 30.0  # margin of a row whose coefficient is still zero: to sigmoid, as good as infinite
FOLLOW = 0.6  # how far the centre follows the border after a sweep; the whole way it may swing past its goal


class Lengths(NamedTuple):
    """Inner products of the rows x of a cell with themselves and with the mean m of its columns, float64."""

    square: NDArray  # |x - m|², [n]
    along: NDArray  # x·m, [n]
    mean_square: float  # |m|²


class State(NamedTuple):
    """What a sweep changes in place; float64, but for w, which has the precision of the passes."""

    a: NDArray  # coefficients, [n]
    margin: NDArray  # what they stand for: a = sigmoid(-margin), [n]
    w: NDArray  # ∑ s a x / l2, [D]: the weights, but for the mean
    mean_part: NDArray  # ∑ s a / l2, by which w is off, in units of the mean; and ∑ s a x·m / l2
    v: NDArray  # the border's values, [1 + m]


def border_gain(border: NDArray, square: float, used: ArrayLike, l2: ArrayLike) -> tuple[NDArray, NDArray]:
    """How strongly the border's values are held near their centre, and what a unit of a coefficient adds to them.

    border [n, 1 + m] is that of rows of mean squared length `square`, `used` of which count; l2 and `used` are numbers,
    or [J] for J problems. Both results are [1 + m], or [1 + m, J].
    """
    held = np.minimum(np.divide(l2, BORDER_SHARE * square), LOSS_SHARE * np.asarray(used) / 4)
    near = np.multiply.outer((border**2).mean(0), held)
    penalised = np.append(0.0, np.ones(border.shape[1] - 1))  # the intercept is not
    return near, 1 / (np.multiply.outer(penalised, l2) + near)


class Ascent:
    """Coefficients of one label set, which stay from one penalty to the next."""

    def __init__(self, rows: Rows, lengths: Lengths, s: NDArray) -> None:
        """Start at zero for weights with the signs of the labels, s [n]; 0 takes a row out."""
        self.rows, self.lengths, self.s, self.sign = rows, lengths, s, np.sign(s)
        self.used = np.flatnonzero(s)
        self.a = np.zeros(len(s))
        self.margin = np.full(len(s), UNTOUCHED)
        self.l2 = math.inf

    def sweep_until_settled(self, l2: float, v: NDArray) -> tuple[NDArray, NDArray, float]:
        """Maximise the dual for penalty l2 from the border's values v: weights [D] and v, float64; largest error left.

        The error is that of a margin, in units of max(1, |margin|).
        """
        rows, border = self.rows, self.rows.border
        near, gain = border_gain(border[self.used], self.lengths.square[self.used].mean(), len(self.used), l2)
        if l2 < self.l2 < math.inf:  # keep the weights; the coefficients would carry them too far
            self.a *= l2 / self.l2
            self.margin = np.log1p(-self.a) - np.log(np.maximum(self.a, 1e-300))
        self.l2 = l2
        working = np.float64 if rows.X.dtype == np.float64 else np.float32
        signed = self.s * self.a / l2
        mean_part = np.array([signed.sum(), signed @ self.lengths.along])
        state = State(self.a, self.margin, np.zeros(rows.X.shape[1], working), mean_part, v.copy())
        combine(rows.X, signed, state.w)
        random = np.random.default_rng(0)
        centre, error = v, math.inf
        for _ in range(SWEEPS):
            state.v[:] = (near * centre + border.T @ (self.s * self.a)) * gain
            order = random.permutation(self.used)
            order = np.concatenate((order, order[: -len(order) % 4]))
            error = sweep(rows.X, border, self.s, self.sign, self.lengths, gain, l2, state, order)
            centre = centre + FOLLOW * (state.v - centre)
            if error <= SETTLED:
                break
        return state.w - mean_part[0] * rows.mean, state.v, error


@compiled
def margin_of(margin: float, rate: float, guess: float) -> float:
    """The root u of u = margin + rate (sigmoid(-u) - a), given margin - rate a: where a row's coefficient settles.

    The function u - rate sigmoid(-u) rises and is concave for u > 0, so Newton's method started left of the root climbs
    to it without overshooting, and a step from anywhere ends on the left. For roots below zero the mirror image is
    solved.
    """
    mirrored = margin + rate / 2 < 0
    c = -(margin + rate) if mirrored else margin
    u, near = max(0.0, c), False
    if mirrored:
        guess = -guess
    if guess > u:
        a = 1 / (1 + math.exp(guess))
        step = (guess - rate * a - c) / (1 + rate * a * (1 - a))
        u, near = max(u, guess - step), abs(step) < 1
    if not near:
        g = abs(c) + math.log1p(rate)
        if rate > 2 * g:
            u = max(u, math.log(rate / (2 * g)))  # here rate sigmoid(-u) is at least u - c, still
    for _ in range(50):
        a = 1 / (1 + math.exp(u))
        step = (u - rate * a - c) / (1 + rate * a * (1 - a))
        u -= step
        if abs(step) < 1e-4 * max(1.0, u):  # the error left is about its square
            break
    return -u if mirrored else u


@compiled
def combine(X: NDArray, coefficients: NDArray, w: NDArray) -> None:
    """Add ∑ coefficient x to w [D]."""
    for i in range(len(X)):
        if coefficients[i] != 0:
            c = w.dtype.type(coefficients[i])
            for j in range(X.shape[1]):
                w[j] += c * wide(X[i, j])


@compiled
def sweep(
    X: NDArray,
    border: NDArray,
    s: NDArray,
    sign: NDArray,
    products: Lengths,
    gain: NDArray,
    l2: float,
    state: State,
    order: NDArray,
) -> float:
    """Visit the rows in `order`, four at a time, and set the coefficient of each; the largest error of a margin met.

    Four rows are read together with their products with each other, by which the logits of the later ones follow what
    the earlier ones change. gain [1 + m] is what a unit of a row's coefficient adds to the border's values.
    """
    square, along, mean_square = products
    a, margin, w, mean_part, v = state
    z, change, cross = np.empty(4), np.empty(4), np.empty((4, 4))
    worst = 0.0
    for o in range(0, len(order), 4):
        x0, x1, x2, x3 = X[order[o]], X[order[o + 1]], X[order[o + 2]], X[order[o + 3]]
        z0 = z1 = z2 = z3 = w.dtype.type(0)
        c01 = c02 = c03 = c12 = c13 = c23 = w.dtype.type(0)
        for j in range(X.shape[1]):
            y0, y1, y2, y3 = wide(x0[j]), wide(x1[j]), wide(x2[j]), wide(x3[j])
            z0 += y0 * w[j]
            z1 += y1 * w[j]
            z2 += y2 * w[j]
            z3 += y3 * w[j]
            c01 += y0 * y1
            c02 += y0 * y2
            c03 += y0 * y3
            c12 += y1 * y2
            c13 += y1 * y3
            c23 += y2 * y3
        z[0], z[1], z[2], z[3] = z0, z1, z2, z3
        cross[1, 0], cross[2, 0], cross[3, 0], cross[2, 1], cross[3, 1], cross[3, 2] = c01, c02, c03, c12, c13, c23
        total, drift = mean_part[0], mean_part[1]
        for k in range(4):
            i = order[o + k]
            logit = z[k] - total * along[i] - drift + total * mean_square
            rate = square[i] / l2
            for h in range(len(v)):
                logit += border[i, h] * v[h]
                rate += border[i, h] ** 2 * gain[h]
            for h in range(k):
                logit += change[h] * (cross[k, h] - along[i] - along[order[o + h]] + mean_square)
            now = sign[i] * logit
            rate *= sign[i] * s[i]
            worst = max(worst, abs(now - margin[i]) / max(1.0, abs(now)))
            before = a[i]
            margin[i] = margin_of(now - rate * before, float(rate), float(margin[i]))
            a[i] = 1 / (1 + math.exp(margin[i]))
            change[k] = s[i] * (a[i] - before) / l2
            for h in range(len(v)):
                v[h] += gain[h] * border[i, h] * change[k] * l2
        for k in range(4):
            mean_part[0] += change[k]
            mean_part[1] += change[k] * along[order[o + k]]
        c0, c1, c2, c3 = (
            w.dtype.type(change[0]), w.dtype.type(change[1]), w.dtype.type(change[2]), w.dtype.type(change[3]),
        )  # fmt: skip
        for j in range(X.shape[1]):
            w[j] += c0 * wide(x0[j]) + c1 * wide(x1[j]) + c2 * wide(x2[j]) + c3 * wide(x3[j])
    return worst
