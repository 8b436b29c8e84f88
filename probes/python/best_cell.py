"""The best cell of each target of probes that were taken away: by their record, or by their AUCs alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from datamodules.card import Card, Count
from probes.analysis.auc_map import AUCMap, Choice, choose_cell
from probes.analysis.scores import Scores


class BestCell(NamedTuple):
    """The best cell, and the maps that say so.

    Attributes:
        choice: None where no cell has enough examples of both classes.
        test, val: the maps; None where these rows were not scored.
    """

    choice: Choice | None
    test: AUCMap | None
    val: AUCMap | None


def find_best(card: Card, record: Scores | None, auc: Mapping[str, Any], k: int) -> BestCell:
    """Choose the best cell of target k by `choose_cell`.

    Args:
        card: of the probes.
        record: out-of-sample scores; None where there are none.
        auc: for each split that was scored, [K][L][T], for probes without a record.
        k: number of the target.

    Example:
        >>> find_best(card, None, {"val": [[[0.6], [0.8]]]}, k=0).choice  # doctest: +SKIP
        Choice(row=1, column=0, on='val')
    """
    test, val = (_map(card, record, auc, split, k) for split in ("test", "val"))
    reported = test or val
    return BestCell(None if reported is None else choose_cell(reported, val), test, val)


def _map(card: Card, record: Scores | None, auc: Mapping[str, Any], split: str, k: int) -> AUCMap | None:
    """The map of a split: of the record, or of the AUCs alone with the counts of the card."""
    if record is not None:
        maps = record.maps(split)
        one = maps[min(k, len(maps) - 1)]
        return one if int(one.n.max()) else None
    if split not in auc:
        return None
    count = card.targets[k].counts.get(split, Count(0, 0))
    cells = torch.tensor(
        [[torch.nan if one is None else one for one in row] for row in auc[split][k]], dtype=torch.float64
    )
    n, n_positive = (torch.full(cells.shape, number) for number in (count.n, count.n_positive))
    return AUCMap(card.targets[k].name, split, card.layers, card.positions, cells, cells * torch.nan, n, n_positive)
