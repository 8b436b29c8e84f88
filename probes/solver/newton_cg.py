"""Newton's method with directions by conjugate gradients, for cells too large to factor at every step.

A direction solves H d = -g with H = X'WX + l2. Conjugate gradients need H only in products, and may stop early: far
from the optimum a rough direction is as good as an exact one. Once they have cost as much as a factorisation would, the
factor of a matrix near H is made, and preconditions them from then on: neither an easy nor a hard cell is slow.

The weights live in one of two spaces. `Weights` is w itself: a product is two passes over X. `Combinations`, for fewer
rows, writes w = X'a and knows X by its Gram matrix XX' [n, n], made once for every step, label set and penalty.

Beside them stands the *border*: the intercept, and the few columns that dwarf all others (residual streams have some),
each with a weight of its own. Inside X they would drown the other columns' digits.

Steps are first taken on logits that are carried along in the dtype of X. Once these settle, weights and logits are
computed anew in float64, and from then on only small increments are added: rounding costs steps and moves no optimum.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from probes.solver.line_search import step_length
from probes.solver.newton import Optimum, log_odds
from probes.solver.one_cell import LEFT, STILL
from probes.solver.rows import HEAVY, MOST_HEAVY

SETTLED = 0.03  # a step that changes no logit by more is followed by one whose error is about its square
LAST_STEPS = 12  # on float64 logits; where these do not suffice, rounding has spoilt the directions
CHUNK = 128  # rows taken to float64 at a time, so that they stay in cache


class Weights(NamedTuple):
    """The space of weights w [c, k, D] on the rows X [c, n, D]."""

    X: Tensor

    def image(self, w: Tensor) -> Tensor:
        """Xw: what weights do to the logits, [c, k, n]."""
        return w @ self.X.mT

    def lift(self, v: Tensor) -> Tensor:
        """X'v: the weights that a vector v [c, k, n] over the rows adds up to."""
        return v @ self.X

    def dot(self, u: Tensor, w: Tensor, image_w: Tensor) -> Tensor:
        """Inner product of the weights that u and w stand for, [c, k]."""
        return (u * w).sum(-1)

    def weight(self, w: Tensor) -> Tensor:
        """The weights themselves, [c, k, D]."""
        return w


class Combinations(NamedTuple):
    """The space of a [c, k, n], which stands for the weights X'a; methods as in `Weights`."""

    X: Tensor
    G: Tensor

    def image(self, a: Tensor) -> Tensor:
        """XX'a."""
        return a @ self.G

    def lift(self, v: Tensor) -> Tensor:
        """X'v is what v itself stands for."""
        return v

    def dot(self, a: Tensor, b: Tensor, image_b: Tensor) -> Tensor:
        """a'XX'b."""
        return (a * image_b).sum(-1)

    def weight(self, a: Tensor) -> Tensor:
        """X'a."""
        return a @ self.X


class Factor(NamedTuple):
    """The inverse of X'VX + ridge, V [n] the mean curvature of the label sets, through a factored n x n matrix.

    By the Woodbury identity it is (1 - X'S B⁻¹ SX) / ridge with S = √V and B = ridge + SXX'S.
    """

    S: Tensor  # [c, 1, n]
    L: Tensor  # [c, n, n], Cholesky factor of B
    ridge: Tensor  # [c, 1, 1]

    @classmethod
    def of(cls, G: Tensor, curvature: Tensor, l2: Tensor, active: Tensor) -> "Factor":
        """Factor at the mean curvature [c, n] and the geometric mean of the penalties of the active problems."""
        share = (active / active.sum(-1, keepdim=True).clamp(min=1)).to(G)[..., None]
        S = (curvature * share).sum(-2, keepdim=True).sqrt()
        ridge = (l2.log()[:, None] * share).sum(-2, keepdim=True).exp()
        B = S.mT * G * S
        B.diagonal(dim1=-2, dim2=-1).add_(ridge[..., 0])
        return cls(S, torch.linalg.cholesky_ex(B).L, ridge)

    def solve(self, image: Tensor, r: Tensor) -> Tensor:
        """The inverse times r [c, k, n], of which image is XX'r."""
        y = torch.cholesky_solve((self.S * image).mT, self.L).mT
        return (r - self.S * y) / self.ridge


