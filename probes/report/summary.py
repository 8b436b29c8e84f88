"""What is left of a run when it is over: summary.json, the probes themselves, and the map in the terminal."""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from datamodules.card import Card
from probes.analysis.analysis import Analysis
from probes.analysis.auc_map import AUCMap, headline
from probes.analysis.reading import finite, read_map
from probes.report.findings import describe_best, print_findings
from probes.report.heatmap import MOST_MAPS, PICTURE, TABLE, caption
from probes.report.probes_file import PROBES, save_probes
from probes.report.terminal import print_map, print_reading
from probes.report.whole_file import whole_file

SUMMARY = "summary.json"
PACKAGES = ("probegrid", "torch", "pytorch-lightning", "transformers", "hydra-core", "numba", "numpy", "safetensors")


class Report(pl.Callback):
    """After the test: writes summary.json and probes.safetensors; when all is over, prints the map and its reading.

    It reads ``maps``, ``card``, ``tested``, ``fitted`` and ``tensors()`` of the module, and ``seconds`` of the
    datamodule. Global rank zero only; every file appears whole or not at all.

    Args:
        folder: where the files go; made if missing. The folder of ``Heatmap``, whose picture the last lines name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._seconds: dict[str, float] = {}
        self._start = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count the seconds of the fit from here, its validation included."""
        self._start = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stop counting."""
        self._seconds["fit and validation"] = time.monotonic() - self._start

    def on_test_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Count the seconds of the test from here."""
        self._start = time.monotonic()

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the files."""
        self._seconds["test"] = time.monotonic() - self._start
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        card, maps, fitted = pl_module.tested, pl_module.maps, pl_module.fitted
        seconds = getattr(trainer.datamodule, "seconds", {}) | self._seconds  # type: ignore[attr-defined]
        with whole_file(self.folder / SUMMARY) as path:
            summary = summarise(card, fitted, maps, seconds, pl_module.analyses, pl_module.described)
            path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", "utf-8")
        with whole_file(self.folder / PROBES) as path:
            save_probes(path, pl_module.tensors(), pl_module.card, maps)

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Print, once the progress bars have left the screen."""
        if not trainer.is_global_zero or stage != "test" or "test" not in pl_module.maps:
            return
        card: Card = pl_module.tested
        # names are data: no markup in them, and no colour of rich's own choosing
        console = Console(markup=False, emoji=False, highlight=False)
        title, subtitle = caption(card, pl_module.described, "test")
        console.print("", title, style="bold", sep="\n")
        console.print(" ".join(subtitle.split()), style="dim")
        print_maps(console, pl_module.maps, card, pl_module.analyses)
        console.print()
        for path in (self.folder / name for name in (PICTURE, SUMMARY, PROBES)):
            if path.exists():
                console.print(str(path), soft_wrap=True)


def print_maps(
    console: Console, maps: Mapping[str, Sequence[AUCMap]], card: Card, analyses: Sequence[Analysis]
) -> None:
    """The test maps and what they show: all that the terminal says of a result."""
    found = {analysis.test.target: analysis for analysis in analyses}
    shown = headline(maps["test"], card)
    by = headline(maps["val"], card) if "val" in maps else [None] * len(shown)
    for one, val in list(zip(shown, by, strict=True))[:MOST_MAPS]:
        if len(shown) > 1 or one.spread == "SD":
            console.print("", one.target, style="bold", sep="\n")
        print_map(console, one)
        if one.target in found:
            print_findings(console, found[one.target])
        elif one.spread == "SD":
            for target in card.targets:
                if one.target.startswith(f"{target.label}, mean of") and target.name in found:
                    console.print(f"{target.name}: {describe_best(found[target.name])}")
        print_reading(console, _read(one, val, card, found))
    if len(shown) > MOST_MAPS:
        console.print("", f"{len(shown) - MOST_MAPS} more label sets are in {TABLE} and {SUMMARY}", sep="\n")


def summarise(
    card: Card,
    fitted: dict[str, Any],
    maps: Mapping[str, Sequence[AUCMap]],
    seconds: Mapping[str, float],
    analyses: Sequence[Analysis],
    described: str,
) -> dict[str, Any]:
    """summary.json as a dict: the card, the fit, and what `summarise_maps` gives."""
    return (
        card.to_json()
        | {"described": described, "fit": fitted}
        | summarise_maps(card, maps, analyses)
        | {
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        }
    )


def summarise_maps(card: Card, maps: Mapping[str, Sequence[AUCMap]], analyses: Sequence[Analysis]) -> dict[str, Any]:
    """The part of summary.json that follows from the scores: the reading of the map, its extent, and its analysis.

    `reading` is that of the one label set, or holds that of each by its name; `val` and `test` alike. With several
    splits of a label set they are of the mean map, and `auc_sd` stands for `auc_se`. `analysis` is that of the one
    target, or holds that of each by its name.
    """
    shown = headline(maps["test"], card)
    by = headline(maps["val"], card) if "val" in maps else [None] * len(shown)
    found = {analysis.test.target: analysis for analysis in analyses}
    readings = {one.target: _read(one, val, card, found) for one, val in zip(shown, by, strict=True)}
    extents = {
        split: {one.target: _extent(one) for one in headline(maps[split], card)} if split in maps else None
        for split in ("val", "test")
    }
    return {
        "reading": _alone(readings),
        **{split: extent and _alone(extent) for split, extent in extents.items()},
        "analysis": _alone({one.test.target: one.to_json() for one in analyses}) if analyses else None,
    }


def _read(test: AUCMap, val: AUCMap | None, card: Card, found: Mapping[str, Analysis]) -> dict[str, Any]:
    known = found[test.target].reading if test.target in found else {}
    return read_map(test, card.coincidence, card.n_valid, val=val, **known)


def _alone(named: dict[str, Any]) -> Any:
    """The one entry of a dict of one, else the dict."""
    return next(iter(named.values())) if len(named) == 1 else named


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its folder, without an installation
        return None


def _extent(auc_map: AUCMap) -> dict[str, float | None]:
    auc = auc_map.auc[auc_map.readable()]
    return {"best_auc": finite(auc.max()) if len(auc) else None, "mean_auc": finite(auc.mean())}
