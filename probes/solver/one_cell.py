"""One cell at a time on a CPU: every label set and penalty by L-BFGS, with a factored Hessian once that pays.

Columns are standardised implicitly, whatever is penalised: u = w · deviation, and a penalty of the raw columns is
l2 / deviation² on u. So one path serves both, and the diagonal of the Hessian is a fair guess of all of it.

Steps from the diagonal cost two passes over the rows. Where a problem has taken as many as a factorisation costs, the
Hessian is factored at the point reached, and steps go on from there: at most twice the cost of the better choice.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.solver.inputs import NotFiniteError
from probes.solver.lbfgs import Memory, Point, Problem, begin, descend, norm, objective
from probes.solver.newton import RESOLUTION, Optimum
from probes.solver.reasons import BEYOND_FLOAT32, BEYOND_FLOAT64, CONSTANT, MAX_ITER, NO_ROW, ONE_CLASS
from probes.solver.rows import Columns, Rows, describe_columns, standardise, store

ROWS, COLUMNS = 2048, 128  # of products of a Hessian taken at a time
# Descents go on below the tolerance, to a share of it and of the gradient at the start, so that weights agree to about
# as many digits as are returned.
AIM, FAR, FAR64 = 0.01, 1e-9, 1e-11
EXCESS = 1e-10  # share of the objective that a descent which ended early may be above the optimum
FACTORS = 4  # of one problem; where these do not suffice, float32 is too coarse for them
NO_FACTOR = np.zeros((0, 0), np.float32)


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
    (K, n), P, D = s.shape, len(l2), acts.shape[1]
    weight = np.full((P, K, D), np.nan)
    bias, value, size = np.full((3, P, K), np.nan)
    steps, why = np.zeros((2, P, K), np.int64)
    converged = np.zeros((P, K), bool)
    positive, negative = (s > 0).sum(1), (s < 0).sum(1)
    why[:] = np.where(positive + negative == 0, NO_ROW, np.where((positive == 0) | (negative == 0), ONE_CLASS, 0))
    if n:
        stored = store(acts)
        columns = describe_columns(stored, n)
        if not np.isfinite(columns.mean).all() and len(bad := (~acts.isfinite().all(-1)).nonzero()):
            raise NotFiniteError(f"in cell {number}, row {counted[int(bad[0])]}")
        for k in range(K):
            if not why[0, k] and _is_constant(stored, columns, s[k]):
                why[:, k] = CONSTANT
        if columns.have_odd_scale():
            why[why == 0] = BEYOND_FLOAT32
        rows = standardise(stored, columns)
        deviation = np.where(columns.deviation == 0, 1, columns.deviation)
        ones = np.ones(D)
        strength, measure = (ones, ones) if standardize else (deviation**-2, deviation)
        descent = Descent(rows, max_iter)
    for k in np.flatnonzero(why[0] == 0):
        weights = s[k]
        if balanced:
            weights = weights * (positive[k] + negative[k]) / (2 * np.where(weights > 0, positive[k], negative[k]))
        signs, shift = np.zeros((2, len(stored)))
        signs[:n] = weights
        if offset is not None:
            shift[:n] = np.where(weights == 0, 0, offset[k])
        u, first = np.zeros(D + 1), 0.0
        # Offsets are log-odds that hold the base rate.
        u[D] = 0 if offset is not None else np.log(weights[weights > 0].sum() / -weights[weights < 0].sum())
        for p in np.argsort(-l2, kind="stable"):
            problem = Problem(signs, shift, np.append(l2[p] * strength, 0.0), measure, columns.mean / deviation)
            point = Point(u, np.empty(len(signs)), np.empty(len(signs)), np.empty(D + 1))
            begin(rows, problem, point)
            first = first or norm(problem, point.g)
            aim = max(min(AIM * tol, (FAR64 if stored.dtype == np.float64 else FAR) * first), RESOLUTION * first)
            reached, steps[p, k] = descent.run(problem, point, aim)
            w = u[:D] * rows.unit
            weight[p, k], bias[p, k] = w, u[D] - w @ rows.centre
            value[p, k], size[p, k] = objective(problem, u, point.z), norm(problem, point.g)
            converged[p, k] = size[p, k] <= max(tol, RESOLUTION * first)
            if converged[p, k] and not reached and steps[p, k] < max_iter:
                # A small gradient alone leaves the objective open where the penalty is weak.
                converged[p, k] = _bound_excess(problem, point) <= EXCESS * value[p, k]
            why[p, k] = 0 if converged[p, k] else MAX_ITER if steps[p, k] >= max_iter else BEYOND_FLOAT64
        descent.memory.forget()
    fields = (weight, bias, value, size, steps, converged)
    optimum = Optimum(*(torch.from_numpy(field.reshape(1, P * K, *field.shape[2:])) for field in fields))
    return optimum, torch.from_numpy(why.reshape(1, P * K))


def _is_constant(stored: NDArray, columns: Columns, s: NDArray) -> bool:
    """Whether the rows that count are all the same."""
    used = np.flatnonzero(s)
    if (stored[used[0]] != stored[used[1]]).any():  # two rows tell, nearly always
        return False
    return bool((columns.least >= columns.most).all() or (stored[used] == stored[used[0]]).all())


def _bound_excess(problem: Problem, point: Point) -> float:
    """Most that the objective is above its optimum, from the gradient and the least curvature: the penalty's."""
    g, ridge = point.g, problem.ridge
    of_intercept = (np.abs(point.r) * (1 - np.abs(point.r) / np.maximum(np.abs(problem.s), 1e-300))).sum()
    return float((g[:-1] ** 2 / ridge[:-1]).sum() / 2 + g[-1] ** 2 / max(of_intercept, 1e-300) / 2)


