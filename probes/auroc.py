"""Area under the ROC curve of every cell at once, its standard error, and the metric that gathers both over ranks.

Ties count one half, exactly: the area is a sum of whole numbers, divided once. Scores are compared as they are, on any
scale, and a cell that lacks a class has no area (NaN), not zero.
"""

import torch
from torch import Tensor
from torchmetrics import Metric


def auroc(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Probability that a positive example outscores a negative one, ties counted one half (Mann-Whitney's U over mn).

    Args:
        scores: [.., N], any real dtype; compared in float64. Entries that are not valid may hold anything.
        labels: 0 or 1 where valid, any dtype; broadcasts with scores.
        valid: bool, broadcasts with scores; which examples count. All of them by default.

    Returns:
        float64 [..]; NaN where a class is absent, and where a valid score is NaN.

    Raises:
        ValueError: shapes that do not fit, labels other than 0 and 1, valid that is not bool.
    """
    return auroc_with_variance(scores, labels, valid)[0]


def auroc_variance(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Variance of `auroc` over draws of the examples, float64 [..]; arguments and errors are those of `auroc`.

    The placement of an example is the share of the other class that lies below it. The variance is the sample variance
    of the positives' placements over their number, plus that of the negatives' over theirs (DeLong et al. 1988,
    Biometrics 44:837); placements come from sorted scores (Sun & Xu 2014, IEEE Signal Processing Letters 21:1389).
    NaN where a class has fewer than two examples, and where a valid score is NaN.
    """
    return auroc_with_variance(scores, labels, valid)[1]


def auroc_with_variance(scores: Tensor, labels: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`auroc` and `auroc_variance`, float64 [..] each, for one sort of the scores."""
    scores, positive, negative = _classes(scores, labels, valid)
    over_negative, over_positive = _half_wins(scores, negative, positive)
    wins = torch.where(positive, over_negative, 0).sum(-1)
    area = wins.double() / (2 * positive.sum(-1) * negative.sum(-1))  # 0 / 0 is the NaN of an absent class
    variance = _spread(over_negative, positive, negative) + _spread(over_positive, negative, positive)
    readable = _readable(scores, positive | negative)
    return area.where(readable, torch.nan), variance.where(readable, torch.nan)


def _spread(wins: Tensor, members: Tensor, others: Tensor) -> Tensor:
    """Sample variance of the members' placements among the others, over the number of members: [..]."""
    n = members.sum(-1)
    placement = wins.double() / (2 * others.sum(-1, keepdim=True))
    mean = torch.where(members, placement, 0.0).sum(-1) / n
    deviation = torch.where(members, placement - mean[..., None], 0.0)
    return deviation.square().sum(-1) / ((n - 1) * n)  # 0 / 0 is the NaN of a class with fewer than two


def _half_wins(scores: Tensor, *classes: Tensor) -> list[Tensor]:
    """For every score and class, twice the number of its members below plus the number that are equal: int64 [.., N].

    One sort serves all classes: a running count of the members, read where a run of equal scores starts and ends.
    """
    ranked, order = scores.sort(-1)
    number = torch.arange(scores.shape[-1], device=scores.device).expand(scores.shape)
    new = torch.ones_like(ranked, dtype=torch.bool)
    new[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    start = torch.where(new, number, 0).cummax(-1).values
    last = torch.where(new.roll(-1, -1), number, scores.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    wins = []
    for members in classes:
        count = members.gather(-1, order).cumsum(-1)
        below = count.gather(-1, start) - members.gather(-1, order.gather(-1, start)).long()
        wins.append(torch.empty_like(count).scatter_(-1, order, below + count.gather(-1, last)))
    return wins


def _readable(scores: Tensor, counted: Tensor) -> Tensor:
    return ~(scores.isnan() & counted).any(-1)


def _classes(scores: Tensor, labels: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores in float64 and the members of both classes, broadcast to one shape [.., N]."""
    labels = labels.to(scores.device)
    counted = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid.to(scores.device)
    if counted.dtype != torch.bool:
        raise ValueError(f"valid must be bool, got {counted.dtype}; compare it first, as in valid != 0")
    if scores.ndim == 0 or labels.shape[-1:] != scores.shape[-1:]:
        raise ValueError(f"labels must end in the N of scores [.., N], got {[*labels.shape]} for {[*scores.shape]}")
    try:
        scores, labels, counted = torch.broadcast_tensors(scores.double(), labels, counted)
    except RuntimeError:
        shapes = f"scores {[*scores.shape]}, labels {[*labels.shape]}, valid {[*counted.shape]}"
        raise ValueError(f"scores, labels and valid must broadcast to one shape [.., N], got {shapes}") from None
    wrong = labels[counted & (labels != 0) & (labels != 1)]
    if wrong.numel():
        raise ValueError(f"labels must be 0 or 1 where valid, got {wrong[0].item()}")
    return scores.contiguous(), counted & (labels == 1), counted & (labels == 0)


class GridAUROC(Metric):
    """AUROC and its standard error for every cell of a grid, each cell scored whole, in one update, on one rank.

    The state is one number per cell, zero until the cell is scored, and is summed over ranks: after a sync every rank
    holds the whole grid, and what travels does not grow with the number of examples.

    Args:
        n_cells: cells of the grid, C_grid = L * T.
    """

    full_state_update = False
    auc: Tensor
    variance: Tensor
    n: Tensor
    n_positive: Tensor
    updates: Tensor

    def __init__(self, n_cells: int, **kwargs) -> None:
        super().__init__(**kwargs)
        if n_cells < 1:
            raise ValueError(f"n_cells must be at least 1, got {n_cells}")
        for name in ("auc", "variance"):
            self.add_state(name, torch.zeros(n_cells, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("n", "n_positive", "updates"):
            self.add_state(name, torch.zeros(n_cells, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, labels: Tensor, valid: Tensor, cells: Tensor) -> None:
        """Score a block of cells.

        Args:
            scores: [C, N], any real dtype.
            labels: [N] or [C, N], 0 or 1 where valid.
            valid: [C, N] bool.
            cells: [C] int64, where in the grid the block's cells stand.

        Raises:
            ValueError: shapes that do not fit, a cell outside the grid, and what `auroc` raises.
        """
        n_cells = len(self.auc)
        if scores.ndim != 2 or valid.shape != scores.shape or cells.shape != scores.shape[:1]:
            got = f"scores {[*scores.shape]}, valid {[*valid.shape]}, cells {[*cells.shape]}"
            raise ValueError(f"scores and valid must be [C, N] and cells [C], got {got}")
        outside = cells[(cells < 0) | (cells >= n_cells)]
        if outside.numel():
            raise ValueError(f"cells must be from 0 to {n_cells - 1}, got {outside[0].item()}")
        area, variance = auroc_with_variance(scores, labels, valid)
        self.auc.index_add_(0, cells, area)
        self.variance.index_add_(0, cells, variance)
        self.n.index_add_(0, cells, valid.sum(-1))
        self.n_positive.index_add_(0, cells, (valid & (labels == 1)).sum(-1))
        self.updates.index_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> dict[str, Tensor]:
        """The whole grid: auc and auc_se float64, n and n_positive int64, each [n_cells].

        A cell that was never scored has NaN and n = 0.

        Raises:
            ValueError: a cell that was scored twice since the last reset, on one rank or over ranks.
        """
        twice = (self.updates > 1).nonzero()[:, 0]
        if twice.numel():
            raise ValueError(
                f"each cell must be scored once between resets, got cell {int(twice[0])} scored "
                f"{int(self.updates[twice[0]])} times; give every cell to one rank, and reset at the end of an epoch"
            )
        scored = self.updates == 1
        return {
            "auc": self.auc.where(scored, torch.nan),
            "auc_se": self.variance.sqrt().where(scored, torch.nan),
            "n": self.n.clone(),
            "n_positive": self.n_positive.clone(),
        }
