"""Directions of L-BFGS, compiled: what is remembered of the last steps, around a rough inverse of the Hessian.

The rough inverse is the diagonal for standardised columns, or that of a factor of all the Hessian; the last steps and
what they did to the gradient correct it (Nocedal 1980, Mathematics of Computation 35).
Loops go over numbers: an array assigned to a slice of another takes two seconds to compile.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.solver.compiled import compiled
from probes.solver.passes import Scratch, apply_factor

PAIRS, NUMBERS = 40, 2**16  # steps that are remembered, and about how many numbers of each kind they may have


class Memory(NamedTuple):
    """The last steps of L descents, and what they changed the gradient by."""

    S: NDArray  # [L, M, D + 1] float32
    Y: NDArray  # [L, M, D + 1] float32
    rho: NDArray  # [L, M], 1 / S·Y
    held: NDArray  # [L, 2] int64: how many, and where the next goes
    q: NDArray  # [L, D + 1] float32, the direction so far
    alpha: NDArray  # [L, M] float32

    @classmethod
    def empty(cls, L: int, D: int) -> "Memory":
        """Room for steps of D + 1 numbers; fewer of long ones, so that they stay in cache."""
        M = min(PAIRS, max(8, NUMBERS // D))
        S, Y = np.empty((2, L, M, D + 1), np.float32)
        q, alpha = np.empty((L, D + 1), np.float32), np.empty((L, M), np.float32)
        return cls(S, Y, np.zeros((L, M)), np.zeros((L, 2), np.int64), q, alpha)

    def forget(self, k: int) -> None:
        """Hold no step of descent k."""
        self.held[k] = 0

    def add_ridge(self, k: int, more: NDArray) -> None:
        """Make it that of a problem whose ridge is greater by so much, [D + 1]."""
        held = self.held[k, 0]
        self.Y[k, :held] += (more * self.S[k, :held]).astype(np.float32)
        self.rho[k, :held] = 1 / np.einsum("md,md->m", self.S[k, :held], self.Y[k, :held], dtype=np.float64)
        if not (np.isfinite(self.rho[k, :held]).all() and (self.rho[k, :held] > 0).all()):
            self.forget(k)


@compiled
def choose_directions(
    state: Any, ridge: NDArray, g: NDArray, memory: Memory, factor: NDArray | None, which: NDArray, p: NDArray,
    scratch: Scratch, several: bool | None,
) -> None:  # fmt: skip
    """The directions p[k] [D + 1] from gradients g[k], for the descents `which`.

    The diagonal of the Hessian is about the curvature in state [L] and the ridge; factor is a lower
    triangle R, as pairs [D, D / 2], with R'R about the inverse of the Hessian of the weights, or None.
    """
    S, Y, rho, held, q, alpha = memory
    D = g.shape[1] - 1
    for k in which:
        for j in range(D + 1):
            q[k, j] = np.float32(g[k, j])
        for back in range(1, held[k, 0] + 1):
            i = (held[k, 1] - back) % rho.shape[1]
            alpha[k, i] = np.float32(rho[k, i]) * dot(S[k, i], q[k])
            add(-alpha[k, i], Y[k, i], q[k])
    if factor is not None:
        apply_factor(factor, which, q, scratch, several)
        for k in which:
            q[k, D] *= np.float32(1.0 / max(state[k].curvature, 1e-300))
    else:
        for k in which:
            scale, newest = np.float32(1), (held[k, 1] - 1) % rho.shape[1]
            if held[k, 0] > 0:  # the last step tells how far the diagonal is off
                length = 0.0
                for j in range(D + 1):
                    y = np.float64(Y[k, newest, j])
                    length += y * y / max(state[k].curvature + ridge[k, j], 1e-300)
                scale = np.float32(1.0 / (rho[k, newest] * max(length, 1e-30)))
            for j in range(D + 1):
                q[k, j] *= scale * np.float32(1.0 / max(state[k].curvature + ridge[k, j], 1e-300))
    for k in which:
        for back in range(held[k, 0], 0, -1):
            i = (held[k, 1] - back) % rho.shape[1]
            add(alpha[k, i] - np.float32(rho[k, i]) * dot(Y[k, i], q[k]), S[k, i], q[k])
        for j in range(D + 1):
            p[k, j] = -np.float64(q[k, j])


@compiled
def remember(memory: Memory, k: int, step: NDArray, change: NDArray) -> None:
    """Hold a step [D + 1] of descent k and the change of the gradient that it made, if they tell of curvature."""
    S, Y, rho, held, _, _ = memory
    at, product = held[k, 1], 0.0
    for j in range(len(step)):
        S[k, at, j], Y[k, at, j] = np.float32(step[j]), np.float32(change[j])
    for j in range(len(step)):
        product += step[j] * change[j]
    if product > 0.0:
        rho[k, at] = 1.0 / product
        held[k, 0], held[k, 1] = min(held[k, 0] + 1, rho.shape[1]), (at + 1) % rho.shape[1]


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
