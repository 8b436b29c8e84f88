"""summary.json, and all that the terminal says of a result."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console

from datamodules.card import AGAINST_REST, Card
from probes.analysis.analysis import Analysis
from probes.analysis.auc_map import AUCMap, choose_cell, headline
from probes.analysis.observations import observe
from probes.analysis.reading import finite, read_map
from probes.analysis.scores import Scores
from probes.analysis.several_classes import MeanOverClasses, average_classes
from probes.report.findings import describe_best, print_findings
from probes.report.map_files import MOST_MAPS, TABLE
from probes.report.run_folder import SUMMARY
from probes.report.terminal import print_map, print_reading

PACKAGES = ("probegrid", "torch", "pytorch-lightning", "transformers", "hydra-core", "numba", "numpy", "safetensors")


def print_maps(
    console: Console,
    maps: Mapping[str, Sequence[AUCMap]],
    card: Card,
    analyses: Sequence[Analysis],
    record: Scores | None = None,
) -> None:
    """The test maps and what they show: all that the terminal says of a result. See `summarise_maps`."""
    found = {analysis.test.target: analysis for analysis in analyses}
    shown = headline(maps["test"], card)
    by = _rankers(maps, card)
    for one, val in list(zip(shown, by, strict=True))[:MOST_MAPS]:
        if len(shown) > 1 or one.spread == "SD":
            console.print("", one.target, style="bold", sep="\n")
        print_map(console, one)
        sizes = sorted(set(one.n[one.readable()].tolist()))
        if len(sizes) > 1 and one.spread == "SE":
            console.print(
                f"Columns have other examples, {sizes[0]:,} to {sizes[-1]:,}: compare those with equal rows only "
                "(positions.rows=common gives all the same).",
                style="dim",
            )
        console.print("", "What the map shows", style="bold", sep="\n")
        for observation in observe(one, val=val, **_known(one, found)):
            console.print(f"- {observation['sentence']}")
        if one.target in found:
            print_findings(console, found[one.target])
        elif one.spread == "SD":
            for target in card.targets:
                if one.target.startswith(f"{target.label}, mean of") and target.name in found:
                    console.print(f"{target.name}: {describe_best(found[target.name])}")
        print_reading(console, _read(one, val, card, found))
    if len(shown) > MOST_MAPS:
        console.print("", f"{len(shown) - MOST_MAPS} more label sets are in {TABLE} and {SUMMARY}", sep="\n")
    if (mean := _average(shown, by, card, record)) is not None:
        console.print("", mean.describe(), sep="\n")


def summarise(
    card: Card,
    fitted: dict[str, Any],
    maps: Mapping[str, Sequence[AUCMap]],
    seconds: Mapping[str, float],
    analyses: Sequence[Analysis],
    described: str,
    record: Scores | None = None,
) -> dict[str, Any]:
    """summary.json as a dict: the card, the fit, and what `summarise_maps` gives."""
    return (
        card.to_json()
        | {"described": described, "fit": fitted}
        | summarise_maps(card, maps, analyses, record)
        | {
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        }
    )


def summarise_maps(
    card: Card, maps: Mapping[str, Sequence[AUCMap]], analyses: Sequence[Analysis], record: Scores | None = None
) -> dict[str, Any]:
    """The part of summary.json that follows from the scores: the reading of the map, its extent, and its analysis.

    `reading` is that of the one label set, or holds that of each by its name; `observations`, `val` and `test` alike.
    With several splits of a label set they are of the mean map, and `auc_sd` stands for `auc_se`. `analysis` is that of
    the one target, or holds that of each by its name. `mean_over_classes` is there with more than two classes; its
    error comes from the scores of the record.
    """
    shown = headline(maps["test"], card)
    by = _rankers(maps, card)
    found = {analysis.test.target: analysis for analysis in analyses}
    readings = {one.target: _read(one, val, card, found) for one, val in zip(shown, by, strict=True)}
    extents = {
        split: {one.target: _extent(one, val) for one, val in zip(headline(maps[split], card), by, strict=True)}
        if split in maps
        else None
        for split in ("val", "test")
    }
    return {
        "reading": _alone(readings),
        "observations": _alone(
            {one.target: observe(one, val=val, **_known(one, found)) for one, val in zip(shown, by, strict=True)}
        ),
        **{split: extent and _alone(extent) for split, extent in extents.items()},
        "analysis": _alone({one.test.target: one.to_json() for one in analyses}) if analyses else None,
        **({} if (mean := _average(shown, by, card, record)) is None else {"mean_over_classes": mean._asdict()}),
    }


def _average(
    test: Sequence[AUCMap], val: Sequence[AUCMap | None], card: Card, record: Scores | None
) -> MeanOverClasses | None:
    return average_classes(test, val, record) if card.classes == AGAINST_REST else None


def _rankers(maps: Mapping[str, Sequence[AUCMap]], card: Card) -> list[AUCMap | None]:
    """The validation map that ranks the cells of each test map.

    None where there is none, and for a mean of several splits: validation rows of one are test rows of another.
    """
    shown = headline(maps["val" if "val" in maps else "test"], card)
    return [one if "val" in maps and one.spread == "SE" else None for one in shown]


def _read(test: AUCMap, val: AUCMap | None, card: Card, found: Mapping[str, Analysis]) -> dict[str, Any]:
    return read_map(test, card.coincidence, card.n_valid, val=val, **_known(test, found))


def _known(test: AUCMap, found: Mapping[str, Analysis]) -> dict[str, float | None]:
    return found[test.target].reading if test.target in found else {}


def _alone(named: dict[str, Any]) -> Any:
    """The one entry of a dict of one, else the dict."""
    return next(iter(named.values())) if len(named) == 1 else named


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its folder, without an installation
        return None


def _extent(auc_map: AUCMap, val: AUCMap | None) -> dict[str, float | None]:
    choice = choose_cell(auc_map, val)
    return {
        "best_auc": None if choice is None else finite(auc_map.auc[choice.cell]),
        "mean_auc": finite(auc_map.auc[auc_map.readable()].mean()),
    }
