"""Grids whose probes are solved for outright, block by block, in one epoch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from probes.analysis.reading import nested
from probes.grid import ProbeGrid
from probes.settings import check_logistic
from probes.solver.inputs import NotFiniteError
from probes.solver.logistic import REASONS, LogisticFit, fit_logistic
from probes.solver.penalty import PATH, fit_chosen


class ExactGrid(ProbeGrid):
    """A grid that is fitted when every cell block has been seen once.

    No gradient and no optimizer. Each rank solves the cells it is dealt; a sum over ranks then gives every rank all.
    One epoch is the fit, whatever limit the trainer has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @abstractmethod
    def solve(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fit the cells of a block: weight [K, C, D] and bias [K, C], NaN where a cell has no probe."""

    def configure_optimizers(self) -> None:
        """None: see the class."""

    def on_fit_start(self) -> None:
        """Note that no epoch has run, and ask for one: a second would solve every cell again."""
        self._solved = torch.empty(0)
        if self.trainer.max_epochs != 0:
            self.trainer.fit_loop.max_epochs = 1

    def on_fit_end(self) -> None:
        """Check that the fit has left probes.

        Raises:
            ValueError: the trainer ran no epoch, and no checkpoint brought probes.
        """
        if not self._solved.numel() and self.trainer.max_epochs and bool(self.weight.isnan().all()):
            raise ValueError(
                "fit: expected a trainer with an epoch to run, got one that has run all of its epochs before; give "
                "each fit a new Trainer"
            )

    def on_train_epoch_start(self) -> None:
        """Start without probes: what is not fitted in this run has none."""
        with torch.no_grad():
            self.weight.fill_(torch.nan)
            self.bias.fill_(torch.nan)
        self._solved = torch.zeros(self.own_cells.shape, dtype=torch.int64, device=self.device)  # times, of each cell

    def training_step(self, block: dict[str, Tensor]) -> None:
        """Solve every cell of a block.

        Raises:
            ValueError: an activation that is not finite; names layer, position and example.
        """
        cells = block["cells"]
        try:
            weight, bias = self.solve(block)
        except NotFiniteError:
            self.refuse_not_finite(block)
            raise
        with torch.no_grad():
            self.weight.flatten(1, 2)[:, cells] = weight.to(self.weight)
            self.bias.flatten(1, 2)[:, cells] = bias.to(self.bias)
        self._solved[cells] += 1

    def on_train_epoch_end(self) -> None:
        """Give every rank the whole grid, and leave cells that no rank was given without a probe.

        Raises:
            ValueError: a cell that was solved more than once, or not at all though every block was asked for.
        """
        own = self._solved > 0
        self.sum_over_ranks(self._solved)
        for part in (self.weight.data.flatten(1, 2), self.bias.data.flatten(1, 2)):
            part[:, ~own] = 0
            self.sum_over_ranks(part)
            part[:, self._solved == 0] = torch.nan
        if len(twice := (self._solved > 1).nonzero()):
            raise ValueError(
                f"fit: expected every cell once, got {self.name_cells(twice[:, 0])} solved more than once; give whole "
                "cells to one rank each (datamodule.batch_size=null)"
            )
        if len(unsolved := (self._solved == 0).nonzero()[:, 0]):
            named = f"{len(unsolved)} of {len(self._solved)} cells were not fitted: {self.name_cells(unsolved)}"
            limit = self.trainer.limit_train_batches
            if isinstance(limit, float) and limit == 1:  # all of them; a whole number 1 is one
                raise ValueError(f"fit: expected every cell once, got others; {named}; run it again")
            self.print(f"{named}; they have no probe, because trainer.limit_train_batches leaves them out")

    def sum_over_ranks(self, part: Tensor) -> Tensor:
        """Add up what the ranks hold, in place."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(part)
        return part


class LogisticGrid(ExactGrid):
    """L2 logistic regression, every cell at its optimum.

    Args:
        l2: penalty; scikit-learn's C is 1 / l2. Several, or `auto` for eight powers of ten: every cell takes the one
            that cross-validation on its train rows likes best.
        standardize: penalise weights as if every column had unit variance over the train rows.
        tol: gradient norm at which a cell has converged.
        max_iter: most Newton steps of a cell.
    """

    def __init__(
        self,
        l2: float | Sequence[float] | Literal["auto"] = 1.0,
        standardize: bool = False,
        tol: float = 1e-4,
        max_iter: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_logistic(l2, standardize, tol, max_iter)
        self.path = PATH if isinstance(l2, str) else [l2] if isinstance(l2, int | float) else l2
        self.standardize, self.tol, self.max_iter = standardize, tol, max_iter
        penalty = f"l2 = {self.path[0]:g}" if len(self.path) == 1 else "l2 by cross-validation"
        self.described = f"logistic, {penalty}" + (", standardised" if standardize else "")

    def on_train_epoch_start(self) -> None:
        """Start from nothing."""
        super().on_train_epoch_start()
        self.penalty = torch.zeros_like(self.bias, dtype=torch.float64)
        self.reasons = torch.zeros(len(REASONS), dtype=torch.int64, device=self.device)

    def solve(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fit by `fit_logistic`, targets with the same train rows in one call."""
        acts, labels, valid = block["acts"], block["labels"][:, None], block["valid"]
        settings: dict[str, Any] = {"tol": self.tol, "max_iter": self.max_iter, "standardize": self.standardize}
        if len(self.path) == 1:
            # Label sets on the same rows share a cell's work. Others would add rows, and change each other's scale.
            at_once = len(valid) if bool((valid == valid[:1]).all()) else 1
            fits = [
                fit_logistic(acts, labels[k : k + at_once], valid[k : k + at_once], self.path[0], **settings)
                for k in range(0, len(valid), at_once)
            ]
            fit = LogisticFit(*(torch.cat(field) for field in zip(*fits, strict=True)))
            penalty = torch.full_like(fit.bias, self.path[0], dtype=torch.float64)
        else:
            chosen = []
            for k, held in enumerate(block["held"]):  # folds are dealt among the rows of the target alone
                rows = slice(None) if bool(held.all()) else held.nonzero()[:, 0]
                given = acts[:, rows], labels[k, 0, rows], valid[k][:, rows], block["groups"][rows]
                chosen.append(fit_chosen(*given, self.path, **settings))
            fit = LogisticFit(*(torch.stack(field) for field in zip(*(fit for fit, _ in chosen), strict=True)))
            penalty = torch.stack([penalty for _, penalty in chosen])
        self.penalty.flatten(1, 2)[:, block["cells"]] = penalty
        self.reasons += fit.reason.flatten().bincount(minlength=len(REASONS))
        return fit.weight, fit.bias

    def on_train_epoch_end(self) -> None:
        """Say how the fit went."""
        super().on_train_epoch_end()
        counts = self.sum_over_ranks(self.reasons).tolist()
        penalty = self.sum_over_ranks(self.penalty)
        penalty.flatten(1, 2)[:, self._solved == 0] = torch.nan
        self.fitted = {
            "probe": "logistic",
            "standardize": self.standardize,
            "l2": nested(penalty.squeeze(0)) if len(self.path) > 1 else self.path[0],
            "cells": {reason: count for reason, count in zip(REASONS, counts, strict=True) if count},
        }
        short = counts[REASONS.index("max_iter reached")] + counts[REASONS.index("beyond float64")]
        if len(self.path) > 1:
            for end, value in (("weakest", min(self.path)), ("strongest", max(self.path))):
                if chosen := int((penalty == value).sum()):
                    self.print(f"{chosen} of {penalty.numel()} cells took the {end} penalty, {value:g}")
        if short:
            self.print(f"{short} cells stopped within {self.max_iter} steps, short of the optimum")
