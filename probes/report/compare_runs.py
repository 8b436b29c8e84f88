"""Compare two runs on the questions that both tested, or cells and columns of one run: `experiment=compare`."""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.card import Card, is_control
from probes.analysis.analysis import find_control
from probes.analysis.auc_map import choose_cell
from probes.analysis.differences import DifferenceMap, PairedParts, Part, compare_parts, subtract_maps
from probes.analysis.matching import Matched, Side, match
from probes.analysis.scores import PARTS
from probes.report.console import PlainConsole
from probes.report.difference_report import (
    name_sides,
    print_difference,
    print_pairs,
    write_difference,
    write_pairs,
)
from probes.report.run_folder import Record, read_record
from probes.settings import FinishedRuns, Folder, Text


class Named(NamedTuple):
    """A cell or a column that was asked for: where it is in the map.

    Attributes:
        name: as people read it.
        rows: of the map, one or all.
        column: of the map.
    """

    name: str
    rows: slice
    column: int

    def part(self, matched: Matched, side: int) -> Part:
        """Its scores on one side."""
        return Part(self.name, matched.scores[side, self.rows, self.column], matched.labels[side])


def compare_runs(
    runs: FinishedRuns,
    folder: Folder,
    cells: Sequence[Text] | None = None,
    columns: Sequence[Text | int] | None = None,
) -> None:
    """Compare finished runs, write what was found into a folder, and print it.

    Two runs are compared on the test questions, layers and positions that both have; of several targets the first that
    both have. One run is compared with its control labels, or its named cells and columns with each other.

    Args:
        runs: one or two folders of runs.
        folder: where difference.csv, difference.png and difference.pdf go, and pairs.csv if cells or columns are named;
            made if missing.
        cells: LAYER:POSITION each; compared between two runs, or in all pairs in one.
        columns: positions, the mean AUC over their layers; likewise.

    Raises:
        FileNotFoundError: a folder has no record.
        ValueError: the runs have nothing in common, or a cell is not there, or one run has nothing to compare.

    Example:
        >>> compare_runs(["outputs/2025-01-01/12-00-00", "outputs/latest"], "outputs/compared")  # doctest: +SKIP
    """
    if isinstance(runs, str) or not 1 <= len(runs) <= 2:
        raise ValueError(f'runs: expected one or two folders of runs, got {runs}; name them, as in "runs=[A,B]"')
    records = [_read(run) for run in runs]
    first, second, same = records[0], records[-1], records[0].folder.resolve() == records[-1].folder.resolve()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    console = PlainConsole()
    if len(runs) == 2:
        chosen = choose_targets(first.scores.card, second.scores.card)
    else:
        own = choose_targets(first.scores.card, first.scores.card)[0]
        control = find_control(first.scores.card, own)
        named = bool(cells or columns)
        if not named and control is None:
            raise ValueError(
                'runs: expected two runs, got one without control labels; name a second run, as in "runs=[A,B]", or '
                "cells=[LAYER:POSITION,...] or columns=[POSITION,...], or run with datamodule.control_labels=true"
            )
        chosen = own, own if named or control is None else control
    captions = name_sides(records, chosen)
    matched = match(*(Side(one.scores, one.examples, k) for one, k in zip((first, second), chosen, strict=True)))
    parts = find_parts(matched, cells, columns)
    paths = []
    if len(runs) == 2 or not parts:
        difference = subtract_maps(matched)
        best = None if same and len(runs) == 2 else compare_best(records, chosen, matched, difference)
        paths += write_difference(folder, difference, captions, best)
        print_difference(console, difference, captions, best, same and len(runs) == 2)
    if parts:
        pairs = pair_parts(parts, matched, across=len(runs) == 2)
        paths.append(write_pairs(folder, pairs))
        print_pairs(console, pairs, captions, across=len(runs) == 2)
    console.print()
    for path in paths:
        console.print(str(path), soft_wrap=True)


def _read(run: str | Path) -> Record:
    record = read_record(run)
    if not (record.scores.part == PARTS["test"]).any():
        raise ValueError(f"runs: expected test scores in {record.folder}, got none; test the probes, or name another")
    return record


