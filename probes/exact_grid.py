"""Grids whose probes are solved for outright, block by block, in one epoch."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from probes.analysis.reading import finite
from probes.grid import ProbeGrid
from probes.settings import check_logistic
from probes.solver.inputs import NotFiniteError
from probes.solver.logistic import REASONS, LogisticFit, fit_logistic
from probes.solver.penalty import choose_strongest_of_best, is_separated, list_penalties, mean_log_loss

log = logging.getLogger(__name__)
SHORT = [REASONS.index(name) for name in ("max_iter reached", "beyond float64")]


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
        # Without an optimizer nothing counts steps, and a ModelCheckpoint that sees none saves nothing.
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()

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
            n = len(self._solved)
            if (limit := self.name_limit("train")) is None:
                named = f"{len(unsolved)} of {n} cells were not fitted: {self.name_cells(unsolved)}"
                raise ValueError(f"fit: expected every cell once, got others; {named}; run it again")
            self.print(f"fit: {n - len(unsolved)} of {n} cells are fitted; {limit} leaves out the others")

    def sum_over_ranks(self, part: Tensor) -> Tensor:
        """Add up what the ranks hold, in place."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(part)
        return part


class LogisticGrid(ExactGrid):
    """L2 logistic regression, every cell at its optimum.

    `fitted` says which penalty was taken, how many cells ended for which reason, which stopped `short` of the optimum
    (layer, position and, of several, target), and in how many the AUC on the train rows is 1.

    Args:
        l2: penalty; scikit-learn's C is 1 / l2. `by_size`: a rule in the width and the number of train rows, see
            `list_penalties`. Several, or `auto` for four times, once and a quarter of the rule's: one of them for the
            whole map, by log-loss on the validation rows.
        standardize: penalise weights as if every column had unit variance over the train rows.
        tol: gradient norm at which a cell has converged.
        max_iter: most Newton steps of a cell.

    Example:
        >>> LogisticGrid(l2=100).described
        'logistic regression, standardised, l2 = 100'
    """

    def __init__(
        self,
        l2: float | Sequence[float] | Literal["by_size", "auto"] = "by_size",
        standardize: bool = True,
        tol: float = 1e-4,
        max_iter: int = 100,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_logistic(l2, standardize, tol, max_iter)
        self.l2, self.standardize, self.tol, self.max_iter = l2, standardize, tol, max_iter
        if isinstance(l2, int | float):
            self._describe([l2], "")
        else:
            self._describe([], " by size" if l2 == "by_size" else " by validation")

    def _describe(self, penalties: Sequence[float], how: str) -> None:
        columns = "standardised" if self.standardize else "raw columns"
        ends = penalties and [min(penalties), max(penalties)]
        values = " to ".join(dict.fromkeys(map(_short, ends)))
        self.described = f"logistic regression, {columns}, l2{values and ' = '}{values}{how}"

    def on_fit_start(self) -> None:
        """Check that there are rows to choose a penalty on.

        Raises:
            ValueError: there are several penalties and a target has no validation row.
        """
        super().on_fit_start()
        assert self.card is not None
        counts = [target.counts for target in self.card.targets]
        self.penalties = [list_penalties(self.l2, self.card.width, count["train"].n) for count in counts]  # [K][P]
        self.n_penalties = len(self.penalties[0])
        if self.n_penalties > 1 and not all(count["val"].n for count in counts):
            raise ValueError(
                f"probe.l2: expected validation rows to choose among {self.n_penalties} penalties, got none; set "
                "split.val above 0, or one penalty"
            )

    def on_train_epoch_start(self) -> None:
        """Start from nothing."""
        super().on_train_epoch_start()
        each = (self.n_penalties, len(self.weight), len(self.own_cells))  # [P, K, L * T]
        self._reasons = torch.zeros(each, dtype=torch.int64, device=self.device)
        self._separated = torch.zeros_like(self._reasons)
        # Probes of every penalty, until one is chosen; [0] stands for all where there is but one.
        self._weights = self.weight.new_full((*each, self.weight.shape[-1]) if each[0] > 1 else (0,), torch.nan)
        self._biases = self.bias.new_full(each, torch.nan)
        self._chosen, self._losses = torch.zeros(each[1], dtype=torch.int64, device=self.device), None

    def solve(self, block: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Fit by `fit_logistic`, targets with the same train rows in one call; of several penalties the strongest."""
        acts, labels, valid, cells = block["acts"], block["labels"], block["valid"], block["cells"]
        # Label sets on the same rows share a cell's work. Others would add rows, and change each other's scale.
        alike = all(path == self.penalties[0] for path in self.penalties) and bool((valid == valid[:1]).all())
        at_once = len(valid) if alike else 1
        fits = [
            fit_logistic(
                acts,
                labels[k : k + at_once, None],
                valid[k : k + at_once],
                self.penalties[k],
                tol=self.tol,
                max_iter=self.max_iter,
                standardize=self.standardize,
            )
            for k in range(0, len(valid), at_once)
        ]
        fit = LogisticFit(*(torch.cat(field, 1) for field in zip(*fits, strict=True)))  # [P, K, C, ..]
        self._reasons[:, :, cells] = fit.reason
        self._separated[:, :, cells] = is_separated(acts, labels, valid, fit.weight).long()
        if self.n_penalties > 1:
            self._weights[:, :, cells], self._biases[:, :, cells] = fit.weight.to(self.weight), fit.bias.to(self.bias)
        return fit.weight[0], fit.bias[0]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Choose the penalty, once the last cell is solved: validation comes next."""
        if self.trainer.is_last_batch and self.n_penalties > 1:
            self._choose()

    @torch.no_grad()
    def _choose(self) -> None:
        loss = torch.zeros_like(self._biases, dtype=torch.float64)
        for block in self.trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            block, cells = {name: part.to(self.device) for name, part in block.items()}, block["cells"]
            probes = self._weights[:, :, cells], self._biases[:, :, cells]
            loss[:, :, cells] = mean_log_loss(block["acts"], block["labels"], block["valid"], *probes)
        loss = self.sum_over_ranks(loss)  # each cell from one rank: the same choice for any number of ranks
        self._chosen, self._losses = choose_strongest_of_best(loss), loss.nanmean(-1)
        for k, number in enumerate(self._chosen.tolist()):
            self.weight[k] = self._weights[number, k].view_as(self.weight[k])
            self.bias[k] = self._biases[number, k].view_as(self.bias[k])
        self._weights = self._weights[:0]

    def on_train_epoch_end(self) -> None:
        """Say how the fit went."""
        super().on_train_epoch_end()
        assert self.card is not None
        targets = range(len(self.weight))
        reasons, separated = (
            self.sum_over_ranks(part)[self._chosen, targets] for part in (self._reasons, self._separated)
        )  # [K, L * T]
        counts = reasons[:, self._solved > 0].flatten().bincount(minlength=len(REASONS)).tolist()
        penalty = [path[number] for path, number in zip(self.penalties, self._chosen.tolist(), strict=True)]
        short = torch.isin(reasons, torch.tensor(SHORT, device=reasons.device))
        n_separated, n_fitted = int(separated.sum()), int(self.bias.isfinite().sum())
        self.fitted = {
            "probe": "logistic",
            "standardize": self.standardize,
            "l2": penalty[0] if len(set(penalty)) == 1 else penalty,
            "cells": {reason: count for reason, count in zip(REASONS, counts, strict=True) if count},
            "short": [self._place(k, cell) for k, cell in short.nonzero().tolist()],
            "train_auc_1": n_separated,
        }
        if self._losses is not None:
            tried = [
                [{"l2": l2, "val_log_loss": finite(loss)} for l2, loss in zip(path, losses, strict=True)]
                for path, losses in zip(self.penalties, self._losses.T, strict=True)
            ]
            self.fitted["tried"] = tried[0] if len(tried) == 1 else tried
            names = ", ".join(map(_short, self.penalties[0]))
            taken = ", ".join(map(_short, sorted(set(penalty))))
            self.print(f"probe.l2: {taken} of {names}, by log-loss on the validation rows")
        self._describe(penalty, " by validation" if self.n_penalties > 1 else "")
        if cells := short.any(0).nonzero()[:, 0].tolist():
            named = self.name_cells(torch.tensor(cells))
            self.print(f"{int(short.sum())} cells stopped within {self.max_iter} steps, short of the optimum: {named}")
        if 2 * n_separated > n_fitted and self.trainer.is_global_zero:
            stronger = (
                f"a stronger penalty (probe.l2={_short(10 * max(penalty))})"
                if self.standardize
                else ("standardised columns with the default penalty (probe.standardize=true probe.l2=by_size)")
            )
            log.warning(
                f"fit: train AUC is 1 in {n_separated} of {n_fitted} cells, so these probes know their train rows by "
                f"heart; take more questions, or {stronger}"
            )

    def _place(self, k: int, cell: int) -> dict[str, Any]:
        assert self.card is not None
        layer, position = divmod(cell, len(self.card.positions))
        place = {"layer": self.card.layers[layer], "position": self.card.positions[position]}
        return place | ({"target": self.card.targets[k].name} if len(self.card.targets) > 1 else {})


def _short(value: float) -> str:
    """Three digits of a number, without an exponent."""
    return f"{float(f'{value:.3g}'):.10g}"
