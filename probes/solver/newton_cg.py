"""Newton's method with directions by conjugate gradients, for many label sets on fewer rows than columns.

A direction solves H d = -g with H = X'WX + l2. Conjugate gradients need H only in products, and may stop early: far
from the optimum a rough direction is as good as an exact one. Once they have cost as much as a factorisation would, the
factor of a matrix near H is made, and preconditions them from then on: neither an easy nor a hard cell is slow.

Weights are w = X'a, and X is known by its Gram matrix XX' [n, n], made once for every step, label set and penalty.

The *border* holds the intercept and the few columns that dwarf all others (residual streams have some), each with a
weight of its own. Inside X they would drown the other columns' digits.

Steps are first taken on logits that are carried along in the dtype of X. Once these settle, weights and logits are
computed anew in float64, and from then on only small increments are added: rounding costs steps and moves no optimum.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from probes.solver.combinations import CHUNK, Combinations, FactoredGram, logits, sum_of_rows
from probes.solver.line_search import search
from probes.solver.newton import Optimum, log_odds

HEAVY, MOST_HEAVY = 64.0, 31  # a column with so many times the median sum of squares is split off, if few are
# Of the last step, in units of max(1, |logit|):
STILL = 1e-3  # a step that changed no logit by more leaves about its square as Newton's error
LEFT = 1e-7  # most that may be left by a direction solved only roughly: what the step changed, times that roughness
SETTLED = 0.03  # a step that changes no logit by more is followed by one whose error is about its square
LAST_STEPS = 12  # on float64 logits; where these do not suffice, rounding has spoilt the directions
# Products of a direction before a factor is made, as shares of the number of rows: so many take about as long as a
# factorisation; with a factor that has grown stale, a quarter as many.
PATIENCE = (20, 80)
SHARE = 1e-3  # of its slope at the start that a search along a direction leaves


def border(X: Tensor) -> tuple[Tensor, Tensor]:
    """Split heavy columns off: the border Z [c, n, 1 + m], a column of ones first, and the m columns' numbers [c, m].

    X [c, n, D] is changed in place, to zero in those columns.
    """
    energy = torch.stack([rows.square().sum(1) for rows in X.split(CHUNK, 1)]).sum(0)
    median = energy.median(-1, keepdim=True).values
    n_heavy = int((energy > HEAVY * median).sum(-1).max().clamp(max=MOST_HEAVY))
    columns = energy.topk(n_heavy).indices
    at = columns[:, None].expand(-1, X.shape[1], -1)
    Z = torch.cat((torch.ones_like(X[..., :1]), X.gather(2, at)), -1)
    X.scatter_(2, at, 0.0)
    return Z, columns


def newton_cg(
    space: Combinations,
    Z: Tensor,
    columns: Tensor,
    mean: Tensor,
    s: Tensor,
    live: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    start: tuple[Tensor, Tensor, Tensor] | None = None,
    offset: Tensor | None = None,
) -> Optimum:
    """Solve c cells with k label sets each, to the same ends as `newton.newton`.

    Args:
        space: where the weights live; its X [c, n, D] are the rows, shifted, without the columns of the border.
        Z: border [c, n, 1 + m] as from `border`.
        columns: numbers of the border's columns in X, [c, m].
        mean: what was taken off the columns, [c, D] float64.
        s: [c, k, n] float64: weight of the row with the sign of its label, 0 where a row does not count.
        live: [c, k] bool: which problems to solve.
        l2: [k] float64.
        tol: largest gradient norm of a converged problem.
        max_iter: most steps.
        start: u in `space` and v [c, k, 1 + m] to start from, float64, and how far the logits may be off there, [c, k]
            in units of max(1, |logit|); zeros and the log-odds by default.
        offset: [c, k, n] float64, added to the logits; none by default.
    """
    X, Z64 = space.X, Z.double()
    penalty = l2[:, None] * torch.ones_like(Z64[:, :1]).index_fill(-1, torch.tensor([0]), 0.0)  # [c, k, 1 + m]
    if start is None:
        u = torch.zeros_like(s)
        v = torch.zeros_like(penalty.expand(*live.shape, -1)).clone()
        v[..., 0] = log_odds(s, live, offset)
        moved = torch.full_like(l2.expand(live.shape), torch.inf)
    else:
        u, v, moved = start
    fixed = 0.0 if offset is None else offset
    logit = space.image(u.to(X.dtype)).double() + v @ Z64.mT + fixed
    active, converged = live, torch.zeros_like(live)
    iterations = torch.zeros_like(live, dtype=torch.int64)
    factor, w, last, accuracy, steps = None, None, 0, 1.0, 0
    sign, weight = s.sign(), s.abs()
    alike = bool((l2 == l2[0]).all())  # one factor cannot serve penalties far apart
    while True:
        if w is None and (steps >= max_iter or not (active & (moved > SETTLED)).any()):
            w = sum_of_rows(u, X)
            logit = logits(w, X) + v @ Z64.mT + fixed
        residual = -s * torch.sigmoid(-sign * logit)
        q = residual + l2[:, None] * u
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
            if last > LAST_STEPS or steps >= max_iter or not active.any():
                break
        curvature = torch.sigmoid(logit) * torch.sigmoid(-logit) * weight
        farthest = float(torch.where(active, moved, 0.0).max())
        accuracy = (0.1 if farthest > 0.3 else 0.03) if w is None else min(0.1, max(1e-3, LEFT / max(farthest, LEFT)))
        patience = s.shape[-1] // PATIENCE[factor is not None]
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
            patience if alike else None,
        )
        image = dlogit - dv @ Z.mT
        if w is not None:  # the Gram matrix is not exact enough for the last digits
            dw = space.weight(du)
            dlogit = dw @ X.mT + dv @ Z.mT
        slope = l2 * space.dot(u, du, image) + (penalty * v * dv).sum(-1)
        bend = l2 * space.dot(du, du, image) + (penalty * dv * dv).sum(-1)
        active = active & dlogit.isfinite().all(-1)
        dlogit = dlogit.double()
        downhill = (residual * dlogit).sum(-1) + slope
        t, _, _ = search(s, logit, residual, dlogit, downhill, bend, active, SHARE)
        # Where no logit changes by a hundredth the objective is a parabola: its slope would only show rounding.
        t = torch.where((dlogit * sign).abs().amax(-1) > 1e-2, t, 1.0)
        t = torch.where(active, t, 0.0)[..., None]
        u, v, logit = (
            old + torch.where(active[..., None], t * new, 0.0) for old, new in ((u, du), (v, dv), (logit, dlogit))
        )
        if w is not None:
            w = w + torch.where(active[..., None], t * dw, 0.0)
        change = (t * dlogit * sign).abs() / logit.abs().clamp(min=1)
        moved = torch.where(active, change.amax(-1), moved)
        iterations = iterations + active
        steps += 1

    objective = (
        -(logsigmoid(sign * logit) * weight).sum(-1) + l2 / 2 * w.square().sum(-1) + (penalty * v * v).sum(-1) / 2
    )
    w = w.scatter_add(-1, columns[:, None].expand(-1, s.shape[1], -1), v[..., 1:])
    b = v[..., 0] - (w * mean[:, None]).sum(-1)
    return Optimum(w, b, objective, gradient_norm, iterations, converged)


def _direction(
    space: Combinations,
    Z: Tensor,
    q: Tensor,
    q_border: Tensor,
    curvature: Tensor,
    l2: Tensor,
    penalty: Tensor,
    accuracy: float,
    active: Tensor,
    factor: FactoredGram | None,
    patience: int | None,
) -> tuple[Tensor, Tensor, Tensor, FactoredGram | None]:
    """Preconditioned conjugate gradients on H (du, dv) = -(q, q_border): du, dv, their effect on the logits, a factor.

    After `patience` products a factor is made, which preconditions the rest. They begin and end with a step along the
    border alone: measured by their columns' size its residuals would seem large for long. They end where the residual,
    in the norm of the preconditioner, is down to `accuracy`.
    """
    block = (Z.mT[:, None] * curvature[:, :, None]) @ Z[:, None] + torch.diag_embed(penalty)  # [c, k, 1 + m, 1 + m]
    block = torch.linalg.cholesky_ex(block).L
    dv = torch.cholesky_solve(-q_border[..., None], block)[..., 0]
    du, dlogit = torch.zeros_like(q), dv @ Z.mT
    r, r_border = -q - curvature * dlogit, torch.zeros_like(q_border)
    p, p_border, p_image = q, q_border, curvature  # of no weight in the first direction
    rho = goal = torch.full_like(l2.expand(active.shape), torch.inf)
    for iteration in range(3 * curvature.shape[-1]):
        if iteration == patience:
            factor = space.factor(curvature, l2, active)
            rho = goal = torch.full_like(rho, torch.inf)  # begin again from where we are
        z = r / l2[:, None] if factor is None else factor.solve(r)
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
        r = r - alpha * (bent + l2[:, None] * p)
        r_border = r_border - alpha * (bent @ Z + penalty * p_border)
    last = torch.cholesky_solve(r_border[..., None], block)[..., 0]
    return du, dv + last, dlogit + last @ Z.mT, factor
