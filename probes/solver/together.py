"""Many problems of many cells together: the descent of `lbfgs` by batched products, for GPUs and many label sets.

What `lbfgs` says of directions, steps and rounding holds here. Problems take their steps at the same time. One whose
gradient has come down far enough waits for the others, and all are then computed anew in float64. Once no more than
half of the cells go on, or no more than half of the label sets in every cell, they do so without the others.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from probes.solver.cells import Cells, gather, spread
from probes.solver.inverses import Diagonal, Factored
from probes.solver.ladder import FACTORS
from probes.solver.lbfgs import ANCHORED, ANCHORS, EXACT, EXCESS
from probes.solver.line_search import bend_of, search
from probes.solver.newton import RESOLUTION, Optimum, log_odds
from probes.solver.pairs import Pairs

LOOK = 4  # steps between looks at how many problems wait: the CPU has to wait for a GPU to know
# Descents go on below the tolerance, to a share of it and of the gradient at the start, so that weights agree to about
# as many digits as are returned: in float32 and in float64.
AIM, FAR, FAR64 = 0.01, 1e-9, 1e-11
PROMISE = 1e-11  # share of the objective that the last step of a converged problem may have gained
PRICE = 20, 50  # of a factor, in steps: so many, and one more for so many columns


class Problems(NamedTuple):
    """What is minimised, as in `lbfgs.Descents`, for k problems in each of c cells; float64."""

    s: Tensor  # [c, k, n]
    offset: Tensor  # [c, k, n]
    ridge: Tensor  # [c, 1, D + 1]
    measure: Tensor  # [c, 1, D]
    shift: Tensor  # [c, 1, D]

    def norm(self, g: Tensor) -> Tensor:
        """2-norm of the gradient g [c, k, D + 1] with respect to the weights and intercept of the caller's columns."""
        of_weights = (self.measure * (g[..., :-1] + self.shift * g[..., -1:])).square().sum(-1)
        return (of_weights + g[..., -1].square()).sqrt()

    def objective(self, u: Tensor, z: Tensor) -> Tensor:
        """What is minimised, in nats, [c, k]."""
        loss = (self.s.abs() * softplus(-self.s.sign() * z)).sum(-1)
        return loss + (self.ridge * u * u).sum(-1) / 2

    def excess(self, at: "Points") -> Tensor:
        """Most that the objective is above its optimum, from the gradient and the least curvature, [c, k]."""
        g = at.g.square() / 2
        of_intercept = bend_of(at.r, self.s.abs()).sum(-1).clamp(min=1e-300)
        return (g[..., :-1] / self.ridge[..., :-1]).sum(-1) + g[..., -1] / of_intercept

    def take(self, cells: Tensor, sets: Tensor) -> "Problems":
        """Those of cells [c'] with the label sets sets [c', k'], int64."""
        of_set = self.s[cells[:, None], sets], self.offset[cells[:, None], sets]
        return Problems(*of_set, self.ridge[cells], self.measure[cells], self.shift[cells])


class Points(NamedTuple):
    """Where k descents in each of c cells are."""

    u: Tensor  # [c, k, D + 1] float64, weights of standardised columns, and the intercept
    z: Tensor  # [c, k, n] float64, logits
    r: Tensor  # [c, k, n] float64, residuals
    g: Tensor  # [c, k, D + 1] float64, gradient
    goal: Tensor  # [c, k] float64, norm of the gradient to come down to
    gain: Tensor  # [c, k] float64, of the last step
    steps: Tensor  # [c, k] int64
    moving: Tensor  # [c, k] bool
    failed: Tensor  # [c, k] bool: the last direction led nowhere

    def take(self, cells: Tensor, sets: Tensor) -> "Points":
        """Those of cells [c'] with the label sets sets [c', k'], int64."""
        return Points(*(x[cells[:, None], sets] for x in self))

    def put(self, cells: Tensor, sets: Tensor, part: "Points") -> None:
        """Let those of some problems be `part`."""
        for whole, of_part in zip(self, part, strict=True):
            if whole is not of_part:
                whole[cells[:, None], sets] = of_part


