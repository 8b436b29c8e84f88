"""Differences between two targets on the same examples: the map, its columns, and cells or columns that are named."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.card import MIN_PER_CLASS
from probes.analysis.clusters import Areas, measure_areas
from probes.analysis.matching import Matched
from probes.analysis.paired import Comparison, compare


@dataclass(frozen=True, eq=False)
class DifferenceMap:
    """The AUC map of one target less that of another, on the same examples.

    Attributes:
        matched: what was compared.
        auc: [2, L, T] float64, NaN in cells that are not readable in both.
        n: [L, T] examples of each cell, the same for both.
        n_positive: [2, L, T].
        cells: the difference in every cell; its limits hold all cells at once.
        columns: [T], difference of the mean over the readable layers of each position; NaN where there is none.
        mean: difference of the mean over all readable cells.
    """

    matched: Matched
    auc: Tensor
    n: Tensor
    n_positive: Tensor
    cells: Comparison
    columns: Comparison
    mean: Comparison

    @property
    def readable(self) -> Tensor:
        """Cells that have an AUC in both, bool [L, T]."""
        return self.auc.isfinite().all(0)

    @property
    def above(self) -> Tensor:
        """Cells where the first has the higher AUC by the limits of all cells, bool [L, T]."""
        return self.cells.lower > 0

    @property
    def below(self) -> Tensor:
        """Cells where the first has the lower AUC by the limits of all cells, bool [L, T]."""
        return self.cells.upper < 0


def subtract_maps(matched: Matched) -> DifferenceMap:
    """The map of the first target less that of the second, each cell on the examples that both have there.

    Raises:
        ValueError: no cell has enough examples of each class in both.
    """
    valid = ~matched.scores[0].isnan()
    n = valid.sum(-1)
    n_positive = torch.stack([(valid & (labels == 1)).sum(-1) for labels in matched.labels])
    readable = (torch.minimum(n_positive, n - n_positive) >= MIN_PER_CLASS).all(0)
    if not readable.any():
        raise ValueError(
            f"runs: expected a cell with {MIN_PER_CLASS} common test questions of each class, got at most "
            f"{int(torch.minimum(n_positive, n - n_positive).amin(0).max())}; compare runs with more common questions"
        )
    valid &= readable[..., None]
    first, second = (
        measure_areas(scores, labels, valid, matched.groups)
        for scores, labels in zip(matched.scores, matched.labels, strict=True)
    )
    columns = [
        stack_areas([side.at((chosen, column)).average(0) for column, chosen in enumerate(readable.T)])
        for side in (first, second)
    ]
    means = [side.at(readable).average(0) for side in (first, second)]
    return DifferenceMap(
        matched,
        torch.stack([first.auc, second.auc]),
        n,
        n_positive,
        compare(first, second),
        compare(columns[0], columns[1]),
        compare(means[0], means[1]),
    )


class Part(NamedTuple):
    """Cells of a map whose mean AUC is compared: a single one, or those of a column.

    Attributes:
        name: as people wrote it.
        scores: [C, m] float32, NaN where an example lacks the position.
        labels: [m].
    """

    name: str
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class PairedParts:
    """Differences of P pairs of parts.

    Attributes:
        names: of both parts of each pair.
        auc: [2, P] float64.
        n: [P] examples of each pair.
        found: the differences; p-values by Holm and limits are for all pairs.
    """

    names: tuple[tuple[str, str], ...]
    auc: Tensor
    n: Tensor
    found: Comparison


def compare_parts(pairs: Sequence[tuple[Part, Part]], groups: Tensor) -> PairedParts:
    """Compare the parts of each pair on the examples that have all cells of both.

    Layers without any score in one of the two, as where probes could not be fitted, are left out of both.

    Args:
        pairs: P of them, at least one, on the same m examples; the parts of a pair have as many cells each.
        groups: [m] integers.

    Raises:
        ValueError: a pair has fewer than `MIN_PER_CLASS` examples of a class.
    """
    sides: tuple[list[Areas], list[Areas]] = ([], [])
    counts = []
    for pair in pairs:
        scored = torch.stack([~part.scores.isnan() for part in pair])
        kept = scored.any(-1).all(0)
        valid = scored[:, kept].flatten(0, 1).all(0)
        fewest = min(int((valid & (part.labels == value)).sum()) for part in pair for value in (0, 1))
        if fewest < MIN_PER_CLASS or not kept.any():
            raise ValueError(
                f"cells, columns: expected at least {MIN_PER_CLASS} examples of each class with {pair[0].name} and "
                f"{pair[1].name}, got {fewest if kept.any() else 0}; compare others"
            )
        counts.append(int(valid.sum()))
        for side, part in zip(sides, pair, strict=True):
            side.append(measure_areas(part.scores[kept], part.labels, valid, groups).average(0))
    first, second = (stack_areas(side) for side in sides)
    names = tuple((one.name, other.name) for one, other in pairs)
    return PairedParts(names, torch.stack([first.auc, second.auc]), torch.tensor(counts), compare(first, second))


def stack_areas(parts: Sequence[Areas]) -> Areas:
    """Areas of the same groups as one, along a new first axis; its freedom is the lowest of the finite ones."""
    freedom = [part.freedom for part in parts if part.freedom == part.freedom]
    return Areas(
        torch.stack([part.auc for part in parts]),
        torch.stack([part.influence for part in parts]),
        min(freedom, default=0.0),
    )
