"""Dual coordinate ascent on the Gram matrix of one cell, for many label sets and penalties at once.

The same sweeps as in `dual_ascent`, for the price of the Gram matrix XX', made once: a row's step then moves the logits
of all rows by a column of the matrix, far shorter than a row of activations, and one read of it serves every problem.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.compiled import compiled
from probes.solver.dual_ascent import FOLLOW, SETTLED, SWEEPS, UNTOUCHED, border_gain, margin_of

TOGETHER = 64  # rows whose changes reach the other rows' logits at once


class State(NamedTuple):
    """What a sweep changes in place, for J problems; float64."""

    a: NDArray  # coefficients, [n, J]
    margin: NDArray  # what they stand for: a = sigmoid(-margin), [n, J]
    v: NDArray  # the border's values, [1 + m, J]
    error: NDArray  # largest error of a margin met, in units of max(1, |margin|), [J]


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
