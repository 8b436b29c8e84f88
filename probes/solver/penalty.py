"""Choice of the penalty of every cell by cross-validation on the rows it is trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from probes.solver.logistic import LogisticFit, fit_logistic
from probes.solver.precision import full_precision

PATH = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)
FOLDS = 5


@full_precision()
def fit_chosen(
    acts: Tensor,
    labels: Tensor,
    valid: Tensor,
    groups: Tensor,
    path: Sequence[float] = PATH,
    standardize: bool = False,
    tol: float = 1e-4,
    max_iter: int = 100,
) -> tuple[LogisticFit, Tensor]:
    """Fit every cell with the penalty of `path` whose held-out log-loss is least; of equals, the strongest.

    The folds and the fit on all rows are label sets of one call to `fit_logistic`, so they share each cell's products.

    Args:
        acts: [C, N, D], any floating dtype.
        labels: [N], 0 or 1.
        valid: [C, N] bool.
        groups: [N] int64; rows of a group fall in one of `FOLDS` folds.
        path: penalties to choose from.
        standardize: as in `fit_logistic`; by the scale of all valid rows.
        tol: as in `fit_logistic`.
        max_iter: as in `fit_logistic`.

    Returns:
        The fits [C, ...], and the penalty of each cell, float64 [C], NaN where the cell has no fit. Folds that cannot
        be scored, for want of a class outside them, are left out; where none can be, the strongest penalty is taken.

    Raises:
        ValueError: fewer groups than folds, and what `fit_logistic` raises.
    """
    fold = _folds(groups)
    sets = torch.stack([valid & (fold != k) for k in range(FOLDS)] + [valid])  # [FOLDS + 1, C, N]
    path = sorted(path, reverse=True)
    fits = fit_logistic(acts, labels, sets, path, tol, max_iter, standardize)
    loss = _held_out_loss(acts, labels, valid, fold, fits)
    chosen = loss.nan_to_num(torch.inf).argmin(0)  # [C]; the first of equals
    cells = torch.arange(len(acts), device=acts.device)
    fit = LogisticFit(*(field[chosen, -1, cells] for field in fits))
    penalty = torch.tensor(path, dtype=torch.float64, device=acts.device)[chosen]
    return fit, penalty.where(fit.bias.isfinite(), torch.nan)


def _folds(groups: Tensor) -> Tensor:
    """Fold of every row, [N]: groups shuffled by a fixed seed and dealt in turn."""
    number = groups.unique(return_inverse=True)[1]
    n_groups = int(number.max()) + 1
    if n_groups < FOLDS:
        raise ValueError(f"l2=auto: expected at least {FOLDS} groups among the train rows, got {n_groups}; set l2")
    order = torch.randperm(n_groups, generator=torch.Generator().manual_seed(0)).to(groups.device)
    return order[number] % FOLDS


def _held_out_loss(acts: Tensor, labels: Tensor, valid: Tensor, fold: Tensor, fits: LogisticFit) -> Tensor:
    """Mean log-loss of every row under the fit of the folds it is not in: [P, C]; folds without a fit are left out."""
    P, C = fits.weight.shape[0], len(acts)
    sign = torch.where(labels == 1, 1.0, -1.0)
    loss = fits.bias.new_full((P, C), torch.nan)
    for cell in range(C):  # one at a time: only one is ever held in float32
        held_out = fits.bias.new_full((P, len(labels)), torch.nan)
        for k in range(FOLDS):
            rows = valid[cell] & (fold == k)
            scores = fits.weight[:, k, cell] @ acts[cell, rows].to(fits.weight).mT + fits.bias[:, k, cell, None]
            held_out[:, rows] = softplus(-sign[rows] * scores)
        loss[:, cell] = held_out.nanmean(-1)
    return loss
