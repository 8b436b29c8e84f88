"""Mass-mean probes: the direction from the mean of the wrong answers to the mean of the right, plain or whitened."""

import torch
from torch import Tensor

from probes.solver.inputs import NotFiniteError, align, has_odd_scale, require_class_weight
from probes.solver.precision import full_precision, off_mps

LEAST_SHRINKAGE = 1e-8  # keeps a covariance that Ledoit and Wolf would take as it is factorable in float64
ROUNDING = 1e-13  # a spread this small beside the activations themselves is that of their means' last bits


@off_mps
@torch.no_grad()
@full_precision()
def fit_mass_mean(
    acts: Tensor,
    labels: Tensor,
    valid: Tensor | None = None,
    whiten: bool = False,
    class_weight: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Fit one mass-mean probe per cell over its valid rows (Marks & Tegmark 2023, arXiv 2310.06824).

    Plain: the weight is δ = m1 - m0, the difference of the class means, and the bias puts the threshold halfway between
    the projected means: x·w + b > 0 where x is nearer to m1.

    Whitened: w = Σ⁻¹δ, with the log-odds log(n1 / n0) of the classes added to the bias: linear discriminant analysis
    (Hastie, Tibshirani & Friedman 2009, The Elements of Statistical Learning, section 4.3), so that x·w + b is the
    log-odds of class 1 if both classes are normal with covariance Σ. Σ = (1 - s) S + s (tr S / D) I, where S is the
    covariance of the rows around the mean of their class, divided by their number, and s the shrinkage of Ledoit & Wolf
    (2004, Journal of Multivariate Analysis 88:365): S alone is singular where N < D. Where no row differs from the mean
    of its class there is nothing to whiten, and Σ = I.

    With `class_weight="balanced"` the classes count as equally frequent: the log-odds log(n1 / n0) are left out of the
    bias. The direction stays the same, since Σ is taken to be that of both classes and all rows tell of it alike. The
    plain threshold lies halfway in any case.

    A cell with one class only, or whose activations are above 1e18 or differ by less than 1e-18, gets NaN, and does not
    touch the others.

    Args:
        acts: activations [C, N, D], any floating dtype; float64 inside. Rows that are not valid may hold anything.
        labels: 0 or 1 where valid, any dtype; broadcasts to [C, N].
        valid: bool, broadcasts to [C, N]; which rows count. All of them by default.
        whiten: apply the inverse of the covariance within the classes.
        class_weight: None, or "balanced".

    Returns:
        weight [C, D] and bias [C] on the device of acts, float64 for float64 and float32 otherwise.

    Raises:
        ValueError: shapes that do not fit, labels other than 0 and 1, NaN or infinity in a valid row, another
            class_weight.
    """
    require_class_weight(class_weight)
    labels, valid, *_ = align(acts, labels, valid, sets_allowed=False)
    labels, valid = labels[0], valid[0]
    C, _, D = acts.shape
    dtype = torch.float64 if acts.dtype == torch.float64 else torch.float32
    weight, bias = acts.new_full((C, D), torch.nan, dtype=dtype), acts.new_full((C,), torch.nan, dtype=dtype)
    for cell in range(C):  # one at a time: only one is ever held in double precision
        X, y = acts[cell, valid[cell]].double(), labels[cell, valid[cell]]
        if not X.isfinite().all():
            row = valid[cell].nonzero()[:, 0][~X.isfinite().all(-1)][0]
            raise NotFiniteError(f"in cell {cell}, row {int(row)}")
        if not y.any() or y.all() or has_odd_scale(X.amin(0), X.amax(0)):
            continue
        mean_0, mean_1 = X[~y].mean(0), X[y].mean(0)
        w, log_odds = mean_1 - mean_0, 0.0
        if whiten:
            within = X - torch.where(y[:, None], mean_1, mean_0)
            if within.norm() > ROUNDING * X.norm():
                w = _whitened(within, w)
            log_odds = 0.0 if class_weight == "balanced" else (y.sum() / (~y).sum()).log()
        weight[cell], bias[cell] = w, log_odds - w @ (mean_0 + mean_1) / 2
    return weight, bias


def _whitened(X: Tensor, delta: Tensor) -> Tensor:
    """Σ⁻¹ delta [D] for the shrunk covariance Σ of X [n, D], whose rows have mean zero, in the smaller of n and D.

    With the mean variance scaled to one, Σ = c X'X + s I where c = (1 - s) / n. Where n < D the Gram matrix G = XX' is
    the smaller: Σ⁻¹ = (I - c X' (s I + c G)⁻¹ X) / s (Woodbury), and Ledoit and Wolf's sums need no more than G.
    """
    n, D = X.shape
    variance = X.square().mean()
    X = X / variance.sqrt()  # the mean variance, tr S / D, becomes one
    M = X @ X.mT if n < D else X.mT @ X  # either way |M|² = |X'X|²
    s = _ledoit_wolf(X.square().sum(-1), M.square().sum(), D)
    c = (1 - s) / n
    factor = torch.linalg.cholesky(c * M + s * torch.eye(len(M), dtype=M.dtype, device=M.device))
    if n < D:
        w = (delta - c * X.mT @ torch.cholesky_solve((X @ delta)[:, None], factor)[:, 0]) / s
    else:
        w = torch.cholesky_solve(delta[:, None], factor)[:, 0]
    return w / variance


def _ledoit_wolf(squares: Tensor, frobenius: Tensor, D: int) -> Tensor:
    """Shrinkage s of rows of width D with mean variance one, from their squared norms [n] and |X'X|².

    The covariance S is |S - I|² / D from the identity, and the n matrices xx' of which it is the mean are spread around
    it: s is the variance of that mean over the distance, at most one.
    """
    n = len(squares)
    distance = frobenius / n**2 - D  # |S - I|², since tr S = D
    spread = (squares.square().mean() - frobenius / n**2) / n  # ∑|xx' - S|² / n²
    return (spread / distance.clamp(min=spread)).nan_to_num(1.0).clamp(LEAST_SHRINKAGE, 1.0)
