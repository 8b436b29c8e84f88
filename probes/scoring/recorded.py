"""Recorded examples of a run, which tell whether a model is still the one that its probes were fitted on."""

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from probes.python.linear_probes import CellProbe, LinearProbes

NAMES = ("prompt_ids", "answer_ids", "thought_ids")


class Recorded(NamedTuple):
    """A few validation examples of one cell.

    Attributes:
        table: their rows of examples.parquet.
        ids: for each its token ids of prompt, answer and thought.
        places: for each the first and last token of the cell's position.
        scores: [n] of the cell, as the run recorded them.
        spread: standard deviation of all its validation scores.
    """

    table: pd.DataFrame
    ids: list[tuple[list[int], list[int], list[int]]]
    places: list[tuple[int, int]]
    scores: Tensor
    spread: float


def choose_recorded(probes: LinearProbes, examples: pd.DataFrame, cell: CellProbe, n: int) -> Recorded:
    """Choose up to n examples that a cell scored, spread over the validation rows.

    Raises:
        ValueError: the run recorded no scores, or they are of other examples.
    """
    if probes.record is None:
        raise ValueError("run: expected scores beside the probes, got none; run again with a larger scores.max_bytes")
    card, k = probes.card, [one.name for one in probes.card.targets].index(cell.target)
    row, column = card.layers.index(cell.layer), card.positions.index(cell.position)
    rows = probes.record.of("val", k)
    scores = rows.scores[row, column]
    held = scores.isfinite().nonzero()[:, 0]
    some = held[torch.linspace(0, len(held) - 1, n).long()].unique()
    if int(rows.examples[some].max()) >= len(examples):
        raise ValueError(
            f"run: expected examples for all of its scores, got {len(examples)} and a score of row "
            f"{int(rows.examples[some].max())}; the files are of different runs, name another"
        )
    table = examples.iloc[rows.examples[some].tolist()]
    ids = [tuple(list(map(int, one)) for one in row) for row in zip(*(table[name] for name in NAMES), strict=True)]
    bounds = zip(table["first_token"], table["last_token"], strict=True)
    places = [(int(first[column]), int(last[column])) for first, last in bounds]
    return Recorded(table, ids, places, scores[some], float(scores[held].std()))  # type: ignore[arg-type]
