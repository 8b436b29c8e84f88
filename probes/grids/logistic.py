"""The grid of logistic regressions, every cell at its optimum."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probes.analysis.offset import make_offset
from probes.analysis.reading import finite
from probes.grids.exact_grid import ExactGrid
from probes.report.run_folder import EXAMPLES, read_examples
from probes.settings import Baseline, ClassWeight, NotNegative, Penalty, Tolerance, check_logistic
from probes.solver.logistic import REASONS, LogisticFit, fit_logistic
from probes.solver.penalty import choose_strongest_of_best, is_separated, list_penalties, mean_log_loss

log = logging.getLogger(__name__)
SHORT = [REASONS.index(name) for name in ("max_iter reached", "beyond float64")]


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
        max_iter: most steps of a cell.
        offset: a baseline whose log-odds are added to those of each probe, while it is fitted and in its scores; see
            `make_offset`. `weight` and `bias` are the probe's part. The data that are tested have theirs from their
            own train rows. Needs examples.parquet in the folder of the datamodule.
        class_weight: `balanced`: both classes weigh the same, in the fit and in the log-loss on the validation rows
            that chooses among penalties, see `fit_logistic`; a score above 0 then says label 1 is likelier if both
            classes are equally frequent. The scale of `standardize` stays that of all rows alike.

    Example:
        >>> LogisticGrid(l2=100).described
        'logistic regression, standardised, l2 = 100'
    """

    def __init__(
        self,
        l2: Penalty = "by_size",
        standardize: bool = True,
        tol: Tolerance = 1e-4,
        max_iter: NotNegative = 1000,
        offset: Baseline = None,
        class_weight: ClassWeight = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # loggers get the whole configuration
        check_logistic(l2, standardize, tol, max_iter, offset, class_weight)
        self.class_weight = class_weight
        self.l2, self.standardize, self.tol, self.max_iter, self.baseline = l2, standardize, tol, max_iter, offset
        if isinstance(l2, int | float):
            self._describe([l2], "")
        else:
            self._describe([], " by size" if l2 == "by_size" else " by validation")

    def _describe(self, penalties: Sequence[float], how: str) -> None:
        columns = ("standardised" if self.standardize else "raw columns") + (
            ", balanced classes" if self.class_weight else ""
        )
        ends = penalties and [min(penalties), max(penalties)]
        values = " to ".join(dict.fromkeys(map(_short, ends)))
        beside = f", beside {self.baseline}" if self.baseline else ""
        self.described = f"logistic regression, {columns}, l2{values and ' = '}{values}{how}{beside}"

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
        self._take_offset()

    def on_validation_start(self) -> None:
        """Take the offset of the data."""
        self._take_offset()

    def on_test_start(self) -> None:
        """Take the offset of the data."""
        self._take_offset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep which baseline was taken."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["baseline"] = self.baseline

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the baseline that was taken."""
        super().on_load_checkpoint(checkpoint)
        self.baseline = checkpoint.get("baseline")

    def _take_offset(self) -> None:
        """Make the offset of the datamodule's examples, once.

        Raises:
            ValueError: there is no table of examples to make it from.
        """
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.baseline is None or getattr(self, "_offset_of", None) is datamodule:
            return
        self.trainer.strategy.barrier()  # rank zero writes the table
        examples = None if datamodule.folder is None else read_examples(datamodule.folder)
        if examples is None:
            raise ValueError(
                f"probe.offset: expected {EXAMPLES} in the folder of the datamodule, got none; give it a folder"
            )
        assert self._data_card is not None
        positions = self._data_card.positions
        offsets = []  # of one baseline: the best of the first target serves the others
        for target in self._data_card.targets:
            self.baseline, offset = make_offset(examples, self.baseline, target.name, positions)
            offsets.append(offset)
        self.offset, self._offset_of = torch.stack(offsets).to(self.device), datamodule

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
        offset = None if self.offset is None else self.offset[:, block["examples"]]  # [K, N]
        fits = [
            fit_logistic(
                acts,
                labels[k : k + at_once, None],
                valid[k : k + at_once],
                self.penalties[k],
                tol=self.tol,
                max_iter=self.max_iter,
                standardize=self.standardize,
                offset=None if offset is None else offset[k : k + at_once, None],
                class_weight=self.class_weight,
            )
            for k in range(0, len(valid), at_once)
        ]
        fit = LogisticFit(*(torch.cat(field, 1) for field in zip(*fits, strict=True)))  # [P, K, C, ..]
        self._reasons[:, :, cells] = fit.reason
        self._separated[:, :, cells] = is_separated(acts, labels, valid, fit.weight, offset).long()
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
            offset = None if self.offset is None else self.offset[:, block["examples"]]
            balanced = self.class_weight == "balanced"
            loss[:, :, cells] = mean_log_loss(block["acts"], block["labels"], block["valid"], *probes, offset, balanced)
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
        if self.class_weight is not None:
            self.fitted["class_weight"] = self.class_weight
        if self.baseline is not None:
            self.fitted["offset"] = self.baseline
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
        self.tell_beyond_float32((reasons == REASONS.index("beyond float32")).flatten())
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