def border(X: Tensor) -> tuple[Tensor, Tensor]:
    """Split heavy columns off: the border Z [c, n, 1 + m], a column of ones first, and the m columns' numbers [c, m].

    X [c, n, D] is changed in place, to zero in those columns.
    """
    energy = torch.stack([rows.square().sum(1) for rows in X.split(CHUNK, 1)]).sum(0)
    median = energy.sort(-1).values[:, (energy.shape[1] - 1) // 2, None]  # `median` is not deterministic on a GPU
    n_heavy = int((energy > HEAVY * median).sum(-1).max().clamp(max=MOST_HEAVY))
    columns = energy.topk(n_heavy).indices
    at = columns[:, None].expand(-1, X.shape[1], -1)
    Z = torch.cat((torch.ones_like(X[..., :1]), X.gather(2, at)), -1)
    X.scatter_(2, at, 0.0)
    return Z, columns


def newton_cg(
    space: Weights | Combinations,
    Z: Tensor,
    columns: Tensor,
    mean: Tensor,
    s: Tensor,
    live: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    start: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Optimum:
    """Solve c cells with k label sets each, to the same ends as `newton.newton`.

    Args:
        space: where the weights live; its X [c, n, D] are the rows, shifted, without the columns of the border.
        Z: border [c, n, 1 + m] as from `border`.
        columns: numbers of the border's columns in X, [c, m].
        mean: what was taken off the columns, [c, D] float64.
        s: [c, k, n] float64 in {-1, 0, 1}: sign of the label, 0 where a row does not count.
        live: [c, k] bool: which problems to solve.
        l2: [k] float64.
        tol: largest gradient norm of a converged problem.
        max_iter: most steps.
        start: u in `space` and v [c, k, 1 + m] to start from, float64, and how far the logits may be off there, [c, k]
            in units of max(1, |logit|); zeros and the log-odds by default.
    """
    X, Z64 = space.X, Z.double()
    penalty = l2[:, None] * torch.ones_like(Z64[:, :1]).index_fill(
        -1, torch.tensor([0], device=Z.device), 0.0
    )  # [c, k, 1 + m]
    if start is None:
        u = space.lift(torch.zeros_like(s, dtype=X.dtype)).double()
        v = torch.zeros_like(penalty.expand(*live.shape, -1)).clone()
        v[..., 0] = log_odds(s, live)
        moved = torch.full_like(l2.expand(live.shape), torch.inf)
    else:
        u, v, moved = start
    logit = space.image(u.to(X.dtype)).double() + v @ Z64.mT
    active, converged = live, torch.zeros_like(live)
    iterations = torch.zeros_like(live, dtype=torch.int64)
    factor, w, last, accuracy = None, None, 0, 1.0
    while True:
        if w is None and (not (active & (moved > SETTLED)).any() or int(iterations.max()) >= max_iter):
            w = sum_of_rows(u, X) if isinstance(space, Combinations) else u
            logit = logits(w, X) + v @ Z64.mT
        residual = -s * torch.sigmoid(-s * logit)
        q = (residual if isinstance(space, Combinations) else sum_of_rows(residual, X)) + l2[:, None] * u
        q_border = residual @ Z64 + penalty * v
        if w is not None:
            gradient = (
                space.weight(q.to(X.dtype))
                .double()
                .scatter_add(-1, columns[:, None].expand(-1, s.shape[1], -1), q_border[..., 1:])
            )
            gradient = gradient + mean[:, None] * q_border[..., :1]
            gradient_norm = (gradient.square().sum(-1) + q_border[..., 0].square()).sqrt()
            settled = (iterations > 0) & (moved <= STILL) & (moved * accuracy <= LEFT)
            converged = converged | (active & settled & (gradient_norm <= tol))
            active = live & ~converged
            last += 1
            if not active.any() or last > LAST_STEPS or int(iterations.max()) >= max_iter:
                break
        curvature = torch.sigmoid(logit) * torch.sigmoid(-logit) * s.square()
        farthest = float(moved[active].max())
        accuracy = (0.1 if farthest > 0.3 else 0.03) if w is None else min(0.1, max(1e-3, LEFT / max(farthest, LEFT)))
        du, dv, dlogit, factor = _direction(
            space,
            Z,
            q.to(X.dtype),
            q_border.to(X.dtype),
            curvature.to(X.dtype),
            l2.to(X.dtype),
            penalty.to(X.dtype),
            accuracy,
            active,
            factor,
        )
        image = dlogit - dv @ Z.mT
        if w is not None:  # the Gram matrix is not exact enough for the last digits
            dw = space.weight(du)
            dlogit = dw @ X.mT + dv @ Z.mT
        slope = l2 * space.dot(u, du, image) + (penalty * v * dv).sum(-1)
        bend = l2 * space.dot(du, du, image) + (penalty * dv * dv).sum(-1)
        active = active & dlogit.isfinite().all(-1)
        t = step_length(s, logit, dlogit.double(), slope, bend, active)
        t = torch.where(active, t, 0.0)[..., None]
        u, v, logit = (
            old + torch.where(active[..., None], t * new, 0.0) for old, new in ((u, du), (v, dv), (logit, dlogit))
        )
        if w is not None:
            w = w + torch.where(active[..., None], t * dw, 0.0)
        change = (t * dlogit * s).abs() / logit.abs().clamp(min=1)
        moved = torch.where(active, change.amax(-1), moved)
        iterations = iterations + active

    objective = (
        -(logsigmoid(s * logit) * s.square()).sum(-1) + l2 / 2 * w.square().sum(-1) + (penalty * v * v).sum(-1) / 2
    )
    w = w.scatter_add(-1, columns[:, None].expand(-1, s.shape[1], -1), v[..., 1:])
    b = v[..., 0] - (w * mean[:, None]).sum(-1)
    return Optimum(w, b, objective, gradient_norm, iterations, converged)


def _direction(
    space: Weights | Combinations,
    Z: Tensor,
    q: Tensor,
    q_border: Tensor,
    curvature: Tensor,
    l2: Tensor,
    penalty: Tensor,
    accuracy: float,
    active: Tensor,
    factor: Factor | None,
) -> tuple[Tensor, Tensor, Tensor, Factor | None]:
    """Preconditioned conjugate gradients on H (du, dv) = -(q, q_border): du, dv, their effect on the logits, a factor.

    They begin and end with a step along the border alone: measured by their columns' size its residuals would seem
    large for long. They end where the residual, in the norm of the preconditioner, is down to `accuracy`.
    """
    # So many products take about as long as a factorisation; with a factor that has grown stale, a quarter as many.
    patience = curvature.shape[-1] // (20 if factor is None else 80)
    alike = bool((l2 == l2[0]).all())  # one factor cannot serve penalties far apart
    block = (Z.mT[:, None] * curvature[:, :, None]) @ Z[:, None] + torch.diag_embed(penalty)  # [c, k, 1 + m, 1 + m]
    block = torch.linalg.cholesky_ex(block).L
    dv = torch.cholesky_solve(-q_border[..., None], block)[..., 0]
    du, dlogit = torch.zeros_like(q), dv @ Z.mT
    r, r_border = -q - space.lift(curvature * dlogit), torch.zeros_like(q_border)
    p, p_border, p_image = q, q_border, curvature  # of no weight in the first direction
    rho = goal = torch.full_like(l2.expand(active.shape), torch.inf)
    for iteration in range(3 * curvature.shape[-1]):
        if iteration == patience and isinstance(space, Combinations) and alike:
            factor = Factor.of(space.G, curvature, l2, active)
            rho = goal = torch.full_like(rho, torch.inf)  # begin again from where we are
        z = r / l2[:, None] if factor is None else factor.solve(space.image(r), r)
        z_border = torch.cholesky_solve(r_border[..., None], block)[..., 0]
        z_image = space.image(z)
        rho, rho_before = space.dot(r, z, z_image) + (r_border * z_border).sum(-1), rho
        goal = torch.where(goal.isinf(), accuracy**2 * rho, goal)
        active = active & (rho > goal)
        if not active.any():
            break
        beta = torch.where(active, rho / rho_before, 0.0)[..., None]
        p, p_border, p_image = z + beta * p, z_border + beta * p_border, z_image + beta * p_image
        t = p_image + p_border @ Z.mT
        bent = curvature * t
        length = (bent * t).sum(-1) + l2 * space.dot(p, p, p_image) + (penalty * p_border * p_border).sum(-1)
        alpha = torch.where(active, rho / length, 0.0)[..., None]
        du, dv, dlogit = du + alpha * p, dv + alpha * p_border, dlogit + alpha * t
        r = r - alpha * (space.lift(bent) + l2[:, None] * p)
        r_border = r_border - alpha * (bent @ Z + penalty * p_border)
    last = torch.cholesky_solve(r_border[..., None], block)[..., 0]
    return du, dv + last, dlogit + last @ Z.mT, factor


def logits(w: Tensor, X: Tensor) -> Tensor:
    """Xw in float64, [c, k, n], from w [c, k, D] and X [c, n, D] of any dtype."""
    return torch.cat([w @ rows.double().mT for rows in X.split(CHUNK, 1)], -1)


def sum_of_rows(v: Tensor, X: Tensor) -> Tensor:
    """X'v in float64, [c, k, D], from v [c, k, n] and X [c, n, D] of any dtype."""
    total = v.new_zeros(*v.shape[:-1], X.shape[-1])
    for part, rows in zip(v.split(CHUNK, -1), X.split(CHUNK, 1), strict=True):
        total += part @ rows.double()
    return total
