"""Exact L2 logistic regression for many cells at once: every cell and label set to its own optimum, by Newton's method.

The objective is smooth and convex, so Newton's direction points downhill, and four things carry it to the minimum:

* *The step.* Along the direction the objective is a convex function of one number, and its minimum is found almost
  exactly from the slope: slopes keep their sign near the optimum, where differences of objectives drown in rounding.
* *The size of the system.* With n rows of width D the direction comes from a D x D system (primal) or, if n < D, from
  an n x n one (dual): the weights are then w = X'a, and one Gram matrix XX' serves every label set of the cell.
* *The origin.* Columns are centred first. The unpenalised intercept absorbs the shift, so the optimum is the same, and
  offsets far larger than the spread cost no digits.
* *The residual.* Logits and gradients come from X itself in float64. The Gram matrix only shapes the direction, so its
  rounding can cost a step and never moves the optimum.

On the CPU cells go one by one, since a batch falls out of cache; on a GPU, in batches of bounded memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

BATCH_BYTES = 2**31  # on a GPU, the memory one batch of cells may take
STILL = (
    1e-4  # a Newton step that changes no logit by more, in units of max(1, |logit|), leaves about its square as error
)
RESOLUTION = 1e-12  # sums in float64 cannot bring a gradient down to less than about this share of where it started


class LogisticFit(NamedTuple):
    """Fitted probes; every field has shape [C, ...], or [K, C, ...] where label sets were given.

    weight [C, D] and bias [C] minimise the objective. `objective` is its value there in nats and `gradient_norm` the
    2-norm of its gradient with respect to (weight, bias), both before rounding to the output dtype; `iterations` counts
    Newton steps (int64); `converged` (bool) tells whether the cell met the test stated at `fit_logistic`. Floating
    fields have the dtype of the activations, float32 for 16-bit ones, and are NaN for a cell that lacks a class.
    """

    weight: Tensor
    bias: Tensor
    objective: Tensor
    gradient_norm: Tensor
    iterations: Tensor
    converged: Tensor


@torch.no_grad()
def fit_logistic(
    acts: Tensor, labels: Tensor, valid: Tensor | None = None, l2: float = 1.0, tol: float = 1e-4, max_iter: int = 100
) -> LogisticFit:
    """Fit one logistic regression per cell: minimise ∑ log(1 + exp(-s (x·w + b))) + l2/2 |w|² over its valid rows.

    Here s = 2 label - 1, and the intercept b is not penalised: scikit-learn's objective with C = 1/l2. A cell has
    converged once the 2-norm of the gradient with respect to (w, b), not divided by the number of rows, is at most
    `tol`, and its last step changed no logit z by more than 1e-4 max(1, |z|), which leaves errors near 1e-8 or less.
    Where `tol` is below float64's resolution, 1e-12 of the norm at the start (w = 0, b = log-odds) takes its place.

    A cell with one class only, or with no valid row, gets NaN and `converged` False, and does not touch the others.
    On the CPU a cell's result does not depend, to the last bit, on which other cells are fitted with it.

    Args:
        acts: activations [C, N, D], any floating dtype. Rows that are not valid may hold anything, NaN included.
        labels: 0 or 1 where valid, any dtype; broadcasts to [C, N], or has label sets in front: [K, 1, N] or [K, C, N].
        valid: bool, shaped like labels; which rows count. All of them by default.
        l2: strength of the penalty; above 0.
        tol: largest gradient norm of a converged cell.
        max_iter: most Newton steps a cell may take; 5 to 15 are usual.

    Returns:
        The fit on the device of acts, with a leading K axis where labels or valid have one.

    Raises:
        ValueError: shapes that do not fit, labels other than 0 and 1, NaN or infinity in a valid row, l2 not above 0.
    """
    labels, valid, has_sets = _aligned(acts, labels, valid)
    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 must be above 0 and finite, got {l2}; a separable cell has no optimum without a penalty")
    if not (tol >= 0 and max_iter >= 0):
        raise ValueError(f"tol and max_iter must be 0 or more, got {tol} and {max_iter}")
    K, C, N = labels.shape
    D = acts.shape[2]
    dtype = torch.float64 if acts.dtype == torch.float64 else torch.float32
    fit = LogisticFit(
        weight=acts.new_full((K, C, D), torch.nan, dtype=dtype),
        bias=acts.new_full((K, C), torch.nan, dtype=dtype),
        objective=acts.new_full((K, C), torch.nan, dtype=dtype),
        gradient_norm=acts.new_full((K, C), torch.nan, dtype=dtype),
        iterations=acts.new_zeros((K, C), dtype=torch.int64),
        converged=acts.new_zeros((K, C), dtype=torch.bool),
    )
    n_positive = (valid & labels).sum(-1)
    fittable = (n_positive > 0) & (n_positive < valid.sum(-1))  # [K, C]
    sign = torch.where(labels, 1.0, -1.0).double() * valid  # s of the objective; 0 takes a row out of every sum below

    sets_at_once, cells_at_once = 1, 1
    if acts.is_cuda:
        sets_at_once = min(K, max(1, BATCH_BYTES // (24 * N * min(N, D))))
        cells_at_once = max(1, BATCH_BYTES // (24 * N * (D + sets_at_once * min(N, D))))
    for cells in torch.arange(C, device=acts.device).split(cells_at_once):
        X, mean, rows = _centred(acts, valid.any(0), cells)
        if not fittable[:, cells].any():
            continue
        gram = _gram(X, l2) if X.shape[1] < D else None
        for sets in torch.arange(K, device=acts.device).split(sets_at_once):
            block = (sets[None, :], cells[:, None])
            if not fittable[block].any():
                continue
            for field, value in zip(
                fit, _newton(X, mean, gram, sign[block][..., rows], fittable[block], l2, tol, max_iter), strict=True
            ):
                field[block] = value.to(field.dtype)
    return fit if has_sets else LogisticFit(*(field[0] for field in fit))


def _newton(
    X: Tensor, mean: Tensor, gram: Tensor | None, s: Tensor, live: Tensor, l2: float, tol: float, max_iter: int
) -> tuple[Tensor, ...]:
    """Newton's method on c cells with k label sets each: X [c, n, D], mean [c, D], s [c, k, n], live [c, k].

    The iterate u is the weight vector (primal) or the coefficients a of w = X'a (dual). A problem that is done stays
    where it is while the rest of its batch goes on.
    """
    n, D = X.shape[1:]
    u = X.new_zeros(*live.shape, D if gram is None else n)
    w = X.new_zeros(*live.shape, D)
    b = torch.where(live, ((s > 0).double().sum(-1) / (s < 0).sum(-1)).log(), 0.0)
    logit = b[..., None].expand_as(s).clone()
    moved = torch.full_like(b, torch.inf)
    iterations = torch.zeros_like(live, dtype=torch.int64)
    fitted, converged, goal = live, torch.zeros_like(live), moved

    for iteration in range(max_iter + 1):
        residual = -s * torch.sigmoid(-s * logit)  # derivative of the loss by the logit: p - label, exact in both tails
        gradient = residual @ X + l2 * w
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

        curvature = torch.sigmoid(logit) * torch.sigmoid(-logit) * s.square()  # p (1 - p) on valid rows
        if gram is None:
            du, db = _primal_direction(X, gradient, residual_sum, curvature, l2)
            dw = du
        else:
            du, db = _dual_direction(gram, u, residual, curvature, l2)
            dw = du @ X
        dlogit = dw @ X.mT + db[..., None]
        live = live & dlogit.isfinite().all(-1)  # scales beyond float64: stop where we are, not converged
        t = _step_length(s, logit, dlogit, l2 * (w * dw).sum(-1), l2 * dw.square().sum(-1), live)
        for value, change in ((u, du), (w, dw), (logit, dlogit), (b[..., None], db[..., None])):
            value += torch.where(live[..., None], t[..., None] * change, 0.0)
        change = (t[..., None] * dlogit * s).abs() / logit.abs().clamp(min=1)  # far out a logit has few absolute digits
        moved = torch.where(live, change.amax(-1), moved)
        iterations += live

    objective = -(logsigmoid(s * logit) * s.square()).sum(-1) + l2 / 2 * w.square().sum(-1)
    b = b - (w * mean[:, None]).sum(-1)
    w, b, objective, gradient_norm = (
        value.where(fitted.view(*fitted.shape, *[1] * (value.ndim - 2)), torch.nan)
        for value in (w, b, objective, gradient_norm)
    )
    return w, b, objective, gradient_norm, iterations, converged


def _primal_direction(
    X: Tensor, gradient: Tensor, residual_sum: Tensor, curvature: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    """Newton direction (dw [c, k, D], db [c, k]) from the bordered system [A h; h' ∑W] (dw, db) = -(gradient, ∑r).

    A = X'WX + l2 is factored once, h = X'W1, and the intercept comes from the Schur complement of A.
    """
    A = _gram((curvature.sqrt()[..., None] * X[:, None]).mT, l2)
    A.diagonal(dim1=-2, dim2=-1).add_(l2)
    h = curvature @ X
    z = torch.cholesky_solve(torch.stack((gradient, h), -1), torch.linalg.cholesky_ex(A).L)
    db = ((h * z[..., 0]).sum(-1) - residual_sum) / (curvature.sum(-1) - (h * z[..., 1]).sum(-1))
    return -(z[..., 0] + db[..., None] * z[..., 1]), db


def _dual_direction(G: Tensor, a: Tensor, residual: Tensor, curvature: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Newton direction (da [c, k, n], db [c, k]) in the coefficients of w = X'a, from the Gram matrix G = XX'.

    With q = r + l2 a, which is zero at the optimum, Newton's equations read (WG + l2) da + W1 db = -q and ∑da = -∑a.
    Their symmetric form has the matrix B = l2 + S G S with S = √W, which is at least l2 however saturated the rows are
    (S = 0) and however often they repeat (G singular): Rasmussen & Williams 2006, Gaussian Processes for Machine
    Learning, section 3.4.3. Where G/l2 exceeds what float64 resolves, a larger l2 keeps B factorable.
    """
    S = curvature.sqrt()
    q = residual + l2 * a
    B = (S[..., None] * G[:, None]).mul_(S[..., None, :])
    ridge = (1e-14 * B.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)).clamp(min=l2)
    B.diagonal(dim1=-2, dim2=-1).add_(ridge)
    z = torch.cholesky_solve(torch.stack((S * (q @ G), S), -1), torch.linalg.cholesky_ex(B).L)
    from_q = (q - S * z[..., 0]) / ridge  # (WG + l2)⁻¹ q
    from_db = S * z[..., 1]  # (WG + l2)⁻¹ W1
    db = (a.sum(-1) - from_q.sum(-1)) / from_db.sum(-1)
    return -(from_q + db[..., None] * from_db), db


