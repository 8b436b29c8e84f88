"""One cell at a time on a CPU: sweeps over its rows, then Newton steps with directions by conjugate gradients.

The sweeps end near the optimum (`dual_ascent`). A Newton step from there has an error of about the square of its
length, so one or two reach the optimum and prove it: logits and gradient come from the stored rows in float64, and the
step's own size says how far they were off. Where the sweeps fall short, as with more rows than columns, the same steps
take over from wherever they are, and where that is far, with a factored Hessian (`preconditioner`).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from probes.solver.compiled import compiled
from probes.solver.dual_ascent import Ascent, Lengths
from probes.solver.line_search import step_length
from probes.solver.newton import Optimum, log_odds
from probes.solver.preconditioner import factored_hessian, solve_factored
from probes.solver.rows import Rows, evaluate, lengths, product

# Of the last step, in units of max(1, |logit|):
STILL = 1e-3  # a step that changed no logit by more leaves about its square as Newton's error
LEFT = 1e-7  # most that may be left by a direction solved only roughly: what the step changed, times that roughness
LAST_STEPS = 6  # steps that change nothing any more; where these do not suffice, rounding has spoilt the directions
# Of the sweeps:
FAR = 0.04  # an error from which directions take more products than factoring the Hessian is worth
STALE = (
    40  # products of one direction that a factored Hessian is made anew for; made so just now, it is the best there is
)


@np.errstate(all="ignore")  # what overflows shows in the outcome
def solve_cell(rows: Rows, s: Tensor, live: Tensor, l2: Tensor, tol: float, max_iter: int) -> Optimum:
    """Solve K label sets of one cell for P penalties each: a penalty starts where the next stronger one ended.

    Args:
        rows: the rows of the cell.
        s: [K, n] float64: weight of the row with the sign of its label, 0 where a row does not count.
        live: [K] bool: which label sets to solve.
        l2: [P] float64.
        tol: largest gradient norm of a converged problem.
        max_iter: most Newton steps.

    Returns:
        Fields [1, P * K, ..], label sets varying fastest; weights act on the columns as they were, the rest is of the
        scaled problem.
    """
    (K, n), P = s.shape, len(l2)
    signs = np.zeros((K, len(rows.X)))
    signs[:, :n] = s.numpy()
    weight = torch.zeros(1, P * K, rows.X.shape[1], dtype=torch.float64)
    bias, objective, norm = torch.zeros(3, 1, P * K, dtype=torch.float64)
    optimum = Optimum(weight, bias, objective, norm, torch.zeros(1, P * K).long(), torch.zeros(1, P * K).bool())
    of_rows = Lengths(*lengths(rows.X, rows.mean), float(rows.mean @ rows.mean))
    for k in live.nonzero()[:, 0].tolist():
        ascent = Ascent(rows, of_rows, signs[k])
        v = np.append(float(log_odds(s[k], live[k])), np.zeros(len(rows.heavy)))
        for p in l2.argsort(descending=True, stable=True).tolist():
            w, v, error = ascent.sweep_until_settled(float(l2[p]), v)
            w, v, *figures = newton_steps(rows, signs[k], float(l2[p]), w, v, error, tol, max_iter)
            w[rows.heavy] = v[1:]
            w /= rows.scale
            for field, value in zip(optimum, (torch.from_numpy(w), v[0] - w @ rows.centre, *figures), strict=True):
                field[0, p * K + k] = value
    return optimum


def newton_steps(
    rows: Rows, s: NDArray, l2: float, w: NDArray, v: NDArray, error: float, tol: float, max_iter: int
) -> tuple[NDArray, NDArray, float, float, int, bool]:
    """Newton's method from weights w [D] and border values v [1 + m], float64.

    `error` is how far logits may be off, in units of max(1, |logit|). Returns w, v, objective, gradient norm, steps and
    whether the problem converged.
    """
    X, border = rows.X, rows.border
    sign, weight = np.sign(s), np.abs(s)
    penalty = np.full(border.shape[1], l2)
    penalty[0] = 0.0
    work = np.empty((2, len(w)), np.float64 if X.dtype == np.float64 else np.float32)
    gradient, moved, accuracy, still, steps, converged = np.empty(len(w)), error, 1.0, 0, 0, False
    factor, far, products, most = np.zeros((0, 0), np.float32), error > FAR and len(X) > X.shape[1], 0, STALE
    while True:
        logit = border @ v
        evaluate(rows.stored, rows.centre, w / rows.scale, s, sign, logit, gradient)
        gradient /= rows.scale
        gradient[rows.zeroed] = 0
        wrong = 1 / (1 + np.exp(sign * logit))  # probability of the other label
        g, g_border = gradient + l2 * w, border.T @ (-s * wrong) + penalty * v
        # The caller's columns are not centred: their gradient has the residuals' sum times the mean on top.
        full = g + rows.centre / rows.scale * g_border[0]
        full[rows.heavy] += g_border[1:]
        norm = math.hypot(np.linalg.norm(full), g_border[0])
        settled = steps > 0 and moved <= STILL
        converged = settled and moved * accuracy <= LEFT and norm <= tol
        still += settled
        if converged or steps == max_iter or still > LAST_STEPS or not math.isfinite(norm):
            break
        curvature = wrong * (1 - wrong) * weight
        try:
            block = np.linalg.inv(border.T @ (curvature[:, None] * border) + np.diag(penalty))
        except np.linalg.LinAlgError:  # nothing left to bend, or heavy columns alike
            break
        fresh = far and (steps == 0 or products >= most)
        if fresh:
            factor = factored_hessian(rows, curvature, l2, penalty)
            far = len(factor) > 0
        hessian = Hessian(X, rows.mean, border, curvature, l2, penalty, block, factor)
        rough = min(0.1, LEFT / max(moved, LEFT))
        limit = most if len(factor) else 3 * len(X)
        dw, dv, dlogit, accuracy, products = direction(
            hessian, g, g_border, min(0.1, moved), rough, 0.5 * tol, limit, work
        )
        if fresh and products >= limit:
            most = 3 * len(X)
        if not np.isfinite(dlogit).all():
            break
        slope, bend = l2 * (w @ dw) + (penalty * v) @ dv, l2 * (dw @ dw) + (penalty * dv) @ dv
        t = _step_length(s, logit, dlogit, float(slope), float(bend))
        w, v = w + t * dw, v + t * dv
        moved = float((np.abs(t * dlogit * sign) / np.maximum(1, np.abs(logit))).max())
        steps += 1
    loss = -(logsigmoid(torch.from_numpy(sign * logit)).numpy() * weight).sum()
    objective = loss + l2 / 2 * (w @ w) + (penalty * v) @ v / 2
    return w, v, float(objective), norm, steps, converged


def _step_length(s: NDArray, logit: NDArray, dlogit: NDArray, slope: float, bend: float) -> float:
    one = torch.ones(1, 1, dtype=torch.float64)
    rows = [torch.from_numpy(x)[None, None] for x in (s, logit, dlogit)]
    return float(step_length(rows[0], rows[1], rows[2], slope * one, bend * one, one.bool()))


class Hessian(NamedTuple):
    """H = [X'CX + l2, X'CZ; Z'CX, Z'CZ + penalty] of the centred rows X, the border Z and their curvature C."""

    X: NDArray  # [n, D], of which the mean is still to be taken off
    mean: NDArray  # [D]
    border: NDArray  # Z, [n, 1 + m]
    curvature: NDArray  # the diagonal of C, [n]
    l2: float
    penalty: NDArray  # [1 + m]
    block: NDArray  # (Z'CZ + penalty)⁻¹, which preconditions the border where H is not factored
    factor: NDArray  # L with LL' about H, [D + 1 + m, D + 1 + m] float32; or [0, 0]


class Solution(NamedTuple):
    """Where conjugate gradients are: a direction, what it does to the logits, and what is left of the equations."""

    dw: NDArray  # [D]
    dv: NDArray  # [1 + m]
    dlogit: NDArray  # [n]
    r: NDArray  # -g - H (dw, dv), its first D numbers
    r_border: NDArray  # and the last 1 + m


@compiled
def direction(
    hessian: Hessian,
    g: NDArray,
    g_border: NDArray,
    relative: float,
    rough: float,
    absolute: float,
    most: int,
    work: NDArray,
) -> tuple[NDArray, NDArray, NDArray, float, int]:
    """Conjugate gradients on H (dw, dv) = -(g, g_border): dw [D], dv [1 + m] and what they do to the logits [n].

    They begin and end with a step along the border alone, where sweeps leave most of the gradient, and stop between
    these once the residual is down to `relative` of itself, or to `absolute` and `rough` of itself, or after `most`
    products; which share it was, and how many products, are returned last. `work` [2, D] is room for passes over the
    rows, in their dtype.
    """
    D, (n, m) = len(g), hessian.border.shape
    solution = Solution(np.zeros(D), np.zeros(m), np.zeros(n), -g, -g_border)
    r, r_border = solution.r, solution.r_border
    p, p_border, z, z_border = np.zeros(D), np.zeros(m), np.zeros(D), np.zeros(m)
    rho, first, aim, products = 0.0, 0.0, 0.0, 0
    step_along_border(hessian, solution, work)
    while products < most:
        before = rho
        precondition(hessian, r, r_border, z, z_border)
        rho = (r * z).sum() + (r_border * z_border).sum()
        if products == 0:
            start = math.sqrt((r * r).sum() + hessian.l2 * (r_border * z_border).sum())
            aim = max(relative, min(rough, absolute / max(start, 1e-300)))
            first = rho
        elif rho <= aim**2 * first:
            break
        beta = rho / before if products > 0 else 0.0
        p *= beta
        p += z
        p_border *= beta
        p_border += z_border
        step_along(hessian, p, p_border, rho, solution, work)
        products += 1
    step_along_border(hessian, solution, work)
    return solution.dw, solution.dv, solution.dlogit, max(aim, math.sqrt(rho / max(first, 1e-300))), products


@compiled
def precondition(hessian: Hessian, r: NDArray, r_border: NDArray, z: NDArray, z_border: NDArray) -> None:
    """Solve LL' (z, z_border) = (r, r_border); where there is no L, the penalty alone and the border for itself."""
    if len(hessian.factor) == 0:
        z[:] = r / hessian.l2
        solve_border(hessian, r_border, z_border)
    else:
        both = np.concatenate((r, r_border))
        solve_factored(hessian.factor, both)
        z[:], z_border[:] = both[: len(r)], both[len(r) :]


