"""Targets: K named label sets on the same activations, each with its own train, val and test rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.card import Count, TargetCard
from datamodules.split import SPLITS, GroupSplit

NO_SPLIT = len(SPLITS)  # split number of an example that a target leaves out


@dataclass(frozen=True, eq=False)
class Targets:
    """K label sets of N examples.

    Attributes:
        names: [K], all different.
        label: [K], what label 1 says; equal for one label set under several splits.
        seeds: [K], of the splits; None where the rows were given.
        labels: [K, N] int64 in {0, 1}.
        splits: [K, N] uint8, which of `SPLITS` an example is in by number, or `NO_SPLIT`.

    Example:
        >>> targets = split_targets(torch.tensor([[0, 1] * 4]), ["correctness"], GroupSplit(0.25, 0.25), range(8))
        >>> [len(targets.rows_of(0, split)) for split in SPLITS]
        [4, 2, 2]
    """

    names: tuple[str, ...]
    label: tuple[str, ...]
    seeds: tuple[int | None, ...]
    labels: Tensor
    splits: Tensor

    def rows(self, split: str) -> np.ndarray:
        """Examples that a split of any target holds, ascending int64."""
        return (self.splits == SPLITS.index(split)).any(0).nonzero()[:, 0].numpy()

    def rows_of(self, k: int, split: str) -> np.ndarray:
        """Examples that a split of one target holds, ascending int64."""
        return (self.splits[k] == SPLITS.index(split)).nonzero()[:, 0].numpy()

    def holds(self, split: str, rows: np.ndarray) -> Tensor:
        """Which of n examples are in a split of each target, [K, n] bool."""
        return self.splits[:, torch.from_numpy(rows)] == SPLITS.index(split)

    def cards(self) -> tuple[TargetCard, ...]:
        """What the card says of each."""
        return tuple(
            TargetCard(
                name,
                label,
                seed,
                {split: self._count(k, number) for number, split in enumerate(SPLITS)},
            )
            for k, (name, label, seed) in enumerate(zip(self.names, self.label, self.seeds, strict=True))
        )

    def _count(self, k: int, split: int) -> Count:
        here = self.splits[k] == split
        return Count(int(here.sum()), int(self.labels[k, here].sum()))


def split_targets(
    labels: Tensor,
    names: Sequence[str],
    split: GroupSplit,
    groups: Sequence[Any],
    given: Sequence[str] | None = None,
) -> Targets:
    """Split every label set with every seed of a split.

    Args:
        labels: [M, N] int64 in {0, 1}, the label sets.
        names: [M], what their label 1 says.
        split: assigns groups to train, val and test, once for each of its seeds.
        groups: [N].
        given: [N] split that an example belongs to by its source; see `GroupSplit`.

    Returns:
        K targets, M times the number of seeds, the seeds varying fastest. With one seed the names stay as they are.

    Raises:
        ValueError: what `GroupSplit` raises.

    Example:
        >>> labels = torch.tensor([[0, 1] * 4])
        >>> split_targets(labels, ["correctness"], GroupSplit(0.25, 0.25, seed=[0, 5]), range(8)).names
        ('correctness, seed 0', 'correctness, seed 5')
    """
    seeds = split.seeds
    parts = torch.full((len(names) * len(seeds), labels.shape[1]), NO_SPLIT, dtype=torch.uint8)
    targets = []
    for label, row in zip(names, labels, strict=True):
        for seed in seeds:
            for number, rows in enumerate(split(groups, row.tolist(), given, seed).values()):
                parts[len(targets), torch.from_numpy(rows)] = number
            targets.append((label if len(seeds) == 1 else f"{label}, seed {seed}", label, seed))
    full, label, given_seeds = zip(*targets, strict=True)
    return Targets(full, label, given_seeds, labels.repeat_interleave(len(seeds), 0), parts)