def _step_length(s: Tensor, logit: Tensor, dlogit: Tensor, slope: Tensor, bend: Tensor, live: Tensor) -> Tensor:
    """Where along the direction the slope of the objective is down to a thousandth: t [c, k], 1 near the optimum.

    The penalty contributes slope + t bend. The total slope rises with t from below zero, so its root can be bracketed,
    by doubling, and approached by Newton steps in t, or by halving the bracket where such a step would leave it.
    """
    residual = -s * torch.sigmoid(-s * logit)
    start = (residual * dlogit).sum(-1) + slope
    t = torch.ones_like(start)
    low, high = torch.zeros_like(t), torch.full_like(t, torch.inf)
    # Where no logit changes by a hundredth, the objective is a parabola and t = 1: its slope would only show rounding.
    searching = live & ((dlogit * s).abs().amax(-1) > 1e-2)
    for _ in range(100):
        logit_t = logit + t[..., None] * dlogit
        slope_t = (-s * torch.sigmoid(-s * logit_t) * dlogit).sum(-1) + slope + t * bend
        searching = searching & (slope_t.abs() > 1e-3 * start.abs())
        if not searching.any():
            break
        low, high = torch.where(slope_t < 0, t, low), torch.where(slope_t < 0, high, t)
        curvature = torch.sigmoid(logit_t) * torch.sigmoid(-logit_t) * s.square()
        newton = t - slope_t / ((curvature * dlogit.square()).sum(-1) + bend)
        halfway = torch.where(high.isinf(), 2 * t, (low + high) / 2)
        inside = (newton > low) & (newton < high) & (newton < 4 * t)
        t = torch.where(searching, torch.where(inside, newton, halfway), t)
    return t