@compiled
def solve_border(hessian: Hessian, r_border: NDArray, z_border: NDArray) -> None:
    """Solve the border's part of H for itself."""
    for h in range(len(z_border)):
        z_border[h] = (hessian.block[h] * r_border).sum()


@compiled
def step_along_border(hessian: Hessian, solution: Solution, work: NDArray) -> None:
    """Choose the border's values for the weights as they are."""
    z_border = np.zeros(len(solution.dv))
    solve_border(hessian, solution.r_border, z_border)
    step_along(hessian, np.zeros(len(solution.dw)), z_border, (solution.r_border * z_border).sum(), solution, work)


@compiled
def step_along(hessian: Hessian, p: NDArray, p_border: NDArray, rho: float, solution: Solution, work: NDArray) -> None:
    """Go along (p, p_border) to where the quadratic is least; rho is the residual's product with that direction."""
    X, mean, border, curvature, l2, penalty, _, _ = hessian
    n, m = border.shape
    t = np.zeros(n)
    for i in range(n):
        for h in range(m):
            t[i] += border[i, h] * p_border[h]
    work[0] = p
    product(X, mean, work[0], curvature, t, work[1])
    bent = curvature * t
    bend = (bent * t).sum() + l2 * (p * p).sum() + (penalty * p_border * p_border).sum()
    if bend > 0.0:
        step = rho / bend
        dw, dv, dlogit, r, r_border = solution
        dw += step * p
        dv += step * p_border
        dlogit += step * t
        r -= step * (work[1] + l2 * p)
        r_border -= step * penalty * p_border
        for i in range(n):
            for h in range(m):
                r_border[h] -= step * bent[i] * border[i, h]
