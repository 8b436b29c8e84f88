"""Summarises an AUC map as numbers: the best cells, the dominant block, the best layer of every position.

Pure functions of the map. All results are JSON-ready: None means that a number does not exist.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from probes.analysis.auc_map import AUCMap
from probes.analysis.block import Block, find_block

N_BEST = 5


def read_map(
    auc_map: AUCMap,
    coincidence: Sequence[Sequence[float | None]] | None = None,
    n_valid: Sequence[int] | None = None,
    chance: float | None = None,
    spread: float | None = None,
    val: AUCMap | None = None,
) -> dict[str, Any]:
    """Summarise a map. Cells are ranked by validation AUC where there is a validation map.

    Unreadable cells (``AUCMap.readable``) are excluded from all numbers below.

    Args:
        auc_map: the map, ``[L, T]``.
        coincidence: ``[T, T]``, the share of the examples having both positions in which the two are one token; None
            where no example has both.
        n_valid: T counts, how many examples have the position.
        chance: AUC that the best cell of a map without signal stays below, if known; a block is above it.
        spread: see `find_block`.
        val: the validation map of the same probes, which ranks the cells.

    Returns:
        split, n_cells (L * T) and n_readable; spread, what auc_se is (see `AUCMap`);
        chosen_on: the split that ranks the cells, ``val``; that of the map itself if the validation map has no readable
            cell, and then the best of many cells is biased upwards by chance;
        best_cells: the five best cells, each layer, position, auc, auc_se, n, n_positive, and val_auc, None without
            validation;
        rectangle: the dominant block of `find_block`: layers [a, b] and positions [x, y], both ends included;
            threshold; n_cells and n_readable of them; share: n_readable over the readable cells of the map;
            mean_inside and mean_outside: mean AUC of the readable cells in it and of the others. None where no block
            stands out;
        best_layers: for every position n_valid, and its best cell's layer, auc, auc_se, n, n_positive, val_auc, or None
            for each;
        coincidences: pairs of positions that share a token in some example, largest share first; None if unknown. Two
            columns with share 1 are identical.

    Raises:
        ValueError: coincidence is not ``[T, T]`` or n_valid not ``[T]``.

    Example:
        >>> auc, n = torch.tensor([[0.5], [0.75]]), torch.full((2, 1), 40)
        >>> auc_map = AUCMap("correctness", "test", (0, 4), ("last",), auc, auc / 4, n, n // 2)
        >>> read_map(auc_map)["best_cells"][0]
        {'position': 'last', 'layer': 4, 'auc': 0.75, 'auc_se': 0.1875, 'n': 40, 'n_positive': 20, 'val_auc': None}
    """
    T = len(auc_map.positions)
    if coincidence is not None and [len(row) for row in coincidence] != [T] * T:
        raise ValueError(f"coincidence must be [{T}, {T}], a row and a column for each position of the map")
    if n_valid is not None and len(n_valid) != T:
        raise ValueError(f"n_valid must have {T} counts, one for each position of the map, got {len(n_valid)}")

    readable = auc_map.readable()
    ranked, by = readable, auc_map
    if val is not None and (both := readable & val.readable()).any():
        ranked, by = both, val
    cells = sorted(ranked.nonzero().tolist(), key=lambda cell: -float(by.auc[tuple(cell)]))  # ties stay in map order
    best_row: dict[int, int] = {}
    for row, column in cells:
        best_row.setdefault(column, row)

    return {
        "split": auc_map.split,
        "spread": auc_map.spread,
        "n_cells": readable.numel(),
        "n_readable": int(readable.sum()),
        "chosen_on": by.split,
        "best_cells": [
            {"position": auc_map.positions[column], **_numbers(auc_map, row, column, val)}
            for row, column in cells[:N_BEST]
        ],
        "rectangle": _describe_block(auc_map, find_block(auc_map, chance, spread)),
        "best_layers": [
            {
                "position": position,
                "n_valid": None if n_valid is None else n_valid[column],
                **_numbers(auc_map, best_row.get(column), column, val),
            }
            for column, position in enumerate(auc_map.positions)
        ],
        "coincidences": None if coincidence is None else _coincidences(auc_map.positions, coincidence),
    }


def _describe_block(auc_map: AUCMap, block: Block | None) -> dict[str, Any] | None:
    """The dominant block by name: see `read_map`."""
    return block and {
        "layers": [auc_map.layers[block.top], auc_map.layers[block.bottom]],
        "positions": [auc_map.positions[block.left], auc_map.positions[block.right]],
        "threshold": block.threshold,
        "n_cells": block.n_cells,
        "n_readable": block.n_readable,
        "share": block.share,
        "mean_inside": block.mean_inside,
        "mean_outside": block.mean_outside,
    }


def _numbers(auc_map: AUCMap, row: int | None, column: int, val: AUCMap | None) -> dict[str, Any]:
    """Layer, auc, auc_se, n, n_positive and val_auc of a cell; None for each where there is no such row."""
    if row is None:
        return dict.fromkeys(("layer", "auc", "auc_se", "n", "n_positive", "val_auc"))
    cell = row, column
    return {
        "layer": auc_map.layers[row],
        "auc": finite(auc_map.auc[cell]),
        "auc_se": finite(auc_map.auc_se[cell]),
        "n": int(auc_map.n[cell]),
        "n_positive": int(auc_map.n_positive[cell]),
        "val_auc": val and finite(val.auc[cell]),
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


def finite(value: torch.Tensor | float) -> float | None:
    """A Python float, or None for NaN and infinity, which JSON does not have.

    >>> finite(torch.tensor(0.5)), finite(torch.nan)
    (0.5, None)
    """
    number = float(value)
    return number if math.isfinite(number) else None


def nested(tensor: torch.Tensor) -> Any:
    """A tensor as nested lists of numbers, None for what JSON does not have.

    >>> nested(torch.tensor([[0.5, torch.nan]]))
    [[0.5, None]]
    """
    return [nested(part) for part in tensor] if tensor.ndim else finite(tensor)
