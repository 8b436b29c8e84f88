"""Dual coordinate ascent on the Gram matrix of one cell, for many label sets and penalties at once.

The weights are w = ∑ s a (x - mean) / l2, where s is the weight that the row has in the loss, with the sign of its
label, and a in (0, 1) is a coefficient of the row. At the optimum a = sigmoid(-sign(s) logit): what the loss of a row
of weight 1 falls by per unit of margin. A sweep visits the rows in random order and, with all others held, gives each
the coefficient for which this holds: a step that no line search could better (Yu, Huang & Lin 2011, Machine Learning
85). With the Gram matrix XX', made once, such a step moves the logits of all rows by a column of the matrix, far
shorter than a row of activations, and one read of it serves every problem.

The intercept carries no penalty and heavy columns hardly any for their size, which would leave these coefficients no
freedom to move one by one. So the border's values v are held near where the last sweep left them, by a penalty that
makes the border a hundredth part of a row's length, but is a small part of the loss's own curvature; as the centre
follows, that penalty vanishes (the proximal point method; Rockafellar 1976, SIAM J. Control and Optimization 14).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from probes.solver.compiled import compiled

SETTLED = 1e-5  # a sweep that finds every margin so near to what its coefficient stands for has little left to do
SWEEPS = 90  # most sweeps; beyond them the rows are so alike that conjugate gradients are faster
BORDER_SHARE = 0.01  # of a row's squared length, as far as its coefficient can tell
LOSS_SHARE = 0.1  # of the largest curvature of the loss, a quarter a row
UNTOUCHED = 30.0  # margin of a row whose coefficient is still zero: to sigmoid, as good as infinite
FOLLOW = 0.6  # how far the centre follows the border after a sweep; the whole way it may swing past its goal
TOGETHER = 64  # rows whose changes reach the other rows' logits at once


class State(NamedTuple):
    """What a sweep changes in place, for J problems; float64."""

    a: NDArray  # coefficients, [n, J]
    margin: NDArray  # what they stand for: a = sigmoid(-margin), [n, J]
    v: NDArray  # the border's values, [1 + m, J]
    error: NDArray  # largest error of a margin met, in units of max(1, |margin|), [J]


def border_gain(border: NDArray, square: float, used: ArrayLike, l2: ArrayLike) -> tuple[NDArray, NDArray]:
    """How strongly the border's values are held near their centre, and what a unit of a coefficient adds to them.

    border [n, 1 + m] is that of rows of mean squared length `square`, `used` of which count; l2 and `used` are numbers,
    or [J] for J problems. Both results are [1 + m], or [1 + m, J].
    """
    held = np.minimum(np.divide(l2, BORDER_SHARE * square), LOSS_SHARE * np.asarray(used) / 4)
    near = np.multiply.outer((border**2).mean(0), held)
    penalised = np.append(0.0, np.ones(border.shape[1] - 1))  # the intercept is not
    return near, 1 / (np.multiply.outer(penalised, l2) + near)


@np.errstate(all="ignore")  # what overflows shows in the outcome
def ascend(G: Tensor, Z: Tensor, s: Tensor, live: Tensor, l2: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sweep until every problem has settled.

    Args:
        G: [n, n] float32 or float64, symmetric.
        Z: border [n, 1 + m], as in `newton_cg`.
        s: [J, n] float64: weight of the row with the sign of its label, 0 where a row does not count.
        live: [J] bool: which problems to solve.
        l2: [J] float64.
        start: the intercepts to start from, [J] float64.

    Returns:
        Coefficients u [J, n] of the weights X'u, border values v [J, 1 + m], both float64, and [J] how far margins
        were off when last met, in units of max(1, |margin|).
    """
    random = np.random.default_rng(0)
    shuffled = torch.from_numpy(random.permutation(len(G)))
    G, Z, s = G[shuffled][:, shuffled], Z[shuffled], s[:, shuffled]
    border, signs, strength = Z.double().numpy(), s.T.contiguous().numpy(), l2.numpy()
    n, J = signs.shape
    square = G.diagonal().double().mean().item()
    near, gain = border_gain(border, square, np.count_nonzero(signs, axis=0), strength)  # [1 + m, J]
    error = np.where(live.numpy(), math.inf, 0.0)
    state = State(np.zeros((n, J)), np.full((n, J), UNTOUCHED), np.zeros_like(gain), error)
    state.v[0] = start.numpy()
    centre = state.v.copy()
    logit = torch.zeros(n, J, dtype=G.dtype)  # without the border's part
    for _ in range(SWEEPS):
        active = error > SETTLED
        if not active.any():
            break
        state.v[:] = np.where(active, (near * centre + border.T @ (signs * state.a)) * gain, state.v)
        error[active] = 0.0
        for first in TOGETHER * random.permutation(-(-n // TOGETHER)):
            rows = slice(first, first + TOGETHER)
            among, at = G[rows, rows].numpy(), logit[rows].numpy()
            of_rows = State(state.a[rows], state.margin[rows], state.v, error)
            change = visit(among, border[rows], signs[rows], gain, strength, active, at, of_rows)
            logit.addmm_(G[:, rows], torch.from_numpy(change))
        centre = centre + FOLLOW * (state.v - centre)
    u = torch.zeros(J, n, dtype=torch.float64)
    u[:, shuffled] = torch.from_numpy((signs * state.a / strength).T)
    return u, torch.from_numpy(state.v.T.copy()), torch.from_numpy(error)


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
def visit(
    G: NDArray,
    border: NDArray,
    s: NDArray,
    gain: NDArray,
    l2: NDArray,
    active: NDArray,
    logit: NDArray,
    state: State,
) -> NDArray:
    """Set the coefficients of r rows, one after another, for the active problems: what they change by, [r, J].

    G [r, r], border [r, 1 + m], s [r, J], logit [r, J], without the border's part, and a and margin of the state are
    those of the rows.
    """
    a, margin, v, error = state
    change = np.zeros_like(logit)
    z, rate = np.empty(len(l2)), np.empty(len(l2))
    for k in range(len(s)):
        for j in range(len(l2)):
            z[j], rate[j] = logit[k, j], G[k, k] / l2[j]
        for h in range(len(v)):
            for j in range(len(l2)):
                z[j] += border[k, h] * v[h, j]
                rate[j] += border[k, h] ** 2 * gain[h, j]
        for h in range(k):
            for j in range(len(l2)):
                z[j] += G[k, h] * change[h, j]
        for j in range(len(l2)):
            if active[j] and s[k, j] != 0:
                now = z[j] if s[k, j] > 0 else -z[j]
                rate[j] *= abs(s[k, j])
                error[j] = max(error[j], abs(now - margin[k, j]) / max(1.0, abs(now)))
                margin[k, j] = margin_of(now - rate[j] * a[k, j], rate[j], margin[k, j])
                before, a[k, j] = a[k, j], 1 / (1 + math.exp(margin[k, j]))
                change[k, j] = s[k, j] * (a[k, j] - before) / l2[j]
        for h in range(len(v)):
            for j in range(len(l2)):
                v[h, j] += gain[h, j] * border[k, h] * change[k, j] * l2[j]
    return change
