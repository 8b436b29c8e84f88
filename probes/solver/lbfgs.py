"""L-BFGS for up to four problems of one cell, compiled: from the weights they are given down to the optimum.

The problems take their steps together, so that they share each read of the rows. A step reads them twice: once for what
the directions do to the logits, once for what the steps did to the gradients. In between, everything is numbers of [n]
and [D]. A problem that has ended makes room for the next one.

* *The direction* comes from the last steps and what they did to the gradient (`directions`).
* *The step* ends almost exactly where the objective is least along the direction, found from slopes: these keep their
  sign near the optimum, where differences of objectives drown in rounding. Only logits are needed for it.
* *Rounding.* The passes run in float32, on what a step changes: logits and gradient are those of the start plus the
  changes, so errors shrink with the steps. Once the gradient is down to 1e-5 of what it was (1e-3 where rows
  were rounded to float16), both are computed anew in float64 from the activations as stored.
* *The end.* A descent goes on until that gradient is small and bounds how far the objective is above its optimum, and
  until the last two steps moved hardly any score.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.solver.compiled import compiled
from probes.solver.directions import Memory, choose_directions, remember
from probes.solver.passes import Scratch, evaluate, gather, residual, spread
from probes.solver.rows import Rows

EXACT = 0.1  # share of its slope at the start that a search along a direction leaves
ANCHORED, COARSE = 1e-5, 1e-3  # share of the gradient from where on rounding may show: of float32, of float16
ANCHORS = 10  # of one descent; where these do not suffice, rounding has spoilt the directions
EXCESS = 1e-10  # share of the objective that a converged problem may be above the optimum
LEVEL = 1e-3  # share of their level that counts as the range of scores where that is less
# What a descent is: DUE for float64, GIVEN_UP to end there; in the end CONVERGED, STUCK by rounding, or SPENT at its
# most steps.
IDLE, BEGUN, DUE, GIVEN_UP, RUNNING, CONVERGED, STUCK, SPENT = range(8)

STATE = np.dtype(
    [
        ("status", np.int64),
        ("steps", np.int64),
        ("most", np.int64),  # steps that may be taken
        ("anchors", np.int64),  # computed in float64
        ("size", np.float64),  # norm of the gradient that is reported, and
        ("value", np.float64),  # objective in nats, both where float64 was computed last
        ("excess", np.float64),  # most that value is above the optimum
        ("first", np.float64),  # size where the label set was begun; 0 until it is known
        ("tol", np.float64),  # largest size that counts as converged
        ("goal", np.float64),  # size at which float64 is due where logits stand still, and
        ("low", np.float64),  # size at which it is due in any case
        ("length", np.float64),  # of the last step, in directions; 0 where there was none
        ("moved", np.float64),  # share of their range that the last step moved scores by, of sizes up to tol, and
        ("move", np.float64),  # the larger one of the last two steps
        ("curvature", np.float64),  # sum of that of the rows
    ]
)


class Descents(NamedTuple):
    """L problems of one cell and where their descents are; float64 and changed in place.

    Problem k is ∑ |s| log(1 + exp(-sign(s) z)) + ∑ ridge u² / 2 with logits z = offset + u·(row, 1).
    """

    s: NDArray  # [L, n] weights of the rows with the signs of their labels, 0 where a row does not count
    offset: NDArray  # [L, n]
    ridge: NDArray  # [L, D + 1] penalty of every number of u; none of the intercept
    aims: NDArray  # [4] tol is aims[0], at least aims[1] of `first`; `move` at the end; `low` as a share of size
    measure: NDArray  # [D] and
    shift: NDArray  # [D]: the gradient that is reported is measure (g + shift g[D]), that of the caller's columns
    u: NDArray  # [L, D + 1] weights of standardised columns, and the intercept
    z: NDArray  # [L, n] logits
    r: NDArray  # [L, n] residuals: -s sigmoid(-sign(s) z)
    g: NDArray  # [L, D + 1] gradient
    p: NDArray  # [L, D + 1] direction, then step
    dz: NDArray  # [L, n] what the direction does to the logits
    dr: NDArray  # [L, n] what the step does to the residuals
    dg: NDArray  # [L, D + 1] and to the gradient
    state: Any  # [L] STATE
    which: NDArray  # [L] int64, room for numbers of descents
    memory: Memory
    scratch: Scratch

    @classmethod
    def empty(
        cls, L: int, n: int, measure: NDArray, shift: NDArray, aims: tuple[float, float, float, float]
    ) -> "Descents":
        """Room for L problems, all idle."""
        D = len(measure)
        s, offset, z, r, dz, dr = np.zeros((6, L, n))
        ridge, u, g, p, dg = np.zeros((5, L, D + 1))
        given = s, offset, ridge, np.array(aims), measure, shift
        state, which = np.zeros(L, STATE), np.zeros(L, np.int64)
        return cls(*given, u, z, r, g, p, dz, dr, dg, state, which, Memory.empty(L, D), Scratch.empty(n, D))


@compiled
def descend(rows: Rows, descents: Descents, factor: NDArray | None, most: int, several: bool | None) -> int:
    """Take up to `most` steps of every descent that goes on, until one of them ends: how many were taken.

    factor is a lower triangle R, as pairs [D, D / 2] complex64, with R'R about the inverse of the Hessian of the
    weights; None for the diagonal. `several` is None where there is room for one descent only: what several need is
    then not compiled. Of a descent that ends, logits, residuals and gradient are those of float64.
    """
    d, steps, ended = descents, 0, False
    while True:
        for k in select(d.state, BEGUN, GIVEN_UP, d.which):
            evaluate(rows, d.u[k], d.offset[k], d.s[k], d.z[k], d.r[k], d.g[k], d.scratch)
            judge(d.state[k], d.aims, d.measure, d.shift, d.s[k], d.z[k], d.r[k], d.ridge[k], d.u[k], d.g[k])
            ended |= d.state[k].status > RUNNING
        if ended or steps == most:
            return steps
        which = select(d.state, RUNNING, RUNNING, d.which)
        for k in which:
            d.state[k].curvature = bend(d.r[k], d.s[k])
        choose_directions(d.state, d.ridge, d.g, d.memory, factor, which, d.p, d.scratch, several)
        spread(rows, d.p, which, d.dz, d.scratch, several)
        for k in which:
            search(d.state[k], d.s[k], d.z[k], d.r[k], d.dz[k], d.dr[k], d.p[k], d.g[k], d.ridge[k])
        gather(rows, d.dr, which, d.dg, d.scratch, several)
        steps += 1
        for k in which:
            follow(d.state[k], d.ridge[k], d.u[k], d.g[k], d.p[k], d.dg[k])
            settle(d.state[k], d.aims[2], norm(d.measure, d.shift, d.g[k]), d.z[k], d.offset[k], d.dz[k])
            if d.state[k].length > 0.0:
                remember(d.memory, k, d.p[k], d.dg[k])
            elif d.memory.held[k, 0] > 0:  # what is remembered misleads
                d.memory.held[k, 0] = 0
            else:
                d.state[k].status = DUE


@compiled
def select(state: Any, least: int, most: int, which: NDArray) -> NDArray:
    """The numbers of the descents whose status is in a range, in the room `which` [L]."""
    count = 0
    for k in range(len(state)):
        if state[k].status >= least and state[k].status <= most:
            which[count] = k
            count += 1
    return which[:count]


@compiled
def follow(state: Any, ridge: NDArray, u: NDArray, g: NDArray, p: NDArray, dg: NDArray) -> None:
    """Take the step that was found: p and dg [D + 1] become the step and what it does to the gradient."""
    for j in range(len(p)):
        p[j] *= state.length
        dg[j] += ridge[j] * p[j]
    if state.length > 0.0:
        for j in range(len(p)):
            u[j] += p[j]
            g[j] += dg[j]
    state.steps += 1


@compiled
def settle(state: Any, still: float, size: float, z: NDArray, offset: NDArray, dz: NDArray) -> None:
    """See whether float64 is due: the gradient is small, and the last two steps moved scores by `still` at most.

    Scores are logits z [n] without their offsets. What a step moves them by is about how far they were off before it;
    of two steps, one may have been short by chance.
    """
    before, state.moved = state.moved, math.inf
    if size <= state.tol:
        low, high, move = math.inf, -math.inf, 0.0
        for i in range(len(z)):
            score = z[i] - offset[i]
            low, high, move = min(low, score), max(high, score), max(move, abs(dz[i]))
        state.moved = state.length * move / max(high - low, LEVEL * max(high, -low), 1e-300)
    state.move = max(before, state.moved)
    near = size <= state.low or (size <= state.goal and state.move <= still)
    if (state.length > 0.0 and near) or state.steps >= state.most:
        state.status = DUE


@compiled
def judge(
    state: Any, aims: NDArray, measure: NDArray, shift: NDArray, s: NDArray, z: NDArray, r: NDArray, ridge: NDArray,
    u: NDArray, g: NDArray,
) -> None:  # fmt: skip
    """Say whether a descent goes on from u [D + 1], and to which gradient; g becomes that of the objective.

    Logits z [n], residuals r and the gradient of the loss g [D + 1] are those of float64. The objective curves at least
    as the penalty does: that bounds how far it is above the optimum.
    """
    D = len(g) - 1
    for j in range(D + 1):
        g[j] += ridge[j] * u[j]
    state.size, state.value = norm(measure, shift, g), objective(s, z, ridge, u)
    state.excess = 0.5 * g[D] * g[D] / max(bend(r, s), 1e-300)
    for j in range(D):
        state.excess += 0.5 * g[j] * g[j] / ridge[j]
    now, spent = state.size, state.steps >= state.most
    if state.status == BEGUN:
        if state.first == 0.0:
            state.first = now
        state.tol = max(aims[0], aims[1] * state.first)
        state.goal, state.low, state.moved, state.anchors = 0.7 * state.tol, aims[3] * now, math.inf, 0
        state.status = SPENT if spent else RUNNING
    elif now <= state.tol and state.move <= aims[2] and state.excess <= EXCESS * state.value:
        state.status = CONVERGED
    else:
        state.anchors += 1
        # The gradient has to fall below tol only where it does not bound the objective yet.
        unbounded = now <= state.tol and state.excess > EXCESS * state.value
        state.goal, state.low = 0.1 * now if unbounded else 0.7 * state.tol, aims[3] * now
        stuck = state.status == GIVEN_UP or state.length == 0.0 or state.anchors == ANCHORS
        state.status = SPENT if spent else STUCK if stuck else RUNNING


@compiled
def search(
    state: Any, s: NDArray, z: NDArray, r: NDArray, dz: NDArray, dr: NDArray, p: NDArray, g: NDArray, ridge: NDArray
) -> None:
    """Move logits z [n] along dz to where the objective is least.

    The slope at the start is that of the gradient g along the direction p [D + 1]; from there it rises with the change
    of the residuals, and by t bent with the penalty, so that rounding of dz counts only against what the step changes.
    Its root is bracketed, and approached by Newton steps in t. `length` becomes the step, 0 where the slope is not
    below zero. Residuals r follow; dr [n] becomes their change.
    """
    slope, bent = 0.0, 0.0
    for j in range(len(p)):
        slope += g[j] * p[j]
        bent += ridge[j] * p[j] * p[j]
    state.length, curvature, low, high = 0.0, bent, 0.0, math.inf
    for i in range(len(z)):
        curvature += bend_of(r[i], s[i]) * dz[i] * dz[i]
    if not (slope < 0.0 and curvature > 0.0 and curvature < math.inf):
        return
    t, last, trial = 0.0, 0.0, -slope / curvature
    for _ in range(60):
        t = trial
        last, curvature = slope + t * bent, bent
        for i in range(len(z)):
            dr[i] = residual(z[i] + t * dz[i], s[i]) - r[i]
        for i in range(len(z)):
            last += dr[i] * dz[i]
            curvature += bend_of(r[i] + dr[i], s[i]) * dz[i] * dz[i]
        if not abs(last) > EXACT * -slope:
            break
        low, high = (t, high) if last < 0.0 else (low, t)
        trial = t - last / curvature
        if not (trial > low and trial < high and trial < 8.0 * t):
            trial = 2.0 * t if high == math.inf else 0.5 * (low + high)
    if not math.isfinite(last):
        return
    for i in range(len(z)):
        z[i] += t * dz[i]
        r[i] += dr[i]
    state.length = t


@compiled
def bend(r: NDArray, s: NDArray) -> float:
    """Curvature of the loss of all rows together, from residuals and weights [n]."""
    total = 0.0
    for i in range(len(r)):
        total += bend_of(r[i], s[i])
    return total


@compiled
def bend_of(r: float, s: float) -> float:
    """Curvature of the loss of a row with residual r and weight s: |s| p (1 - p) with |r| = |s| p."""
    return abs(r) * (1.0 - abs(r) / max(abs(s), 1e-300))


@compiled
def norm(measure: NDArray, shift: NDArray, g: NDArray) -> float:
    """2-norm of a gradient [D + 1] with respect to the weights and intercept of the caller's columns."""
    D = len(measure)
    total = g[D] * g[D]
    for j in range(D):
        x = measure[j] * (g[j] + shift[j] * g[D])
        total += x * x
    return math.sqrt(total)


@compiled
def objective(s: NDArray, z: NDArray, ridge: NDArray, u: NDArray) -> float:
    """What is minimised, in nats."""
    total = 0.0
    for i in range(len(z)):
        margin = z[i] if s[i] > 0.0 else -z[i]
        total += abs(s[i]) * (max(-margin, 0.0) + math.log1p(math.exp(-abs(margin))))
    for j in range(len(u)):
        total += 0.5 * ridge[j] * u[j] * u[j]
    return total
