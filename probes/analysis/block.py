"""Finds the dominant block of a map: the layers and neighbouring tokens that stand out as one dark rectangle."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor

from probes.analysis.auc_map import AUCMap

# Names in the order of the text. Between two runs lies text of unknown length, or none.
RUNS = (
    ("last_q", "first_answer", "second_answer"),
    ("exact_answer_before_first", "exact_answer_first", "exact_answer_last", "exact_answer_after_last"),
)
LEVEL = 0.05  # of a block in a map of noise
SAME = 1e-12  # AUC of equal cells and their mean differ by rounding


@dataclass(frozen=True)
class Block:
    """The dominant block of a map, as rows and columns of the map, both ends included.

    Attributes:
        top, bottom: rows, bottom >= top.
        left, right: columns, right >= left.
        threshold: AUC at which a cell neither adds to a block nor takes from it.
        n_cells: cells in the block.
        n_readable: readable cells in it.
        share: n_readable over the readable cells of the map, in (0, 1).
        mean_inside, mean_outside: mean AUC of the readable cells in the block, and of the others.

    Example:
        >>> Block(9, 29, 4, 5, .84, 42, 42, .09, .88, .77).left
        4
    """

    top: int
    bottom: int
    left: int
    right: int
    threshold: float
    n_cells: int
    n_readable: int
    share: float
    mean_inside: float
    mean_outside: float


def find_block(auc_map: AUCMap, chance: float | None = None, spread: float | None = None) -> Block | None:
    """Find the dominant block: the darkest rectangle, where it stands out.

    Args:
        auc_map: the map, ``[L, T]``.
        chance: AUC that the best cell of a map without signal stays below, if known.
        spread: of the difference between a cell and the mean of the map, if known. The median of ``auc_se`` by default,
            which is too large, as cells share their examples.

    Returns:
        The block. None where none stands out: there is no darkest rectangle, or its mean is above that of the other
        cells by less than `required_lead` spreads.

    Example:
        >>> auc, n = torch.tensor([[0.5, 0.5, 0.6], [0.5, 0.9, 0.8]]), torch.full((2, 3), 40)
        >>> block = find_block(AUCMap("correctness", "test", (0, 4), ("a", "b", "c"), auc, auc / 20, n, n // 2))
        >>> (block.top, block.bottom, block.left, block.right)
        (1, 1, 1, 2)
    """
    block = find_darkest(auc_map, chance)
    if block is None:
        return None
    spread = median_spread(auc_map) if spread is None else spread
    lead = block.mean_inside - block.mean_outside
    return None if spread is not None and lead < required_lead(block.share) * spread else block


def required_lead(share: float) -> float:
    """How far above the rest a rectangle must be to stand out, in spreads of a cell.

    In a map of noise whose cells vary together within rectangles of this share, and apart otherwise, the best of the
    1 / share rectangles stays below with a probability of 1 - `LEVEL` at least. That is the least favourable case:
    the mean of cells that vary apart varies less.

    >>> round(required_lead(1 / 450), 2), round(required_lead(0.12), 2)
    (3.69, 2.51)
    """
    return NormalDist().inv_cdf(1 - LEVEL * share)


def median_spread(auc_map: AUCMap) -> float | None:
    """The median of ``auc_se`` over the readable cells, None where no spread is known."""
    spreads = auc_map.auc_se[auc_map.readable()].double()
    spreads = spreads[spreads.isfinite()]
    return float(spreads.median()) if len(spreads) else None


def find_darkest(auc_map: AUCMap, chance: float | None = None) -> Block | None:
    """Find the darkest rectangle, whether it stands out or not: of all rectangles of adjacent rows and neighbouring
    columns the one with the largest sum of AUC - threshold.

    The threshold is halfway between the mean and the highest AUC, and at least `chance`. So a single low cell hardly
    moves it, and the dark part of a map may be small or most of it. Unreadable cells weigh nothing. Columns are
    neighbours by `split_columns`.

    Returns:
        The rectangle; None where all readable cells have the same AUC, or none is above chance.
    """
    readable, auc = auc_map.readable(), auc_map.auc.double()
    if not readable.any():
        return None
    known = auc[readable]
    if known.max() - known.mean() < SAME:
        return None
    threshold = max(float(known.mean() + known.max()) / 2, chance or 0.0)
    weights = torch.where(readable, auc - threshold, 0.0)
    best, corners = (0.0, 0), None
    for columns in split_columns(auc_map.positions):
        found = dominant_rectangle(weights[:, columns.start : columns.stop])
        if found is None:
            continue
        top, bottom, left, right = found[0], found[1], found[2] + columns.start, found[3] + columns.start
        total = float(weights[top : bottom + 1, left : right + 1].sum())
        candidate = total, -(bottom - top + 1) * (right - left + 1)
        if candidate > best:
            best, corners = candidate, (top, bottom, left, right)
    if corners is None:
        return None
    top, bottom, left, right = corners
    box = torch.zeros_like(readable)
    box[top : bottom + 1, left : right + 1] = True
    inside, outside = auc[readable & box], auc[readable & ~box]
    if not len(outside):
        return None
    return Block(
        *corners,
        threshold=threshold,
        n_cells=int(box.sum()),
        n_readable=len(inside),
        share=len(inside) / len(known),
        mean_inside=float(inside.mean()),
        mean_outside=float(outside.mean()),
    )


def split_columns(positions: Sequence[str]) -> list[range]:
    """Split the columns of a map where the text does not run on from one to the next.

    The study's names are known, and -8, -7 .. -1: two of them are neighbours where one token follows the other. A name
    that is not known is a neighbour of the columns beside it. A run ends before the second of two known columns that
    are not neighbours, so runs overlap in the unknown columns between them.

    Args:
        positions: T names, in column order.

    Returns:
        The longest runs of columns that hold no two known columns in a row that are not neighbours; left to right.

    Example:
        >>> split_columns(["exact_answer_last", "exact_answer_after_last", "-8", "-7", "-1"])
        [range(0, 2), range(2, 4), range(4, 5)]
        >>> split_columns(["last_q", "mine", "-2", "-1"])
        [range(0, 2), range(1, 4)]
    """
    known = [(column, place) for column, name in enumerate(positions) if (place := _place(name)) is not None]
    starts, stops = [0], []
    for (before, (run, at)), (after, (next_run, next_at)) in pairwise(known):
        if run != next_run or abs(next_at - at) != 1:
            starts.append(before + 1)
            stops.append(after)
    stops.append(len(positions))
    return [range(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _place(name: str) -> tuple[int, int] | None:
    """The run of the text that a name is in, and where in it; None for a name that is not known."""
    if name[:1] == "-" and name[1:].isdecimal():
        return len(RUNS), int(name)
    return next(((number, run.index(name)) for number, run in enumerate(RUNS) if name in run), None)


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
