"""The rungs that descents of one cell climb: from the diagonal to a factor of the Hessian, shared by all of them.

Steps from the diagonal cost two passes over the rows. Where a problem has taken as many as a factor costs, the Hessian
is factored at the point reached, and steps of all problems go on from there. The problem with most steps is served
first, and every factor counts for all that run: so each comes to its end.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.lbfgs import BEGUN, GIVEN_UP, IDLE, RUNNING, Descents, descend
from probes.solver.rows import Rows, unpair

ROWS, COLUMNS = 2048, 128  # of products of a Hessian taken at a time
SHARE = 2  # steps of several descents that share passes, in the time of one step alone
LEAF = 128  # columns of a triangle that are inverted at once
FACTORS = 4  # of one problem; where these do not suffice, float32 is too coarse for them
ENOUGH = 500  # steps that a problem has at least before it is left to float64


class Ladder:
    """The rung that the descents of a cell stand on, and what they have spent there."""

    def __init__(self, rows: Rows, descents: Descents, work: float) -> None:
        """Start on the first rung. `work` is that of all problems, as `enter` has it for each."""
        n, D = len(rows.X), len(rows.mean)
        self.rows, self.descents = rows, descents
        self.factor: NDArray | None = None
        self.several = True if len(descents.state) > 1 else None
        most = int(descents.state["most"][0])
        self.enough = max(ENOUGH, most // 2)  # steps after which a problem is left to float64
        price = int(D / 8 * (1 + 1.5 * D / n)) + 40  # of a factor, in steps
        self.price = min(price, self.enough // 2) if n >= D else min(200 + n // 2, self.enough)
        self.work, self.begun = work, 0.0  # of all problems, and of those that have begun
        self.spent = 0  # steps of problems that ended
        self.since = np.zeros(len(descents.state), np.int64)  # steps of each problem since it began, or a factor
        self.made = np.zeros(len(descents.state), np.int64)  # factors that each problem has had
        self.pooled = n >= D  # until a factor is made, steps of all problems count

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
        self.spent += int(self.since[k])
        self.since[k] = self.made[k] = 0

    def go_down(self) -> None:
        """Take steps until a descent ends."""
        status = self.descents.state["status"]
        while not (status > RUNNING).any() and (status != IDLE).any():
            on = np.flatnonzero(status != IDLE)
            most = max(0, self._count_steps(on))
            self.since[on] += descend(self.rows, self.descents, self.factor, most, self.several)
            if most == 0 and not (status > RUNNING).any():
                # Most steps since the last factor; of several with as many, the one that began first.
                self._climb(max(on.tolist(), key=lambda k: (self.since[k], self.descents.state["steps"][k])))

    def _count_steps(self, on: NDArray) -> int:
        """Steps that every descent may take before the next rung is due; 0 or less where it is."""
        longest = int(self.since[on].max())
        if self.pooled:
            price = SHARE * self.price if self.several else self.price
            spent = self.spent + int(self.since[on].sum())
            if (self.work - self.begun) / self.begun * spent >= price:  # much is to come: all steps count
                return min(self.price - longest, -((spent - price) // len(on)))
        return self.price - longest

    def _climb(self, k: int) -> None:
        """Factor the Hessian of descent k for all that run; where that is no use, the descent ends."""
        d, status, factor = self.descents, self.descents.state["status"], None
        self.pooled = False
        tired = self.made[k] == FACTORS or d.state["steps"][k] >= self.enough
        if len(self.rows.X) >= len(self.rows.mean) and not tired:
            factor = factor_hessian(self.rows, d, k)
        if factor is None:  # a system in float64 is what remains
            status[k], self.since[k] = GIVEN_UP, 0
            return
        on = np.flatnonzero(status == RUNNING)
        self.factor, status[on], d.memory.held[on] = factor, BEGUN, 0
        self.made[on] += 1
        self.since[on] = 0


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
    """The inverse [m, m] of a lower triangle, float32 or float64: half by half, in half the time of a general solve."""
    m, h = len(L), len(L) // 2
    if m <= LEAF:
        return torch.linalg.solve_triangular(L, torch.eye(m, dtype=L.dtype), upper=False)
    R = torch.zeros(m, m, dtype=L.dtype)
    R[:h, :h], R[h:, h:] = invert_triangle(L[:h, :h]), invert_triangle(L[h:, h:])
    R[h:, :h] = R[h:, h:] @ (L[h:, :h] @ R[:h, :h]).neg_()
    return R
