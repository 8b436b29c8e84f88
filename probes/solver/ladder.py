"""The rungs that descents of one cell climb: from the diagonal to a factor of the Hessian, shared by all of them.

Steps from the diagonal cost two passes over the rows. Where a problem has taken as many as a factor costs, the Hessian
is factored at the point reached, and steps go on from there: at most twice the cost of the better choice.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.lbfgs import BEGUN, GIVEN_UP, IDLE, RUNNING, Descents, descend
from probes.solver.rows import Rows, unpair

ROWS, COLUMNS = 2048, 128  # of products of a Hessian taken at a time
SHARE = 2  # times as many steps as alone cost the same where several descents share them
LEAF = 128  # columns of a triangle that are inverted at once
FACTORS = 4  # of one problem; where these do not suffice, float32 is too coarse for them


class Ladder:
    """The rung that the descents of a cell stand on, and what they have spent there."""

    def __init__(self, rows: Rows, descents: Descents, work: float) -> None:
        """Start on the first rung. `work` is that of all problems, as `enter` has it for each."""
        n, D = len(rows.X), len(rows.mean)
        self.rows, self.descents = rows, descents
        self.factor: NDArray | None = None
        self.several = True if len(descents.state) > 1 else None
        self.price = int(D / 8 * (1 + 1.5 * D / n)) + 40 if n >= D else 200 + n // 2  # of a factor, in steps
        self.work, self.begun = work, 0.0  # of all problems, and of those that have begun
        self.spent = 0  # steps of problems that ended without a factor
        self.since = np.zeros(len(descents.state), np.int64)  # steps of each problem since it began, or a factor
        self.made = np.zeros(len(descents.state), np.int64)  # factors for each problem

    def enter(self, k: int, ridge: NDArray, work: float) -> None:
        """A problem with this ridge [D + 1] begins as descent k, which may remember steps of another ridge.

        It will take about `work` steps, in any unit.
        """
        d = self.descents
        if d.memory.held[k, 0]:
            d.memory.add_ridge(k, ridge - d.ridge[k])
        d.ridge[k] = ridge
        d.state["steps"][k], d.state["status"][k] = 0, BEGUN
        self.begun += work
        if self.factor is None:
            self.spent += int(self.since[k])
        self.since[k] = self.made[k] = 0

    def go_down(self) -> None:
        """Take steps until a descent ends."""
        status = self.descents.state["status"]
        while not (status > RUNNING).any() and (status != IDLE).any():
            on = np.flatnonzero(status != IDLE)
            most = self._count_steps(on)
            if most > 0:
                self.since[on] += descend(self.rows, self.descents, self.factor, most, self.several)
            else:
                self._climb(int(on[np.argmax(self.since[on])]))

    def _count_steps(self, on: NDArray) -> int:
        """Steps that every descent may take before the next rung is due."""
        longest = int(self.since[on].max())
        if self.factor is None and len(self.rows.X) >= len(self.rows.mean):
            price = SHARE * self.price if self.several else self.price
            spent = self.spent + int(self.since[on].sum())
            if (self.work - self.begun) / self.begun * spent >= price:  # much is to come: all steps count
                return min(self.price - longest, -((spent - price) // len(on)))
        return self.price - longest

    def _climb(self, k: int) -> None:
        """Factor the Hessian of descent k for all; where that is no use, the descent ends."""
        d, status = self.descents, self.descents.state["status"]
        useless = len(self.rows.X) < len(self.rows.mean) or self.made[k] == FACTORS
        if not useless:
            self.factor = factor_hessian(self.rows, d, k)
            self.made[k] += 1
            d.memory.held[:] = 0
            status[status == RUNNING] = BEGUN
            self.spent, self.since[:] = 0, 0
        if useless or self.factor is None:  # a system in float64 is what remains
            status[k], self.since[k] = GIVEN_UP, 0


def factor_hessian(rows: Rows, descents: Descents, k: int) -> NDArray | None:
    """The Hessian of the weights where descent k is, factored and inverted: R with R'R the inverse of X'WX + ridge.

    Returns:
        Pairs [D, D / 2] complex64 of a lower triangle; None where rounding leaves nothing that could be factored.
    """
    D, r, s = len(rows.mean), np.abs(descents.r[k]), np.abs(descents.s[k])
    root = torch.from_numpy(np.sqrt(r * (1 - r / np.maximum(s, 1e-300))))
    X = torch.from_numpy(unpair(rows.X))
    X = X.view(torch.bfloat16) if X.dtype == torch.uint16 else X
    mean, inverse = torch.from_numpy(rows.mean).float(), torch.from_numpy(rows.inverse).float()
    H = torch.zeros(D, D)
    for some, of_some in zip(X.split(ROWS), root.split(ROWS), strict=True):
        A = (some.float() - mean).mul_(inverse).mul_(of_some[:, None].float())
        for start in range(0, D, COLUMNS):
            stop = start + COLUMNS
            H[start:stop, :stop].addmm_(A[:, start:stop].T, A[:, :stop])  # what lies below the diagonal is all it takes
    H.diagonal().add_(torch.from_numpy(descents.ridge[k, :D]).float())
    L, failed = torch.linalg.cholesky_ex(H)
    R = invert_triangle(L)
    return None if failed or not R.isfinite().all() else R.contiguous().numpy().view(np.complex64)


def invert_triangle(L: Tensor) -> Tensor:
    """The inverse of a lower triangle [m, m], in a third of the time of a general one: half by half."""
    m, h = len(L), len(L) // 2
    if m <= LEAF:
        return torch.linalg.solve_triangular(L, torch.eye(m, dtype=L.dtype), upper=False)
    R = torch.zeros(m, m, dtype=L.dtype)
    R[:h, :h], R[h:, h:] = invert_triangle(L[:h, :h]), invert_triangle(L[h:, h:])
    R[h:, :h] = R[h:, h:] @ (L[h:, :h] @ R[:h, :h]).neg_()
    return R
