"""L-BFGS for one problem of one cell, compiled: from the weights it is given down to the optimum.

A step reads the rows twice: once for what a direction does to the logits, once for what the step did to the gradient.
In between, everything is numbers of [n] and [D].
Loops go over numbers: an array assigned to a slice of another takes two seconds to compile.

* *The direction* comes from the last steps and what they did to the gradient (Nocedal 1980, Mathematics of Computation
  35), around a rough inverse of the Hessian: its diagonal for standardised columns, or a factor of all of it.
* *The step* ends almost exactly where the objective is least along the direction, found from slopes: these keep their
  sign near the optimum, where differences of objectives drown in rounding. Only logits are needed for it.
* *Rounding.* The passes run in float32, on what a step changes: logits and gradient are those of the start plus the
  changes, so errors shrink with the steps. Once the gradient is down to 1e-5 of what it was, both are computed anew in
  float64 from the activations as stored; that gradient alone decides that a problem has converged.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.solver.compiled import compiled
from probes.solver.rows import Rows, evaluate, exponential, gather, spread

PAIRS, NUMBERS = 40, 2**16  # steps that are remembered, and about how many numbers of each kind they may have
EXACT = 0.1  # share of its slope at the start that a search along a direction leaves
ANCHORED = 1e-5  # share of the gradient from where on rounding may show
ANCHORS = 10  # of one descent; where these do not suffice, rounding has spoilt the directions
PROMISE = 1e-11  # share of the objective that the last step of a converged problem may have gained


class Problem(NamedTuple):
    """What is minimised: ∑ |s| log(1 + exp(-sign(s) z)) + ∑ ridge u² / 2 with logits z = offset + u·(row, 1)."""

    s: NDArray  # [n] weights of the rows with the signs of their labels, 0 where a row does not count
    offset: NDArray  # [n]
    ridge: NDArray  # [D + 1] penalty of every number of u; none of the intercept
    measure: NDArray  # [D] and
    shift: NDArray  # [D]: the gradient that is reported is measure (g + shift g[D]), that of the caller's columns


class Point(NamedTuple):
    """Where the descent is, float64; changed in place."""

    u: NDArray  # [D + 1] weights of standardised columns, and the intercept
    z: NDArray  # [n] logits
    r: NDArray  # [n] residuals: -s sigmoid(-sign(s) z)
    g: NDArray  # [D + 1] gradient


class Memory(NamedTuple):
    """The last steps, and what they changed the gradient by."""

    S: NDArray  # [M, D + 1] float32
    Y: NDArray  # [M, D + 1] float32
    rho: NDArray  # [M], 1 / S·Y
    held: NDArray  # [2] int64: how many, and where the next goes

    @classmethod
    def empty(cls, D: int) -> "Memory":
        """Room for steps of D + 1 numbers; fewer of long ones, so that they stay in cache."""
        M = min(PAIRS, max(8, NUMBERS // D))
        S, Y = np.empty((2, M, D + 1), np.float32)
        return cls(S, Y, np.zeros(M), np.zeros(2, np.int64))

    def forget(self) -> None:
        """Hold no step."""
        self.held[:] = 0

    def add_ridge(self, more: NDArray) -> None:
        """Make it that of a problem whose ridge is greater by so much, [D + 1]."""
        for i in range(self.held[0]):
            self.Y[i] += (more * self.S[i]).astype(np.float32)
            self.rho[i] = 1 / (self.S[i].astype(np.float64) @ self.Y[i])
            if not 0 < self.rho[i] < math.inf:
                self.forget()
                return


@compiled
def descend(
    rows: Rows, problem: Problem, point: Point, memory: Memory, factor: NDArray, tol: float, most: int
) -> tuple[bool, int]:
    """Go down from `point` for at most `most` steps: whether it converged, and the steps taken.

    factor [D, D] float32 is a lower triangle L with LL' about the Hessian of the weights; [0, 0] for
    the diagonal. Logits, residuals and gradient are those of float64 in the end.
    """
    s, _, ridge, _, _ = problem
    u, z, r, g = point
    n, D = len(z), len(u) - 1
    p, dz, dr, dg = np.empty(D + 1), np.empty(n), np.empty(n), np.empty(D + 1)
    goal, gain, anchors, steps = max(0.7 * tol, ANCHORED * norm(problem, g)), math.inf, 0, 0
    while True:
        over = steps == most
        if not over:
            choose_direction(problem, r, g, memory, factor, p)
            slope, bend = 0.0, 0.0
            for j in range(D + 1):
                slope += g[j] * p[j]
                bend += ridge[j] * p[j] * p[j]
            spread(rows, p, dz)
            t, fall = search(s, z, dz, slope, bend, r, dr)
            steps += 1
            if t > 0.0:
                gather(rows, dr, dg)
                remember(problem, t, p, dg, u, g, memory)
                gain = fall
                if not norm(problem, g) <= goal:
                    continue
            elif memory.held[0] > 0:  # what is remembered misleads
                memory.held[0] = 0
                continue
        renew(rows, problem, point)
        if over:
            return False, steps
        now = norm(problem, g)
        if now <= tol and gain <= PROMISE * objective(problem, u, z):
            return True, steps
        anchors += 1
        if t == 0.0 or anchors == ANCHORS:
            return False, steps
        goal = max(0.7 * tol, ANCHORED * now) if now > tol else 0.1 * now


def begin(rows: Rows, problem: Problem, point: Point) -> None:
    """Logits, residuals and gradient at u; rounded in float32 where the weights are zero."""
    if point.u[:-1].any():
        renew(rows, problem, point)
        return
    point.z[:] = problem.offset + point.u[-1]
    point.r[:] = -problem.s / (1 + np.exp(np.where(problem.s > 0, point.z, -point.z)))
    gather(rows, point.r, point.g)


@compiled
def renew(rows: Rows, problem: Problem, point: Point) -> None:
    """Logits, residuals and gradient at u, in float64 from the rows as stored."""
    for i in range(len(point.z)):
        point.z[i] = problem.offset[i]
    evaluate(rows, point.u, problem.s, point.z, point.r, point.g)
    for j in range(len(problem.ridge)):
        point.g[j] += problem.ridge[j] * point.u[j]


@compiled
def choose_direction(problem: Problem, r: NDArray, g: NDArray, memory: Memory, factor: NDArray, p: NDArray) -> None:
    """The direction p [D + 1] from the gradient g."""
    s, _, ridge, _, _ = problem
    S, Y, rho, held = memory
    D, count, curvature = len(g) - 1, held[0], 0.0
    for i in range(len(r)):
        curvature += bend_of(r[i], s[i])
    q, inverse, alpha = np.empty(D + 1, np.float32), np.empty(D + 1, np.float32), np.empty(len(rho), np.float32)
    for j in range(D + 1):
        q[j], inverse[j] = np.float32(g[j]), np.float32(1.0 / max(curvature + ridge[j], 1e-300))
    for back in range(1, count + 1):
        i = (held[1] - back) % len(rho)
        alpha[i] = np.float32(rho[i]) * dot(S[i], q)
        add(-alpha[i], Y[i], q)
    if len(factor) > 0:
        divide(factor, q)
        q[D] *= inverse[D]
    else:
        scale, newest = np.float32(1), (held[1] - 1) % len(rho)
        if count > 0:  # the last step tells how far the diagonal is off
            length = np.float32(0)
            for j in range(D + 1):
                length += Y[newest, j] * inverse[j] * Y[newest, j]
            scale = np.float32(1.0 / (rho[newest] * max(length, np.float32(1e-30))))
        for j in range(D + 1):
            q[j] *= scale * inverse[j]
    for back in range(count, 0, -1):
        i = (held[1] - back) % len(rho)
        add(alpha[i] - np.float32(rho[i]) * dot(Y[i], q), S[i], q)
    for j in range(D + 1):
        p[j] = -np.float64(q[j])


@compiled
def remember(problem: Problem, t: float, p: NDArray, dg: NDArray, u: NDArray, g: NDArray, memory: Memory) -> None:
    """Take the step t p, which changes the gradient of the loss by dg, and remember it if it tells of curvature."""
    S, Y, rho, held = memory
    at, product = held[1], 0.0
    for j in range(len(p)):
        step = t * p[j]
        change = dg[j] + problem.ridge[j] * step
        u[j] += step
        g[j] += change
        S[at, j], Y[at, j] = np.float32(step), np.float32(change)
    for j in range(len(p)):
        product += t * p[j] * (dg[j] + problem.ridge[j] * t * p[j])
    if product > 0.0:
        rho[at] = 1.0 / product
        held[0], held[1] = min(held[0] + 1, len(rho)), (at + 1) % len(rho)


@compiled
def search(
    s: NDArray, z: NDArray, dz: NDArray, slope: float, bend: float, r: NDArray, dr: NDArray
) -> tuple[float, float]:
    """Move the logits z along dz to where the objective is least: the length of the step, and about what it gained.

    The slope is given at the start; from there it rises with the change of the residuals, and by t bend with the
    penalty, so that rounding of dz counts only against what the step changes. Its root is bracketed, and approached by
    Newton steps in t. Residuals r follow; dr [n] becomes their change. 0 where the slope is not below zero.
    """
    curvature, low, high = bend, 0.0, math.inf
    for i in range(len(z)):
        curvature += bend_of(r[i], s[i]) * dz[i] * dz[i]
    if not (slope < 0.0 and curvature > 0.0 and curvature < math.inf):
        return 0.0, 0.0
    t, last = -slope / curvature, 0.0
    for _ in range(60):
        last, curvature = slope + t * bend, bend
        for i in range(len(z)):
            margin = z[i] + t * dz[i] if s[i] > 0.0 else -(z[i] + t * dz[i])
            e = exponential(max(-abs(margin), -700.0))
            wrong = (e if margin > 0.0 else 1.0) / (1.0 + e)
            dr[i] = -s[i] * wrong - r[i]
        for i in range(len(z)):
            last += dr[i] * dz[i]
            curvature += bend_of(r[i] + dr[i], s[i]) * dz[i] * dz[i]
        if not abs(last) > EXACT * -slope:
            break
        low, high = (t, high) if last < 0.0 else (low, t)
        step = t - last / curvature
        if step > low and step < high and step < 8.0 * t:
            t = step
        else:
            t = 2.0 * t if high == math.inf else 0.5 * (low + high)
    if not math.isfinite(last):
        return 0.0, 0.0
    for i in range(len(z)):
        z[i] += t * dz[i]
        r[i] += dr[i]
    return t, -0.5 * t * (slope + last)


@compiled
def bend_of(r: float, s: float) -> float:
    """Curvature of the loss of a row with residual r and weight s: |s| p (1 - p) with |r| = |s| p."""
    return abs(r) * (1.0 - abs(r) / max(abs(s), 1e-300))


@compiled
def norm(problem: Problem, g: NDArray) -> float:
    """2-norm of the gradient with respect to the weights and intercept of the caller's columns."""
    D = len(problem.measure)
    total = g[D] * g[D]
    for j in range(D):
        x = problem.measure[j] * (g[j] + problem.shift[j] * g[D])
        total += x * x
    return math.sqrt(total)