def descend_together(
    cells: Cells,
    s: Tensor,
    live: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    standardize: bool,
    offset: Tensor | None = None,
) -> Optimum:
    """Solve k label sets of c cells for P penalties each: a penalty starts where the next stronger one ended.

    Args:
        cells: the rows [c, n, D].
        s: weights of the rows with the signs of their labels, [c, k, n] float64, 0 where a row does not count.
        live: the problems to solve, [c, k] bool.
        l2: penalties, [P] float64.
        tol: largest gradient norm of a converged problem.
        max_iter: most steps of a problem.
        standardize: as in `fit_logistic`.
        offset: [c, k, n] float64 added to the logits; none by default.

    Returns:
        The optimum, fields [c, P * k, ..] with the label sets varying fastest.
    """
    deviation = torch.where(cells.deviation > 0, cells.deviation, 1.0)[:, None]
    ones = torch.ones_like(deviation)
    strength, measure = (ones, ones) if standardize else (deviation**-2, deviation)
    added = s.new_zeros(1).expand_as(s) if offset is None else offset
    u = s.new_zeros(*live.shape, cells.X.shape[2] + 1)
    u[..., -1] = log_odds(s, live, offset)
    found: dict[int, Optimum] = {}
    first = aim = torch.empty(0)
    for p in (-l2).argsort(stable=True).tolist():
        problems = Problems(s, added, pad(l2[p] * strength, (0, 1)), measure, cells.mean[:, None] / deviation)
        descent = Descent(cells, problems, u, max_iter)
        if not found:
            first = problems.norm(descent.at.g)
            far = (FAR64 if cells.stored.dtype == torch.float64 else FAR) * first
            aim = far.clamp(max=AIM * tol).maximum(RESOLUTION * first)
        descent.run(live, aim)
        at = descent.at
        u, size = at.u, problems.norm(at.g)
        w = u[..., :-1] * cells.unit[:, None]
        b = u[..., -1] - (w @ cells.mean[..., None])[..., 0]
        done = live & (size <= (RESOLUTION * first).clamp(min=tol))
        # A small gradient alone leaves the objective open where the penalty is weak.
        done &= descent.reached | (at.steps >= max_iter) | (problems.excess(at) <= EXCESS * problems.objective(u, at.z))
        found[p] = Optimum(w, b, problems.objective(u, at.z), size, at.steps, done)
    return Optimum(*(torch.cat(parts, 1) for parts in zip(*(found[p] for p in range(len(l2))), strict=True)))


