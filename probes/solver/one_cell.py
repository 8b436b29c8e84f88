"""One cell at a time on a CPU: every label set and penalty by L-BFGS.

Columns are standardised implicitly, whatever is penalised: u = w · deviation, and a penalty of the raw columns is
l2 / deviation² on u. So one path serves both, and the diagonal of the Hessian is a fair guess of all of it.

Up to four label sets share each read of the rows (`lbfgs`). A label set goes through its penalties from strong to weak,
each from the optimum of the one before, and then makes room for the next label set. All of them share what is known of
the Hessian (`ladder`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.inputs import NotFiniteError
from probes.solver.ladder import Ladder
from probes.solver.lbfgs import ANCHORED, COARSE, EXCESS, IDLE, RUNNING, SPENT, Descents
from probes.solver.newton import RESOLUTION, Optimum
from probes.solver.passes import LANES
from probes.solver.reasons import BEYOND_FLOAT32, BEYOND_FLOAT64, CONSTANT, MAX_ITER, NO_ROW, ONE_CLASS
from probes.solver.rows import Columns, describe_columns, standardise, store

# Share of their range that the last two steps of a descent move scores by at most: scores then agree to about as many
# digits as float32 has. Activations in float64 get weights in float64.
STILL, STILL64 = 1e-8, 1e-10


@np.errstate(all="ignore")  # what overflows shows in the outcome
def solve_cell(
    acts: Tensor,
    s: NDArray,
    l2: NDArray,
    tol: float,
    max_iter: int,
    standardize: bool = False,
    offset: NDArray | None = None,
    balanced: bool = False,
    number: int = 0,
) -> tuple[Optimum, Tensor]:
    """Solve K label sets of one cell for P penalties each: a penalty starts where the next stronger one ended.

    Args:
        acts: [N, D], any floating dtype.
        s: [K, N] in {-1, 0, 1}, any dtype: sign of the label, 0 where a row does not count.
        l2: [P] float64.
        tol: largest gradient norm of a converged problem.
        max_iter: most steps of a problem.
        standardize: as in `fit_logistic`.
        offset: [K, N] float64 added to the logits; none by default.
        balanced: weigh rows so that both classes of a label set weigh the same, together as much as all its rows.
        number: of the cell, for messages.

    Returns:
        The optimum, fields [1, P * K, ..] with the label sets varying fastest, NaN where there is none; and the number
        of the reason, [1, P * K] int64.

    Raises:
        ValueError: NaN or infinity in a row that counts.
    """
    s = s.astype(np.float64)
    counted = np.flatnonzero(s.any(0))
    if len(counted) < len(acts):
        acts, s = acts[torch.from_numpy(counted)], s[:, counted]
        offset = None if offset is None else offset[:, counted]
    (K, n), (positive, negative) = s.shape, ((s > 0).sum(1), (s < 0).sum(1))
    why = np.where(positive + negative == 0, NO_ROW, np.where((positive == 0) | (negative == 0), ONE_CLASS, 0))
    found = Found.nothing(why, len(l2), acts.shape[1])
    if n:
        stored = store(acts)
        columns = describe_columns(stored, n)
        if not np.isfinite(columns.mean).all() and len(bad := (~acts.isfinite().all(-1)).nonzero()):
            raise NotFiniteError(f"in cell {number}, row {counted[int(bad[0])]}")
        for k in range(K):
            if not why[k] and _is_constant(acts, columns, s[k]):
                found.why[:, k] = CONSTANT
        if columns.have_odd_scale():
            found.why[found.why == 0] = BEYOND_FLOAT32
        if balanced:
            s *= (positive + negative)[:, None] / (2 * np.where(s > 0, positive[:, None], negative[:, None]))
        if (found.why == 0).any():
            task = Task(s, offset, l2, tol, max_iter, STILL64 if acts.dtype == torch.float64 else STILL)
            Cell(stored, columns, standardize, task, found).solve()
    return found.optimum(), torch.from_numpy(found.why.reshape(1, -1))


class Task(NamedTuple):
    """What a cell is to be solved for."""

    s: NDArray  # [K, n] float64: weights of the rows with the signs of their labels, 0 where a row does not count
    offset: NDArray | None  # [K, n] float64
    l2: NDArray  # [P] float64
    tol: float  # largest gradient norm of a converged problem
    max_iter: int  # most steps of a problem
    still: float  # share of their range that the last two steps may move scores by


class Found(NamedTuple):
    """What was found for P penalties of K label sets; NaN where there is nothing."""

    weight: NDArray  # [P, K, D] float64
    bias: NDArray  # [P, K] float64
    objective: NDArray  # [P, K] float64
    norm: NDArray  # [P, K] float64, of the gradient
    steps: NDArray  # [P, K] int64
    converged: NDArray  # [P, K] bool
    why: NDArray  # [P, K] int64, the number of the reason

    @classmethod
    def nothing(cls, why: NDArray, P: int, D: int) -> "Found":
        """Nothing yet, for the reasons why [K], 0 where something may be found."""
        K = len(why)
        bias, objective, norm = np.full((3, P, K), np.nan)
        steps, converged = np.zeros((P, K), np.int64), np.zeros((P, K), bool)
        return cls(np.full((P, K, D), np.nan), bias, objective, norm, steps, converged, np.tile(why, (P, 1)))

    def optimum(self) -> Optimum:
        """The same as tensors, of one cell."""
        fields = (self.weight, self.bias, self.objective, self.norm, self.steps, self.converged)
        return Optimum(*(torch.from_numpy(field.reshape(1, -1, *field.shape[2:])) for field in fields))


class Cell:
    """A cell, its problems, and the descents that go down in it together."""

    def __init__(self, stored: NDArray, columns: Columns, standardize: bool, task: Task, found: Found) -> None:
        """Hold the rows [n, D / 2] as pairs, from `store`; nothing is solved yet."""
        deviation = np.where(columns.deviation == 0, 1, columns.deviation)
        ones = np.ones_like(deviation)
        self.strength, measure = (ones, ones) if standardize else (deviation**-2, deviation)
        self.rows = standardise(stored, columns, float(task.l2.min() * self.strength.min()))
        self.task, self.found = task, found
        sets = int((found.why[0] == 0).sum())
        aims = task.tol, RESOLUTION, task.still, COARSE if self.rows.is_coarse else ANCHORED
        self.descents = Descents.empty(min(LANES, sets), len(stored), measure, columns.mean / deviation, aims)
        self.descents.state["most"] = task.max_iter
        self.ladder = Ladder(self.rows, self.descents, sets * float((task.l2**-0.5).sum()))

    def solve(self) -> None:
        """Solve every label set that can be solved, for all penalties."""
        status = self.descents.state["status"]
        sets = iter(np.flatnonzero(self.found.why[0] == 0).tolist())
        lanes = [self._solve_sets(sets, at) for at in range(len(status))]
        ended = range(len(status))
        while len(ended):
            for at in ended:
                if next(lanes[at], None) is None:
                    status[at] = IDLE
            self.ladder.go_down()
            ended = np.flatnonzero(status > RUNNING)

    def _solve_sets(self, sets: Iterator[int], at: int) -> Iterator[bool]:
        """Solve the next label set and those after it as descent `at`; yields where that is to go down."""
        d, ladder, (s, offset, l2, *_) = self.descents, self.ladder, self.task
        for k in sets:
            n, up = s.shape[1], s[k] > 0
            d.s[at, :n], d.u[at], d.state["first"][at] = s[k], 0, 0
            if offset is None:
                d.u[at, -1] = np.log(s[k][up].sum() / -s[k][~up].sum())
            else:  # log-odds that hold the base rate
                d.offset[at, :n] = np.where(s[k] == 0, 0, offset[k])
            d.memory.forget(at)
            for p in np.argsort(-l2, kind="stable"):
                ladder.enter(at, np.append(l2[p] * self.strength, 0.0), float(l2[p] ** -0.5))
                yield True
                self._record(at, p, k)

    def _record(self, at: int, p: int, k: int) -> None:
        """Keep what descent `at` found for a penalty of a label set."""
        d, found, state = self.descents, self.found, self.descents.state[at]
        w = d.u[at, :-1] * self.rows.unit
        shift = (w.astype(np.longdouble) * self.rows.centre).sum()  # may be large: the intercept is to be rounded once
        found.weight[p, k], found.bias[p, k] = w[: found.weight.shape[2]], d.u[at, -1] - shift
        found.objective[p, k], found.norm[p, k], found.steps[p, k] = state["value"], state["size"], state["steps"]
        # A small gradient alone leaves it open where the penalty is weak.
        small = state["size"] <= max(self.task.tol, RESOLUTION * state["first"])
        found.converged[p, k] = converged = small and state["excess"] <= EXCESS * state["value"]
        found.why[p, k] = 0 if converged else MAX_ITER if state["status"] == SPENT else BEYOND_FLOAT64


def _is_constant(acts: Tensor, columns: Columns, s: NDArray) -> bool:
    """Whether the rows that count are all the same."""
    used = torch.from_numpy(np.flatnonzero(s))
    if (acts[used[0]] != acts[used[1]]).any():  # two rows tell, nearly always
        return False
    return bool((columns.least >= columns.most).all() or (acts[used] == acts[used[0]]).all())