def choose_targets(first: Card, second: Card) -> tuple[int, int]:
    """Numbers of the targets to compare: the first name that both have, else the first of each; no controls.

    >>> choose_targets(card, card)  # doctest: +SKIP
    (0, 0)
    """
    names = [
        {target.name: k for k, target in enumerate(card.targets) if not is_control(target.label)}
        for card in (first, second)
    ]
    common = next((name for name in names[0] if name in names[1]), None)
    if common is None:
        return next(iter(names[0].values()), 0), next(iter(names[1].values()), 0)
    return names[0][common], names[1][common]


def find_parts(matched: Matched, cells: Sequence[str] | None, columns: Sequence[str | int] | None) -> list[list[Named]]:
    """The named cells and the named columns, one list each where there are some.

    Raises:
        ValueError: one is not in the map; the message names those that are.
    """
    positions, layers = list(matched.positions), [str(layer) for layer in matched.layers]
    found: list[list[Named]] = []
    kinds: tuple[tuple[str, Sequence[str | int] | None, Callable[[str], tuple[str, str]]], ...] = (
        ("cells", cells, lambda text: (text.partition(":")[0].strip(), text.partition(":")[2].strip())),
        ("columns", columns, lambda text: ("", text)),
    )
    for kind, given, split in kinds:
        if isinstance(given, str) or (given is not None and not hasattr(given, "__iter__")):
            raise ValueError(f"{kind}: expected a list, got {given}; put it in brackets, as in {kind}=[{given}]")
        some = []
        for text in dict.fromkeys(str(one).strip() for one in given or ()):
            layer, position = split(text)
            if position not in positions or (kind == "cells" and layer not in layers):
                there = f"the positions {', '.join(positions)}"
                if kind == "cells":
                    there = f"LAYER:POSITION with one of the layers {', '.join(layers)} and of {there}"
                raise ValueError(f"{kind}: expected {there}; got {text}")
            row = layers.index(layer) if layer else None
            rows = slice(None) if row is None else slice(row, row + 1)
            some.append(Named(f"layer {layer}, {position}" if layer else position, rows, positions.index(position)))
        if some:
            found.append(some)
    return found


def pair_parts(parts: Sequence[Sequence[Named]], matched: Matched, across: bool) -> PairedParts:
    """Compare named parts: each between the two sides, or all pairs of one kind with each other.

    Raises:
        ValueError: a kind has one part alone and nothing to be compared with; see `compare_parts`.
    """
    pairs = []
    for some in parts:
        if across:
            pairs += [(one.part(matched, 0), one.part(matched, 1)) for one in some]
        elif len(some) < 2:
            raise ValueError(f"cells, columns: expected two or more of a kind in one run, got {some[0].name}; add one")
        else:
            pairs += [(one.part(matched, 0), other.part(matched, 0)) for one, other in combinations(some, 2)]
    return compare_parts(pairs, matched.groups)


def compare_best(
    records: Sequence[Record], chosen: tuple[int, int], matched: Matched, difference: DifferenceMap
) -> PairedParts | None:
    """Compare the best cell of each run, chosen on validation rows; None where one was not, or is not in both runs.

    A control is compared in the best cell of its target.
    """
    places: list[Any] = []
    for side, k in enumerate(chosen if len(records) == 2 else chosen[:1] * 2):
        scores = records[min(side, len(records) - 1)].scores
        test, val = (scores.maps(split)[k] for split in ("test", "val"))
        choice = choose_cell(test, val)
        if choice is None or choice.on != "val":
            return None
        layer, position = test.layers[choice.row], test.positions[choice.column]
        if layer not in matched.layers or position not in matched.positions:
            return None
        row, column = matched.layers.index(layer), matched.positions.index(position)
        if not difference.readable[row, column]:
            return None
        places.append(Named(f"layer {layer}, {position}", slice(row, row + 1), column).part(matched, side))
    try:
        return compare_parts([(places[0], places[1])], matched.groups)
    except ValueError:  # too few questions have both cells
        return None