def _centred(acts: Tensor, used: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that a label set uses, centred, float64 [c, n, D], finite in rows it does not; means [c, D]; row numbers."""
    rows = used[cells].any(0).nonzero()[:, 0]
    used = used[cells[:, None], rows, None]
    X = acts[cells[:, None], rows].double()
    if not used.all():
        X = torch.where(used, X, 0.0)
    mean = X.sum(1) / used.sum(1).clamp(min=1)
    if not mean.isfinite().all() and len(bad := (~X.isfinite().all(-1)).nonzero()):  # a mean is the cheaper test
        i, j = bad[0].tolist()
        raise ValueError(
            f"acts must be finite in valid rows, got NaN or infinity in cell {int(cells[i])}, row {int(rows[j])}; "
            "mark the row invalid, or capture it in a dtype with more range"
        )
    X -= mean[:, None]
    return X, mean, rows


def _gram(X: Tensor, l2: float) -> Tensor:
    """XX' [.., n, n] in float64 from X [.., n, D]: half of the symmetric product is computed, the rest mirrored.

    Wide products are taken in float32 on the CPU, at half the time, where their rounding is below the penalty and so
    leaves the direction nearly Newton's. The trace bounds the norm of what is rounded.
    """
    rounding = torch.finfo(torch.float32).eps * torch.linalg.vector_norm(X, dim=(-2, -1)).square().amax()
    honest = X.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"  # no bf16 or TF32 inside
    if honest and X.shape[-1] > 512 and rounding < l2:
        X = X.float()
    n = X.shape[-2]
    G = X.new_empty(*X.shape[:-1], n)
    for start in range(0, n, 256):
        stop = min(start + 256, n)
        G[..., start:stop, :stop] = X[..., start:stop, :] @ X[..., :stop, :].mT
        G[..., :start, start:stop] = G[..., start:stop, :start].mT
    return G.double()


def _aligned(acts: Tensor, labels: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, bool]:
    """Labels and valid as bool [K, C, N] on the device of acts, and whether the caller gave label sets."""
    if acts.ndim != 3 or not acts.is_floating_point():
        raise ValueError(f"acts must be floating [C, N, D], got {acts.dtype} {list(acts.shape)}")
    C, N, D = acts.shape
    if acts.numel() == 0:
        raise ValueError(f"acts must hold at least one cell, example and dimension, got C={C}, N={N}, D={D}")
    if valid is None:
        valid = acts.new_ones(N, dtype=torch.bool)
    if valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool, got {valid.dtype}; compare it first, as in valid != 0")
    has_sets = labels.ndim == 3 or valid.ndim == 3
    K = max(len(tensor) if tensor.ndim == 3 else 1 for tensor in (labels, valid))
    labels = _expanded("labels", labels.to(acts.device), (K, C, N))
    valid = _expanded("valid", valid.to(acts.device), (K, C, N))
    wrong = labels[valid & (labels != 0) & (labels != 1)]
    if wrong.numel():
        raise ValueError(f"labels must be 0 or 1 where valid, got {wrong[0].item()}")
    return labels == 1, valid, has_sets


def _expanded(name: str, tensor: Tensor, shape: tuple[int, int, int]) -> Tensor:
    try:
        return tensor.expand(shape)
    except RuntimeError:
        K, C, N = shape
        raise ValueError(
            f"{name} must broadcast to [C, N] = [{C}, {N}], or be [K, 1, N] or [K, C, N] for K label sets, "
            f"here K={K}; got {list(tensor.shape)}"
        ) from None