@compiled
def objective(problem: Problem, u: NDArray, z: NDArray) -> float:
    """What is minimised, in nats."""
    s, total = problem.s, 0.0
    for i in range(len(z)):
        margin = z[i] if s[i] > 0.0 else -z[i]
        total += abs(s[i]) * (max(-margin, 0.0) + math.log1p(math.exp(-abs(margin))))
    for j in range(len(u)):
        total += 0.5 * problem.ridge[j] * u[j] * u[j]
    return total


@compiled
def divide(factor: NDArray, q: NDArray) -> None:
    """Solve LL'x = q for the first D numbers of q, in their place, with a lower triangle L [D, D]."""
    D = len(factor)
    for i in range(D):
        row, total = factor[i], np.float32(0)
        for j in range(i):
            total += row[j] * q[j]
        q[i] = (q[i] - total) / row[i]
    for i in range(D - 1, -1, -1):
        row = factor[i]
        x = q[i] / row[i]
        for j in range(i):
            q[j] -= x * row[j]
        q[i] = x


@compiled
def dot(a: NDArray, b: NDArray) -> float:
    """Inner product."""
    total = a.dtype.type(0)
    for j in range(len(a)):
        total += a[j] * b[j]
    return total


@compiled
def add(times: Any, a: NDArray, b: NDArray) -> None:
    """Add so many times a to b."""
    for j in range(len(a)):
        b[j] += times * a[j]
