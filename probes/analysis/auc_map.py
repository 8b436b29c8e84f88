"""The AUC map: the result of the probes, one cell per layer and token position. It does not fit or draw."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from datamodules.card import MIN_PER_CLASS, Card


@dataclass(frozen=True, eq=False)
class AUCMap:
    """How well every cell ranks the right answers above the wrong ones, on one split.

    Args:
        target: name of the label set.
        split: name of the rows the AUC was measured on, e.g. ``"val"``.
        layers: L block numbers, 0-based, in row order.
        positions: T position names, in column order.
        auc: float64 ``[L, T]`` on the CPU, in [0, 1]; NaN where a cell could not be fitted or scored.
        auc_se: float64 ``[L, T]``, the spread of ``auc``; NaN likewise.
        n: int64 ``[L, T]``, examples scored in the cell.
        n_positive: int64 ``[L, T]``, how many of those have label 1.
        spread: what ``auc_se`` is: ``SE``, the standard error, or ``SD``, the standard deviation over several splits.

    Raises:
        ValueError: a tensor is not ``[L, T]``.

    Example:
        >>> auc, n = torch.full((2, 1), 0.75), torch.full((2, 1), 40)
        >>> AUCMap("correctness", "test", (0, 4), ("last",), auc, auc / 10, n, n // 2).readable().tolist()
        [[True], [True]]
    """

    target: str
    split: str
    layers: tuple[int, ...]
    positions: tuple[str, ...]
    auc: Tensor
    auc_se: Tensor
    n: Tensor
    n_positive: Tensor
    spread: str = "SE"

    def __post_init__(self) -> None:
        expected = (len(self.layers), len(self.positions))
        for name in ("auc", "auc_se", "n", "n_positive"):
            if (got := tuple(getattr(self, name).shape)) != expected:
                raise ValueError(f"{name} must be [layers, positions] = {list(expected)}, got {list(got)}")

    def readable(self) -> Tensor:
        """Return which cells have a usable AUC, bool ``[L, T]``: finite, with `MIN_PER_CLASS` examples of each class.

        With a handful of examples of one class an AUC takes only a few values and its standard error means nothing.
        """
        n_negative = self.n - self.n_positive
        return self.auc.isfinite() & (self.n_positive >= MIN_PER_CLASS) & (n_negative >= MIN_PER_CLASS)

    def table(self) -> pd.DataFrame:
        """Long form, L * T rows, layer by layer: ``target, split, layer, position, auc, auc_se, n, n_positive``."""
        return pd.DataFrame(
            {
                "target": [self.target] * self.auc.numel(),
                "split": [self.split] * self.auc.numel(),
                "layer": [layer for layer in self.layers for _ in self.positions],
                "position": list(self.positions) * len(self.layers),
                "auc": self.auc.flatten().numpy(),
                f"auc_{self.spread.lower()}": self.auc_se.flatten().numpy(),
                "n": self.n.flatten().numpy(),
                "n_positive": self.n_positive.flatten().numpy(),
            }
        )


def average_maps(maps: Sequence[AUCMap], target: str) -> AUCMap:
    """Mean and standard deviation of the maps of one label set under several splits.

    Args:
        maps: K of them, of one grid.
        target: name of the mean.

    Returns:
        A map whose `auc` is the mean and whose `auc_se` is the sample standard deviation (`spread` is `SD`), both NaN
        in a cell that is unreadable in any of the maps. Its counts are the smallest of any.

    Example:
        >>> auc, n = torch.full((2, 1), 0.75), torch.full((2, 1), 40)
        >>> one = AUCMap("correctness, seed 0", "test", (0, 4), ("last",), auc, auc / 10, n, n // 2)
        >>> average_maps([one, one], "correctness, mean of 2 splits").spread
        'SD'
    """
    auc = torch.stack([one.auc for one in maps])
    readable = torch.stack([one.readable() for one in maps]).all(0)
    n_positive = torch.stack([one.n_positive for one in maps]).amin(0)
    return replace(
        maps[0],
        target=target,
        auc=auc.mean(0).where(readable, torch.nan),
        auc_se=auc.std(0).where(readable, torch.nan),
        n=torch.stack([one.n for one in maps]).amin(0),
        n_positive=n_positive,
        spread="SD",
    )


class Choice(NamedTuple):
    """One cell of a map.

    Attributes:
        row: of the map, counted from 0.
        column: likewise.
        on: the split whose AUC was the highest there.
    """

    row: int
    column: int
    on: str

    @property
    def cell(self) -> tuple[int, int]:
        """Index into a tensor [L, T]."""
        return self.row, self.column


def choose_cell(test: AUCMap, val: AUCMap | None = None) -> Choice | None:
    """Choose the best cell by its validation AUC, so that its test AUC is not too high by luck.

    Args:
        test: the map that the cell is reported on.
        val: of the same grid and probes.

    Returns:
        The cell with the highest validation AUC among those readable in both maps; of equals the first. Without such a
        cell, as where there are no validation rows, the one with the highest test AUC: its AUC is then optimistic, and
        `on` says so. None if no cell of the test map is readable.

    Example:
        >>> n = torch.full((2, 1), 40)
        >>> val, test = (AUCMap("correctness", split, (0, 4), ("last",), torch.tensor(auc)[:, None], n / 999, n, n // 2)
        ...     for split, auc in (("val", [0.6, 0.8]), ("test", [0.7, 0.6])))
        >>> choose_cell(test, val)
        Choice(row=1, column=0, on='val')
    """
    readable = test.readable()
    both = readable & val.readable() if val is not None else torch.zeros_like(readable)
    chosen_by, allowed = (val, both) if val is not None and both.any() else (test, readable)
    if not allowed.any():
        return None
    cell = int(chosen_by.auc.where(allowed, -torch.inf).argmax())
    return Choice(*divmod(cell, len(test.positions)), chosen_by.split)


def headline(maps: Sequence[AUCMap], card: Card) -> list[AUCMap]:
    """Return the maps to read and draw: one for each label set, the mean of its maps if it has several splits."""
    of: dict[str, list[AUCMap]] = {}
    for one, target in zip(maps, card.targets, strict=True):
        of.setdefault(target.label, []).append(one)
    return [
        group[0] if len(group) == 1 else average_maps(group, f"{label}, mean of {len(group)} splits")
        for label, group in of.items()
    ]
