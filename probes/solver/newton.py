"""Newton's method on float64 systems that are factored at every step: the reference, and the method for small cells.

With n rows of width D a direction comes from a D x D system (primal) or, if n < D, from an n x n one (dual), where the
weights are w = X'a and one Gram matrix XX' serves every label set of the cell. Logits and gradients come from X itself
in float64. The Gram matrix only shapes the direction, so its rounding can cost a step and never moves the optimum.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from probes.solver.gram import gram_matrix
from probes.solver.line_search import search

STILL = (
    1e-4  # a Newton step that changes no logit by more, in units of max(1, |logit|), leaves about its square as error
)
SHARE = 1e-3  # of its slope at the start that a search along a direction leaves
RESOLUTION = 1e-12  # sums in float64 cannot bring a gradient down to less than about this share of where it started


class Optimum(NamedTuple):
    """Where a method ended, for c cells with k label sets each, float64: fields as in `LogisticFit`."""

    weight: Tensor  # [c, k, D]
    bias: Tensor  # [c, k]
    objective: Tensor
    gradient_norm: Tensor
    iterations: Tensor
    converged: Tensor


def log_odds(s: Tensor, live: Tensor, offset: Tensor | None = None) -> Tensor:
    """Log of the weight of positive over negative rows, where every intercept starts: [c, k], 0 where not live.

    With an offset 0, since offsets are log-odds that hold the base rate.
    """
    if offset is not None:
        return torch.zeros_like(live, dtype=torch.float64)
    return torch.where(live, (s.clamp(min=0).sum(-1) / -s.clamp(max=0).sum(-1)).log(), 0.0)


def newton(
    X: Tensor,
    mean: Tensor,
    gram: Tensor | None,
    s: Tensor,
    live: Tensor,
    l2: Tensor,
    tol: float,
    max_iter: int,
    offset: Tensor | None = None,
) -> Optimum:
    """Newton's method on c cells with k label sets each, a system factored at every step.

    X [c, n, D] float64 with its columns centred, mean [c, D] what was taken off, gram XX' [c, n, n] for the dual system
    or None for the primal one, s [c, k, n] weights of the rows with the signs of their labels, live [c, k] which
    problems to solve, l2 [k], offset [c, k, n] added to the logits.

    The iterate u is the weight vector (primal) or the coefficients a of w = X'a (dual). A problem that is done stays
    where it is while the rest of its batch goes on.
    """
    n, D = X.shape[1:]
    u = X.new_zeros(*live.shape, D if gram is None else n)
    w = X.new_zeros(*live.shape, D)
    b = log_odds(s, live, offset)
    logit = b[..., None].expand_as(s).clone() if offset is None else b[..., None] + offset
    sign, weight = s.sign(), s.abs()
    moved = torch.full_like(b, torch.inf)
    iterations = torch.zeros_like(live, dtype=torch.int64)
    converged, goal = torch.zeros_like(live), moved

    for iteration in range(max_iter + 1):
        residual = -s * torch.sigmoid(
            -sign * logit
        )  # of the loss by the logit: weight (p - label), exact in both tails
        gradient = residual @ X + l2[:, None] * w
        residual_sum = residual.sum(-1)
        # The caller's columns are not centred: their gradient is gradient + mean * residual_sum.
        gradient_norm = (gradient + mean[:, None] * residual_sum[..., None]).square().sum(-1)
        gradient_norm = (gradient_norm + residual_sum.square()).sqrt()
        if iteration == 0:
            goal = (RESOLUTION * gradient_norm).clamp(min=tol)
        converged = converged | (live & (moved <= STILL) & (gradient_norm <= goal))
        live = live & ~converged
        if iteration == max_iter or not live.any():
            break

        curvature = torch.sigmoid(logit) * torch.sigmoid(-logit) * weight  # p (1 - p) on valid rows
        if gram is None:
            du, db = _primal_direction(X, gradient, residual_sum, curvature, l2)
            dw = du
        else:
            du, db = _dual_direction(gram, u, residual, curvature, l2)
            dw = du @ X
        dlogit = dw @ X.mT + db[..., None]
        live = live & dlogit.isfinite().all(-1)  # scales beyond float64: stop where we are, not converged
        slope = (residual * dlogit).sum(-1) + l2 * (w * dw).sum(-1)
        t, _, _ = search(s, logit, residual, dlogit, slope, l2 * dw.square().sum(-1), live, SHARE)
        # Where no logit changes by a hundredth the objective is a parabola: its slope would only show rounding.
        t = torch.where((dlogit * sign).abs().amax(-1) > 1e-2, t, 1.0)
        for value, change in ((u, du), (w, dw), (logit, dlogit), (b[..., None], db[..., None])):
            value += torch.where(live[..., None], t[..., None] * change, 0.0)
        change = (t[..., None] * dlogit * sign).abs() / logit.abs().clamp(
            min=1
        )  # far out a logit has few absolute digits
        moved = torch.where(live, change.amax(-1), moved)
        iterations += live

    objective = -(logsigmoid(sign * logit) * weight).sum(-1) + l2 / 2 * w.square().sum(-1)
    b = b - (w * mean[:, None]).sum(-1)
    return Optimum(w, b, objective, gradient_norm, iterations, converged)


def _primal_direction(
    X: Tensor, gradient: Tensor, residual_sum: Tensor, curvature: Tensor, l2: Tensor
) -> tuple[Tensor, Tensor]:
    """Newton direction (dw [c, k, D], db [c, k]) from the bordered system [A h; h' ∑W] (dw, db) = -(gradient, ∑r).

    A = X'WX + l2 is factored once, h = X'W1, and the intercept comes from the Schur complement of A. Where X'WX is
    singular and l2 is below its rounding, a larger l2 keeps A factorable.
    """
    A = gram_matrix((curvature.sqrt()[..., None] * X[:, None]).mT, float(l2.min()))
    A.diagonal(dim1=-2, dim2=-1).add_(l2[:, None])
    h = curvature @ X
    L, failed = torch.linalg.cholesky_ex(A)
    if failed.any():
        diagonal = A.diagonal(dim1=-2, dim2=-1)
        diagonal += torch.where(failed > 0, 1e-14 * diagonal.sum(-1), 0.0)[..., None]
        L = torch.linalg.cholesky_ex(A).L
    z = torch.cholesky_solve(torch.stack((gradient, h), -1), L)
    db = ((h * z[..., 0]).sum(-1) - residual_sum) / (curvature.sum(-1) - (h * z[..., 1]).sum(-1))
    return -(z[..., 0] + db[..., None] * z[..., 1]), db


def _dual_direction(G: Tensor, a: Tensor, residual: Tensor, curvature: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
    """Newton direction (da [c, k, n], db [c, k]) in the coefficients of w = X'a, from the Gram matrix G = XX'.

    With q = r + l2 a, which is zero at the optimum, Newton's equations read (WG + l2) da + W1 db = -q and ∑da = -∑a.
    Their symmetric form has the matrix B = l2 + S G S with S = √W, which is at least l2 however saturated the rows are
    (S = 0) and however often they repeat (G singular): Rasmussen & Williams 2006, Gaussian Processes for Machine
    Learning, section 3.4.3. Where G/l2 exceeds what float64 resolves, a larger l2 keeps B factorable.
    """
    S = curvature.sqrt()
    q = residual + l2[:, None] * a
    B = (S[..., None] * G[:, None]).mul_(S[..., None, :])
    ridge = (1e-14 * B.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)).clamp(min=l2[:, None])
    B.diagonal(dim1=-2, dim2=-1).add_(ridge)
    z = torch.cholesky_solve(torch.stack((S * (q @ G), S), -1), torch.linalg.cholesky_ex(B).L)
    from_q = (q - S * z[..., 0]) / ridge  # (WG + l2)⁻¹ q
    from_db = S * z[..., 1]  # (WG + l2)⁻¹ W1
    db = (a.sum(-1) - from_q.sum(-1)) / from_db.sum(-1)
    return -(from_q + db[..., None] * from_db), db