class Descent:
    """Descents of k problems in each of c cells; `at` is where they are, `reached` [c, k] which are at their goal."""

    def __init__(self, cells: Cells, problems: Problems, u: Tensor, max_iter: int) -> None:
        """Start at u [c, k, D + 1]; a problem takes at most `max_iter` steps."""
        self.cells, self.problems = cells, problems
        (c, k, _), (n, D) = u.shape, cells.X.shape[1:]
        self.pairs = Pairs(c, k, D, u.device)
        self.factored = n >= D  # with fewer rows no factor is made: a system in float64 is what remains
        self.price = PRICE[0] + D // PRICE[1]
        self.most = max_iter if self.factored else min(max_iter, 200 + n // 2)
        self.factors, self.since = 0, 0  # factors made, and steps since the last
        nothing = u.new_zeros(c, k)
        self.reached = nothing > 0
        self.at = Points(u, *self._evaluate(u), nothing, nothing + torch.inf, nothing.long(), nothing > 0, nothing > 0)

    def run(self, live: Tensor, aim: Tensor) -> None:
        """Go down to where the gradients of live problems are at most `aim` [c, k], if that can be reached."""
        left = live
        for anchors in range(ANCHORS + 1):
            size, gained = self.problems.norm(self.at.g), PROMISE * self.problems.objective(self.at.u, self.at.z)
            self.reached = (size <= aim) & (self.at.gain <= gained)
            left = left & ~self.reached & ~self.at.failed & (self.at.steps < self.most)
            if anchors == ANCHORS or not left.any():
                return
            goal = torch.where(size > aim, (0.7 * aim).maximum(ANCHORED * size), 0.1 * size)
            self.at = self.at._replace(goal=goal, moving=left.clone())
            self._walk()
            z, r, g = self._evaluate(self.at.u)
            self.at = self.at._replace(z=z, r=r, g=g)

    def _evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, residuals and gradient at u, in float64 from the rows as stored."""
        z, r, g = self.cells.evaluate(u, self.problems.s, self.problems.offset)
        return z, r, g + self.problems.ridge * u

    def _walk(self) -> None:
        """Take steps until no problem moves; those that move are kept together."""
        X, problems, at, pairs = self.cells.X, self.problems, self.at, self.pairs
        number = torch.arange(len(at.moving), device=at.u.device)
        sets = torch.arange(at.moving.shape[1], device=at.u.device).expand_as(at.moving)
        H: Diagonal | Factored = Diagonal.of(bend_of(at.r, problems.s.abs()), problems.ridge)
        taken = 0
        while True:
            if taken % LOOK == 0 or not at.u.is_cuda:
                moving = at.moving.sum(1)
                some, most = torch.stack(((moving > 0).sum(), moving.max())).tolist()
                if 2 * some <= len(number) or 2 * most <= sets.shape[1]:
                    self.at.put(number, sets, at)
                    if pairs is not self.pairs:
                        self.pairs.put(number, sets, pairs)
                    if not some:
                        return
                    left = torch.arange(some, device=number.device)
                    if some < len(number):
                        left = (moving > 0).nonzero()[:, 0]
                        X = X[left]
                    of_left = (~at.moving[left]).int().argsort(dim=1, stable=True)[:, :most]
                    problems, at = problems.take(left, of_left), at.take(left, of_left)
                    pairs, H = pairs.take(left, of_left), H.take(left, of_left)
                    number, sets = number[left], sets[left].gather(1, of_left)
            if self.factored and self.factors < FACTORS and (self.since == self.price or (taken == 0 and self.factors)):
                H = Factored.of(X, bend_of(at.r, problems.s.abs()), problems.ridge, at.moving)
                pairs.forget()
                self.factors, self.since = self.factors + 1, 0
            elif taken & (taken - 1) == 0 and isinstance(H, Diagonal):
                H = Diagonal.of(bend_of(at.r, problems.s.abs()), problems.ridge)
                pairs.renew(H)
            at = _step(X, problems, at, pairs, H, self.most)
            taken, self.since = taken + 1, self.since + 1


def _step(X: Tensor, problems: Problems, at: Points, pairs: Pairs, H: Diagonal | Factored, most: int) -> Points:
    """A step of every problem that moves; remembers what it tells."""
    g = at.g.float()
    p = pairs.direction(g, H, at.failed)
    dz = spread(X, p)
    p = p.double()
    slope, bend = (at.g * p).sum(-1), (problems.ridge * p * p).sum(-1)
    t, r, gain = search(problems.s, at.z, at.r, dz, slope, bend, at.moving, EXACT)
    went = t > 0
    z, step = (torch.where(went[..., None], t[..., None] * x, 0.0) for x in (dz, p))
    z += at.z
    r = torch.where(went[..., None], r, at.r)
    change = gather(X, r - at.r) + problems.ridge * step
    pairs.add(step, change, H)
    g, steps = at.g + change, at.steps + at.moving
    failed = torch.where(at.moving, ~went, at.failed)
    moving = at.moving & (problems.norm(g) > at.goal) & (steps < most) & ~(failed & at.failed)
    return Points(at.u + step, z, r, g, at.goal, torch.where(went, gain, at.gain), steps, moving, failed)
