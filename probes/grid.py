"""The LightningModule that fits one linear probe for every layer-token cell, each to its optimum, in one epoch."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from probes.auc_map import AUCMap
from probes.auroc import GridAUROC
from probes.logistic import fit_logistic


class ProbeGrid(pl.LightningModule):
    """Exact logistic probes over cell blocks.

    The shape of the grid comes from the datamodule's `card`, or from the checkpoint when one is loaded. `weight`
    [L, T, D] and `bias` [L, T] are float32, NaN in cells that could not be fitted. After validation and test, `maps`
    holds an `AUCMap` under `val` and `test`, the same on every rank.

    Args:
        l2: penalty; scikit-learn's C is 1 / l2.
        tol: gradient norm at which a cell has converged.
        max_iter: most Newton steps of a cell.
    """

    def __init__(self, l2: float = 1.0, tol: float = 1e-4, max_iter: int = 100) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not l2 > 0:
            raise ValueError(f"probe.l2: expected a number above 0, got {l2}")
        # Every block is solved outright: nothing to differentiate, no optimizer.
        self.automatic_optimization = False
        self.l2, self.tol, self.max_iter = l2, tol, max_iter
        self.card: dict[str, Any] = {}
        self.maps: dict[str, AUCMap] = {}

    def setup(self, stage: str) -> None:
        """Take the shape of the grid from the datamodule."""
        if not self.card:
            self._shape(self.trainer.datamodule.card)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> None:
        """None: see `training_step`."""

    def on_train_epoch_start(self) -> None:
        """Start from zeros, so that a sum over ranks puts together the cells each of them solved."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()
        self.n_unconverged = 0

    def training_step(self, block: dict[str, Tensor]) -> None:
        """Solve every cell of a block."""
        fit = fit_logistic(block["acts"], block["labels"], block["valid"], self.l2, self.tol, self.max_iter)
        with torch.no_grad():
            self.weight.flatten(0, 1)[block["cells"]] = fit.weight.to(self.weight)
            self.bias.flatten()[block["cells"]] = fit.bias.to(self.bias)
        self.n_unconverged += int((~fit.converged & fit.bias.isfinite()).sum())

    def on_train_epoch_end(self) -> None:
        """Give every rank the whole grid."""
        if dist.is_available() and dist.is_initialized():
            for part in (self.weight, self.bias):
                dist.all_reduce(part.data)
            unconverged = torch.tensor(self.n_unconverged, device=self.device)
            dist.all_reduce(unconverged)
            self.n_unconverged = int(unconverged)
        if self.n_unconverged:
            self.print(f"{self.n_unconverged} cells stopped after {self.max_iter} steps, short of the optimum")

    def forward(self, acts: Tensor, cells: Tensor) -> Tensor:
        """Score examples: log-odds that the answer is right.

        Args:
            acts: [C, N, D] of any float dtype.
            cells: [C] int64, `l * T + t`.

        Returns:
            [C, N] float64; NaN in a cell without a probe.
        """
        weight, bias = self.weight.flatten(0, 1)[cells].double(), self.bias.flatten()[cells].double()
        # One cell at a time: only one is ever held in double precision.
        return torch.stack([a.double() @ w + b for a, w, b in zip(acts, weight, bias, strict=True)])

    def validation_step(self, block: dict[str, Tensor]) -> None:
        """Score a block of validation rows."""
        self._score(block, "val")

    def test_step(self, block: dict[str, Tensor]) -> None:
        """Score a block of test rows."""
        self._score(block, "test")

    def on_validation_epoch_end(self) -> None:
        """Gather the validation map and log its summary."""
        self._gather("val")

    def on_test_epoch_end(self) -> None:
        """Gather the test map and log its summary."""
        self._gather("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the card, which holds the shape of the grid."""
        checkpoint["card"] = self.card

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make parameters of the checkpoint's shape."""
        self._shape(checkpoint["card"])

    def _shape(self, card: dict[str, Any]) -> None:
        self.card = card
        shape = (len(card["layers"]), len(card["positions"]))
        self.weight = nn.Parameter(torch.full((*shape, card["width"]), torch.nan))
        self.bias = nn.Parameter(torch.full(shape, torch.nan))
        self.aurocs = nn.ModuleDict({split: GridAUROC(shape[0] * shape[1]) for split in ("val", "test")})

    def _score(self, block: dict[str, Tensor], split: str) -> None:
        scores = self(block["acts"], block["cells"])
        cast(GridAUROC, self.aurocs[split]).update(scores, block["labels"], block["valid"], block["cells"])

    def _gather(self, split: str) -> None:
        metric = cast(GridAUROC, self.aurocs[split])
        result = {name: value.view(self.bias.shape).cpu() for name, value in metric.compute().items()}
        metric.reset()
        self.maps[split] = AUCMap(split, tuple(self.card["layers"]), tuple(self.card["positions"]), **result)
        auc = result["auc"][self.maps[split].readable()]
        if len(auc):
            self.log_dict(
                {f"{split}/auc_best": auc.max(), f"{split}/auc_mean": auc.mean()}, prog_bar=True, sync_dist=True
            )