class Descent:
    """Descents in one cell, which share what they know of its Hessian."""

    def __init__(self, rows: Rows, max_iter: int) -> None:
        """Know nothing yet; a problem takes at most `max_iter` steps."""
        n, D = rows.X.shape
        self.rows, self.max_iter, self.factor = rows, max_iter, NO_FACTOR
        self.memory, self.ridge = Memory.empty(D), np.zeros(D + 1)
        self.price = int(D / 12 * (1 + D / n)) + 20 if n >= D else 200 + n // 2  # of a factor, in steps
        self.left = self.price  # steps that may be taken before one is made

    def run(self, problem: Problem, point: Point, tol: float) -> tuple[bool, int]:
        """Go down to where the gradient is at most `tol`, if that can be reached: whether, and the steps taken."""
        n, D = self.rows.X.shape
        if self.memory.held[0]:
            self.memory.add_ridge(problem.ridge - self.ridge)
        self.ridge, steps, made = problem.ridge, 0, 0
        while True:
            most = min(self.max_iter - steps, self.left)
            converged, more = descend(self.rows, problem, point, self.memory, self.factor, tol, most)
            steps += more
            if converged or more < most or steps == self.max_iter:
                self.left = self.price if len(self.factor) or n < D else max(1, self.left - more)
                return converged, steps
            self.left = self.price
            if n < D or made == FACTORS:  # a system in float64 is what remains
                return converged, steps
            self.factor, made = factor_hessian(self.rows, problem, point), made + 1
            self.memory.forget()
            if not len(self.factor):
                return converged, steps


def factor_hessian(rows: Rows, problem: Problem, point: Point) -> NDArray:
    """The Hessian of the weights at a point, factored: L with LL' = X'WX + ridge, of the standardised columns.

    Returns:
        [D, D] float32, lower triangular; [0, 0] where rounding leaves nothing that could be factored.
    """
    D = len(rows.mean)
    share = np.abs(point.r) / np.maximum(np.abs(problem.s), 1e-300)
    root = torch.from_numpy(np.sqrt(np.abs(point.r) * (1 - share)))
    X = torch.from_numpy(rows.X)
    X = X.view(torch.bfloat16) if X.dtype == torch.uint16 else X
    mean, inverse = torch.from_numpy(rows.mean).float(), torch.from_numpy(rows.inverse).float()
    H = torch.zeros(D, D)
    for some, of_some in zip(X.split(ROWS), root.split(ROWS), strict=True):
        A = (some.float() - mean).mul_(inverse).mul_(of_some[:, None].float())
        for start in range(0, D, COLUMNS):
            stop = start + COLUMNS
            H[start:stop, :stop].addmm_(A[:, start:stop].T, A[:, :stop])  # what lies below the diagonal is all it takes
    H.diagonal().add_(torch.from_numpy(problem.ridge[:D]).float())
    L, failed = torch.linalg.cholesky_ex(H)
    return NO_FACTOR if failed or not L.isfinite().all() else L.contiguous().numpy()
