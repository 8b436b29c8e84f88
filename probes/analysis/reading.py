"""Summarises an AUC map as numbers: the best cells, the dark rectangle, the best layer of every position.

Pure functions of the map. All results are JSON-ready: None means that a number does not exist.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probes.analysis.auc_map import AUCMap

N_BEST = 5


def read_map(
    auc_map: AUCMap,
    coincidence: Sequence[Sequence[float | None]] | None = None,
    n_valid: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Summarise a map. Unreadable cells (``AUCMap.readable``) are excluded from all numbers below.

    Args:
        auc_map: the map, ``[L, T]``.
        coincidence: ``[T, T]``, the share of the examples having both positions in which the two are one token; None
            where no example has both.
        n_valid: T counts, how many examples have the position.

    Returns:
        split, n_cells (L * T) and n_readable; spread, what auc_se is (see `AUCMap`);
        best_cells: the five cells of highest AUC, each layer, position, auc, auc_se, n. The best of many cells is
            biased upwards by chance;
        rectangle: see ``_rectangle``; None where all readable cells have the same AUC;
        best_layers: for every position n_valid, and its best cell's layer, auc, auc_se, n, or None four times;
        coincidences: pairs of positions that share a token in some example, largest share first; None if unknown. Two
            columns with share 1 are identical.

    Raises:
        ValueError: coincidence is not ``[T, T]`` or n_valid not ``[T]``.

    Example:
        >>> auc, n = torch.tensor([[0.5], [0.75]]), torch.full((2, 1), 40)
        >>> auc_map = AUCMap("correctness", "test", (0, 4), ("last",), auc, auc / 4, n, n // 2)
        >>> read_map(auc_map)["best_cells"][0]
        {'position': 'last', 'layer': 4, 'auc': 0.75, 'auc_se': 0.1875, 'n': 40}
    """
    T = len(auc_map.positions)
    if coincidence is not None and [len(row) for row in coincidence] != [T] * T:
        raise ValueError(f"coincidence must be [{T}, {T}], a row and a column for each position of the map")
    if n_valid is not None and len(n_valid) != T:
        raise ValueError(f"n_valid must have {T} counts, one for each position of the map, got {len(n_valid)}")

    readable = auc_map.readable()
    cells = sorted(
        readable.nonzero().tolist(), key=lambda cell: -float(auc_map.auc[tuple(cell)])
    )  # ties stay in map order
    best_row: dict[int, int] = {}
    for row, column in cells:
        best_row.setdefault(column, row)

    return {
        "split": auc_map.split,
        "spread": auc_map.spread,
        "n_cells": readable.numel(),
        "n_readable": len(cells),
        "best_cells": [
            {"position": auc_map.positions[column], **_numbers(auc_map, row, column)} for row, column in cells[:N_BEST]
        ],
        "rectangle": _rectangle(auc_map, readable),
        "best_layers": [
            {
                "position": position,
                "n_valid": None if n_valid is None else n_valid[column],
                **_numbers(auc_map, best_row.get(column), column),
            }
            for column, position in enumerate(auc_map.positions)
        ],
        "coincidences": None if coincidence is None else _coincidences(auc_map.positions, coincidence),
    }


def dominant_rectangle(weights: Tensor) -> tuple[int, int, int, int] | None:
    """The rectangle of adjacent rows and columns with the largest sum, exactly.

    Kadane's maximum subarray over the column sums of every pair of rows: O(L^2 T). Of equal sums the one with the
    fewest cells, then the first, so that it does not spread over weights of zero.

    Args:
        weights: ``[L, T]``, finite.

    Returns:
        (top, bottom, left, right), both ends included; None where no sum is positive.

    Example:
        >>> dominant_rectangle(torch.tensor([[-1.0, 2.0], [-1.0, 3.0]]))
        (0, 1, 1, 1)
    """
    rows = weights.tolist()
    best, found = (0.0, 0), None
    for top in range(len(rows)):
        columns = [0.0] * len(rows[top])
        for bottom in range(top, len(rows)):
            columns = [total + weight for total, weight in zip(columns, rows[bottom], strict=True)]
            total, left = 0.0, 0
            for right, column in enumerate(columns):
                if total <= 0:  # a run that adds nothing is dropped, also when it costs nothing
                    total, left = 0.0, right
                total += column
                candidate = (total, -(bottom - top + 1) * (right - left + 1))
                if candidate > best:
                    best, found = candidate, (top, bottom, left, right)
    return found


def _rectangle(auc_map: AUCMap, readable: Tensor) -> dict[str, Any] | None:
    """The dominant rectangle: layers a to b and positions x to y with the largest sum of AUC - midpoint.

    The midpoint is halfway between the lowest and the highest readable AUC; an unreadable cell has weight 0, so it
    neither favours nor prevents a rectangle. Rows and columns are adjacent in the map, not in the model.

    Returns:
        layers [a, b], positions [x, y], both ends included; midpoint; n_cells in the rectangle and n_readable of them;
        share: n_readable over the readable cells of the map, so 1 is the whole readable map; mean_inside and
        mean_outside: mean AUC of the readable cells on either side, None where there is none outside.
    """
    if not readable.any():
        return None
    auc = auc_map.auc
    midpoint = (auc[readable].min() + auc[readable].max()) / 2
    found = dominant_rectangle(torch.where(readable, auc - midpoint, 0.0))
    if found is None:
        return None
    top, bottom, left, right = found
    box = torch.zeros_like(readable)
    box[top : bottom + 1, left : right + 1] = True
    inside, outside = readable & box, readable & ~box
    return {
        "layers": [auc_map.layers[top], auc_map.layers[bottom]],
        "positions": [auc_map.positions[left], auc_map.positions[right]],
        "midpoint": float(midpoint),
        "n_cells": int(box.sum()),
        "n_readable": int(inside.sum()),
        "share": int(inside.sum()) / int(readable.sum()),
        "mean_inside": finite(auc[inside].mean()),
        "mean_outside": finite(auc[outside].mean()),
    }


def _numbers(auc_map: AUCMap, row: int | None, column: int) -> dict[str, Any]:
    """Layer, auc, auc_se and n of a cell; None four times where there is no such row."""
    if row is None:
        return dict.fromkeys(("layer", "auc", "auc_se", "n"))
    cell = row, column
    return {
        "layer": auc_map.layers[row],
        "auc": finite(auc_map.auc[cell]),
        "auc_se": finite(auc_map.auc_se[cell]),
        "n": int(auc_map.n[cell]),
    }


def _coincidences(positions: Sequence[str], shares: Sequence[Sequence[float | None]]) -> list[dict[str, Any]]:
    """Every pair of positions, once, whose share is above 0; largest first, ties in column order."""
    pairs = [
        {"positions": [positions[first], positions[second]], "share": share}
        for first in range(len(positions))
        for second in range(first + 1, len(positions))
        if (share := shares[first][second]) and share > 0
    ]
    return sorted(pairs, key=lambda pair: -pair["share"])


def finite(value: Tensor | float) -> float | None:
    """A Python float, or None for NaN and infinity, which JSON does not have.

    >>> finite(torch.tensor(0.5)), finite(torch.nan)
    (0.5, None)
    """
    number = float(value)
    return number if math.isfinite(number) else None


def nested(tensor: Tensor) -> Any:
    """A tensor as nested lists of numbers, None for what JSON does not have.

    >>> nested(torch.tensor([[0.5, torch.nan]]))
    [[0.5, None]]
    """
    return [nested(part) for part in tensor] if tensor.ndim else finite(tensor)
