"""What every grid of probes shares: its shape, its scores, its AUC maps. Its children do the fitting."""

from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from probes.analysis.auc_map import AUCMap
from probes.grid_auroc import GridAUROC
from probes.solver.inputs import not_finite


class ProbeGrid(pl.LightningModule):
    """One probe for every layer-token cell: linear, unless a child has other parameters and its own `score`.

    The shape of the grid comes from the datamodule's `card`, or from the checkpoint when one is loaded. `weight`
    [L, T, D] and `bias` [L, T] are float32, NaN in cells that could not be fitted. After validation and test, `maps`
    holds an `AUCMap` under `val` and `test`, the same on every rank. `fitted` is what summary.json says about the fit:
    JSON-ready, the same on every rank. `described` is what stands over the map.
    """

    described: str

    def __init__(self) -> None:
        super().__init__()
        self.card: dict[str, Any] = {}
        self.maps: dict[str, AUCMap] = {}
        self.fitted: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Take the shape of the grid from the datamodule."""
        if not self.card:
            self._shape(self.trainer.datamodule.card)  # type: ignore[attr-defined]

    def tensors(self) -> dict[str, Tensor]:
        """What probes.safetensors holds: the tensors [L, T, ..] that `score` takes for one cell, in its order."""
        return {"weight": self.weight, "bias": self.bias}

    @staticmethod
    def score(acts: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Scores [N] of activations [N, D] by the probe of one cell, weight [D] and bias []."""
        return acts @ weight + bias

    def forward(self, acts: Tensor, cells: Tensor) -> Tensor:
        """Score examples: the higher, the likelier the answer is right; above 0 where that is likelier than not.

        Args:
            acts: [C, N, D] of any float dtype.
            cells: [C] int64, `l * T + t`.

        Returns:
            [C, N] float64; NaN in a cell without a probe.
        """
        probes = zip(*(tensor.flatten(0, 1)[cells] for tensor in self.tensors().values()), strict=True)
        # One cell at a time: only one is ever held in double precision.
        return torch.stack(
            [self.score(a.double(), *(part.double() for part in probe)) for a, probe in zip(acts, probes, strict=True)]
        )

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

    def make_parameters(self, L: int, T: int, D: int) -> None:
        """Make `weight` and `bias`; a child with other parameters makes those."""
        self.weight = nn.Parameter(torch.full((L, T, D), torch.nan))
        self.bias = nn.Parameter(torch.full((L, T), torch.nan))

    def _shape(self, card: dict[str, Any]) -> None:
        self.card = card
        L, T = len(card["layers"]), len(card["positions"])
        self.make_parameters(L, T, card["width"])
        self.aurocs = nn.ModuleDict({split: GridAUROC(L * T) for split in ("val", "test")})

    def _score(self, block: dict[str, Tensor], split: str) -> None:
        scores = self(block["acts"], block["cells"])
        finite = scores.isfinite()
        broken = (
            block["valid"] & ~finite & finite.any(-1, keepdim=True)
        ).nonzero()  # a cell without a fit has no score
        if len(broken):
            cell, row = broken[0].tolist()
            layer, position = divmod(int(block["cells"][cell]), len(self.card["positions"]))
            at = f"layer {self.card['layers'][layer]}, position {self.card['positions'][position]}"
            raise not_finite(f"at {at}, row {row} of the {split} split")
        cast(GridAUROC, self.aurocs[split]).update(scores, block["labels"], block["valid"], block["cells"])

    def _gather(self, split: str) -> None:
        metric = cast(GridAUROC, self.aurocs[split])
        layers, positions = tuple(self.card["layers"]), tuple(self.card["positions"])
        result = {name: value.view(len(layers), len(positions)).cpu() for name, value in metric.compute().items()}
        metric.reset()
        self.maps[split] = AUCMap(split, layers, positions, **result)
        auc = result["auc"][self.maps[split].readable()]
        if len(auc):
            self.log_dict(
                {f"{split}/auc_best": auc.max(), f"{split}/auc_mean": auc.mean()}, prog_bar=True, sync_dist=True
            )
