"""The recorded scores of a cell: what its threshold and its probabilities are made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.card import Card, show_text
from probes.analysis.scores import SCORES, Rows, Scores, require_split
from probes.python.cell_probe import CellProbe

CellRows = tuple[Tensor, Tensor, Tensor]


def read_rows(card: Card, record: Scores | None, split: str, cell: CellProbe) -> CellRows:
    """Scores [n], labels [n] and groups [n] of the examples of a split that have the position of the cell.

    Args:
        card: of the probes.
        record: of their scores; None where the run kept none.
        split: val or test.
        cell: of these probes.

    Raises:
        ValueError: no record, another split, or a cell of other probes.

    Example:
        >>> scores, labels, groups = read_rows(probes.card, probes.record, "val", probes.best())  # doctest: +SKIP
    """
    require_split(split)
    if not isinstance(cell, CellProbe):
        raise ValueError(f"cell: expected a CellProbe, got {cell!r}; take probes.cell(layer, position)")
    k = find_names([one.name for one in card.targets], [cell.target], "target")[0]
    if record is None:
        raise ValueError(
            f"expected {SCORES} beside the probes, got none; load the run folder, or run again with a larger "
            "scores.max_bytes"
        )
    rows: Rows = record.of(split, min(k, len(record.part) - 1))
    (row,) = find_names(card.layers, [cell.layer], "layer")
    (column,) = find_names(card.positions, [cell.position], "position")
    scores = rows.scores[row, column]
    held = scores.isfinite()
    return scores[held], rows.labels[held], rows.groups[held]


def require_rows(rows: CellRows) -> CellRows:
    """Raise ValueError where there are no validation rows, which choose thresholds; return them otherwise."""
    if not len(rows[0]):
        raise ValueError("expected validation rows with a score in this cell, got none; fit with val above 0")
    return rows


def require_own(card: Card, record: Scores, folder: Path) -> Scores:
    """Raise ValueError where a record is not of these probes, but of another run; return it otherwise.

    Args:
        card: of the probes.
        record: read beside them; of the data that they scored, which may be others than those they were fitted on.
        folder: that holds both.
    """
    (K, *own), (n_targets, *other) = card.shape, record.card.shape
    same_names = (card.layers, card.positions) == (record.card.layers, record.card.positions)
    if own == other and same_names and (n_targets == K or 1 in (K, n_targets)):
        return record
    raise ValueError(
        f"run: expected scores of the {K} x {' x '.join(map(str, own))} probes (targets, layers, positions, width) in "
        f"{show_text(str(folder))[:200]}, got those of {n_targets} x {' x '.join(map(str, other))}"
        f"{'' if same_names else ' of other layers or positions'}; the files are of different runs, take those of one"
    )


def find_names(known: Sequence[Any], wanted: Sequence[Any], what: str) -> list[int]:
    """Where names stand among the known ones.

    >>> find_names((0, 4, 8), [8, 0], "layers")
    [2, 0]
    """
    if missing := [one for one in wanted if one not in known]:
        alike = {str(one) for one in known} & {str(one) for one in missing}  # "0" is no 0: quotes show it
        got = ", ".join(repr(one) if alike else str(one) for one in missing)
        amount = "one" if len(wanted) == 1 else "some"
        raise ValueError(f"{what}: expected {amount} of {', '.join(map(str, known))}, got {got}; choose among these")
    return [known.index(one) for one in wanted]
