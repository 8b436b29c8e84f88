"""Two targets on the same examples: the test rows, layers and positions that both have, in the same order.

The targets may be of two runs, or of one run.
"""

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from datamodules.card import MIN_PER_CLASS
from probes.analysis.scores import Scores


class Side(NamedTuple):
    """One target of a run.

    Attributes:
        scores: of the run.
        examples: its table of examples.
        k: number of the target.
    """

    scores: Scores
    examples: pd.DataFrame
    k: int


class Matched(NamedTuple):
    """The test scores of two targets on m common examples.

    Attributes:
        layers: L block numbers that both have.
        positions: T names that both have.
        scores: [2, L, T, m] float32, NaN where an example lacks the position in either.
        labels: [2, m] uint8: each target has labels of its own.
        groups: [m] int64, equal for examples that are of one group in either.
        n_tested: how many test examples each has, common or not.
    """

    layers: tuple[int, ...]
    positions: tuple[str, ...]
    scores: Tensor
    labels: Tensor
    groups: Tensor
    n_tested: tuple[int, int]


def match(first: Side, second: Side) -> Matched:
    """Bring two targets onto the test examples, layers and positions that both have.

    Examples are the same if they have the same `id` and the same question. Activations from a file have no ids: their
    examples are the same if they have the same row number, in files of equally many rows.

    Raises:
        ValueError: the targets have no test example, no layer or no position in common, or fewer than `MIN_PER_CLASS`
            of a class among the common examples.
    """
    sides = first, second
    layers = tuple(layer for layer in first.scores.card.layers if layer in second.scores.card.layers)
    positions = tuple(name for name in first.scores.card.positions if name in second.scores.card.positions)
    for name, found in (("layer", layers), ("position", positions)):
        if not found:
            have = [", ".join(map(str, getattr(side.scores.card, f"{name}s"))) for side in sides]
            raise ValueError(f"runs: expected a {name} that both have, got {have[0]} and {have[1]}; read one in both")
    rows = [side.scores.of("test", side.k) for side in sides]
    tables = [side.examples.iloc[own.examples.numpy()] for side, own in zip(sides, rows, strict=True)]
    at = _match_rows(tables[0], tables[1], sides)
    if not len(at[0]):
        raise ValueError(
            f"runs: expected test questions that both have, got {len(rows[0].labels):,} and {len(rows[1].labels):,} "
            "and none in both; compare runs with the same dataset and split"
        )
    scores, labels = [], []
    for side, own, chosen in zip(sides, rows, at, strict=True):
        down = [side.scores.card.layers.index(layer) for layer in layers]
        across = [side.scores.card.positions.index(name) for name in positions]
        scores.append(own.scores[down][:, across][..., chosen])
        labels.append(own.labels[chosen])
        counts = labels[-1].long().bincount(minlength=2).tolist()
        if min(counts) < MIN_PER_CLASS:
            names = side.scores.card.classes
            raise ValueError(
                f"runs: expected at least {MIN_PER_CLASS} common test questions of each class, got {counts[0]} "
                f"{names[0]} and {counts[1]} {names[1]}; compare runs with the same dataset and split"
            )
    both = torch.stack(scores)
    both = both.masked_fill(both.isnan().any(0), torch.nan)
    groups = join_groups(rows[0].groups[at[0]], rows[1].groups[at[1]])
    return Matched(layers, positions, both, torch.stack(labels), groups, (len(rows[0].labels), len(rows[1].labels)))


def _match_rows(first: pd.DataFrame, second: pd.DataFrame, sides: tuple[Side, Side]) -> tuple[Tensor, Tensor]:
    """Row numbers in both tables of the examples that are in both, in the order of the first."""
    key = next((name for name in ("id", "row") if name in first and name in second), None)
    if key is None:
        raise ValueError(
            "runs: expected examples that both name alike, by id or by row, got a run of questions and one of "
            "activations from a file; compare runs of one kind"
        )
    sizes = [len(side.examples) for side in sides]
    if key == "row" and sizes[0] != sizes[1]:
        raise ValueError(
            f"runs: expected files of the same examples, got {sizes[0]:,} and {sizes[1]:,} rows; compare runs on the "
            "same rows"
        )
    keys = [key, *(name for name in ("question",) if name in first and name in second)]
    tables = []
    for table, number in ((first, "first"), (second, "second")):
        named = table[keys].astype(str).reset_index(drop=True)  # ids of another type are other ids, not an error
        named["copy"] = named.groupby(keys, dropna=False).cumcount()  # of equal rows the first goes with the first
        tables.append(named.rename_axis(number).reset_index())
    merged = tables[0].merge(tables[1], on=[*keys, "copy"]).sort_values("first")
    return torch.tensor(merged["first"].tolist()).long(), torch.tensor(merged["second"].tolist()).long()


def join_groups(first: Tensor, second: Tensor) -> Tensor:
    """Number the groups [m] that hold together what is one group in either of two groupings [m] of integers.

    >>> join_groups(torch.tensor([0, 0, 1, 2, 3]), torch.tensor([5, 6, 6, 7, 8]))
    tensor([0, 0, 0, 1, 2])
    """
    groupings = [groups.unique(return_inverse=True)[1] for groups in (first, second)]
    joined = torch.arange(len(first))
    while True:  # each example takes the lowest number in its groups, until none changes
        before = joined
        for groups in groupings:
            joined = torch.full_like(joined, len(joined)).scatter_reduce(0, groups, joined, "amin")[groups]
        if torch.equal(before, joined):
            return joined.unique(return_inverse=True)[1]
