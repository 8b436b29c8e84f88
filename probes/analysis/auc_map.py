"""The AUC map: what the probes found, one cell per layer and token position. It neither fits nor draws."""

from dataclasses import dataclass

import pandas as pd
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AUCMap:
    """How well every cell ranks the right answers above the wrong ones, on one split.

    Args:
        split: name of the rows the AUC was measured on, e.g. ``"val"``.
        layers: L block numbers, 0-based, in row order.
        positions: T position names, in column order.
        auc: float64 ``[L, T]`` on the CPU, in [0, 1]; NaN where a cell could not be fitted or scored.
        auc_se: float64 ``[L, T]``, standard error of ``auc``; NaN likewise.
        n: int64 ``[L, T]``, examples scored in the cell.
        n_positive: int64 ``[L, T]``, how many of those have label 1.

    Raises:
        ValueError: a tensor is not ``[L, T]``.
    """

    split: str
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    auc: Tensor
    auc_se: Tensor
    n: Tensor
    n_positive: Tensor

    def __post_init__(self) -> None:
        expected = (len(self.layers), len(self.positions))
        for name in ("auc", "auc_se", "n", "n_positive"):
            if (got := tuple(getattr(self, name).shape)) != expected:
                raise ValueError(f"{name} must be [layers, positions] = {list(expected)}, got {list(got)}")

    def readable(self, min_per_class: int = 10) -> Tensor:
        """Cells whose AUC can be trusted at all, bool ``[L, T]``: finite, and with ``min_per_class`` of either class.

        With a handful of examples of one class an AUC takes only a few values and its standard error means nothing.
        """
        n_negative = self.n - self.n_positive
        return self.auc.isfinite() & (self.n_positive >= min_per_class) & (n_negative >= min_per_class)

    def table(self) -> pd.DataFrame:
        """Long form, L * T rows, layer by layer: ``split, layer, position, auc, auc_se, n, n_positive``."""
        return pd.DataFrame(
            {
                "split": [self.split] * self.auc.numel(),
                "layer": [layer for layer in self.layers for _ in self.positions],
                "position": list(self.positions) * len(self.layers),
                "auc": self.auc.flatten().numpy(),
                "auc_se": self.auc_se.flatten().numpy(),
                "n": self.n.flatten().numpy(),
                "n_positive": self.n_positive.flatten().numpy(),
            }
        )
