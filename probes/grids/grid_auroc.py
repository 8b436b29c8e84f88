"""The torchmetrics metric that gathers the AUROC of every cell of a grid over ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric

from probes.analysis.auroc import auroc_with_variance


class GridAUROC(Metric):
    """AUROC and its clustered standard error for every cell of a grid.

    Each cell is scored whole, in one update, on one rank.

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

    def update(
        self, scores: Tensor, labels: Tensor, valid: Tensor, cells: Tensor, groups: Tensor | None = None
    ) -> None:
        """Score a block of cells.

        Args:
            scores: [C, N], any real dtype.
            labels: [N] or [C, N], 0 or 1 where valid.
            valid: [C, N] bool.
            cells: [C] int64, where in the grid the block's cells stand.
            groups: [N] integers, equal for examples of one group, which the standard error respects; each example its
                own by default.

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
        area, variance = auroc_with_variance(scores, labels, valid, groups)
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
