"""The best epoch of a fit so far, in memory and in a checkpoint."""

from typing import Any, NamedTuple

from torch import Tensor

from datamodules.card import Card
from probes.analysis.auc_map import AUCMap

TENSORS = ("auc", "auc_se", "n", "n_positive")  # of a map; the card names the rest


class BestEpoch(NamedTuple):
    """The epoch with the highest mean validation AUC: that AUC, its number from 0, its maps, its parameters."""

    mean_auc: float
    epoch: int
    val: list[AUCMap]
    parameters: dict[str, Tensor]

    def to_checkpoint(self) -> dict[str, Any]:
        """Plain numbers and tensors, which `from_checkpoint` reads."""
        return self._asdict() | {"val": [{name: getattr(one, name) for name in TENSORS} for one in self.val]}

    @classmethod
    def from_checkpoint(cls, saved: dict[str, Any], card: Card) -> "BestEpoch":
        """Read what `to_checkpoint` has written of a fit on the grid of a card.

        Raises:
            ValueError: maps of another shape, or values of another kind.
        """
        K, L, T, _ = card.shape
        try:
            shapes = {tuple(one[name].shape) for one in saved["val"] for name in TENSORS}
            names = {*(name for one in saved["val"] for name in one)}
            fits = (shapes, names, len(saved["val"])) == ({(L, T)}, {*TENSORS}, K)
            fits &= type(saved["mean_auc"]) is float and type(saved["epoch"]) is int
            fits &= all(isinstance(part, Tensor) for part in saved["parameters"].values())
        except (TypeError, LookupError, AttributeError):
            fits = False
        if not fits:
            raise ValueError(
                "ckpt_path: expected a checkpoint whose best epoch has the layers, positions and targets of its card, "
                "got another; take one of another epoch"
            )
        val = [
            AUCMap(target.name, "val", card.layers, card.positions, **one)
            for target, one in zip(card.targets, saved["val"], strict=True)
        ]
        return cls(saved["mean_auc"], saved["epoch"], val, saved["parameters"])
