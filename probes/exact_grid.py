"""Grids whose probes are solved for outright, block by block, in one epoch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from probes.analysis.reading import finite
from probes.grid import ProbeGrid
from probes.solver.logistic import REASONS, fit_logistic
from probes.solver.penalty import PATH, fit_chosen


class ExactGrid(ProbeGrid):
    """A grid that is fitted when every cell block has been seen once.

    No gradient and no optimizer. Each rank solves the cells it is dealt; a sum over ranks then gives every rank all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @abstractmethod
    def solve(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fit the cells of a block: weight [C, D] and bias [C], NaN where a cell has no probe."""

    def configure_optimizers(self) -> None:
        """None: see the class."""

    def on_train_epoch_start(self) -> None:
        """Start from zeros, so that a sum over ranks puts together the cells each of them solved."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()

    def training_step(self, block: dict[str, Tensor]) -> None:
        """Solve every cell of a block."""
        weight, bias = self.solve(block)
        with torch.no_grad():
            self.weight.flatten(0, 1)[block["cells"]] = weight.to(self.weight)
            self.bias.flatten()[block["cells"]] = bias.to(self.bias)

    def on_train_epoch_end(self) -> None:
        """Give every rank the whole grid."""
        for part in (self.weight, self.bias):
            self.sum_over_ranks(part.data)

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
        self.path = PATH if l2 == "auto" else [l2] if isinstance(l2, int | float) else l2
        if isinstance(self.path, str) or not self.path or not all(value > 0 for value in self.path):
            raise ValueError(f"probe.l2: expected a number above 0, a list of such, or auto; got {l2}")
        if not isinstance(standardize, bool):
            raise ValueError(f"probe.standardize: expected true or false, got {standardize!r}")
        self.standardize, self.tol, self.max_iter = standardize, tol, max_iter
        penalty = f"l2 = {self.path[0]:g}" if len(self.path) == 1 else "l2 by cross-validation"
        self.described = f"logistic, {penalty}" + (", standardised" if standardize else "")

    def on_train_epoch_start(self) -> None:
        """Start from nothing."""
        super().on_train_epoch_start()
        self.penalty = torch.zeros_like(self.bias, dtype=torch.float64)
        self.reasons = torch.zeros(len(REASONS), dtype=torch.int64, device=self.device)

    def solve(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fit by `fit_logistic`."""
        acts, labels, valid = block["acts"], block["labels"], block["valid"]
        settings: dict[str, Any] = {"tol": self.tol, "max_iter": self.max_iter, "standardize": self.standardize}
        if len(self.path) == 1:
            fit = fit_logistic(acts, labels, valid, self.path[0], **settings)
            penalty = torch.full_like(fit.bias, self.path[0], dtype=torch.float64)
        else:
            fit, penalty = fit_chosen(acts, labels, valid, block["groups"], self.path, **settings)
        self.penalty.flatten()[block["cells"]] = penalty
        self.reasons += fit.reason.bincount(minlength=len(REASONS))
        return fit.weight, fit.bias

    def on_train_epoch_end(self) -> None:
        """Say how the fit went."""
        super().on_train_epoch_end()
        counts = self.sum_over_ranks(self.reasons).tolist()
        penalty = self.sum_over_ranks(self.penalty)
        self.fitted = {
            "probe": "logistic",
            "standardize": self.standardize,
            "l2": [[finite(value) for value in row] for row in penalty] if len(self.path) > 1 else self.path[0],
            "cells": {reason: count for reason, count in zip(REASONS, counts, strict=True) if count},
        }
        short = counts[REASONS.index("max_iter reached")] + counts[REASONS.index("beyond float64")]
        if len(self.path) > 1:
            for end, value in (("weakest", min(self.path)), ("strongest", max(self.path))):
                if chosen := int((penalty == value).sum()):
                    self.print(f"{chosen} of {penalty.numel()} cells took the {end} penalty, {value:g}")
        if short:
            self.print(f"{short} cells stopped within {self.max_iter} steps, short of the optimum")
