"""The analysis of a run from its record: everything that is said of a target beside its AUC map."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd
import torch

from datamodules.card import Card, is_control
from probes.analysis.auc_map import AUCMap, Choice, choose_cell
from probes.analysis.band import Band, band
from probes.analysis.baseline_table import BaselineTable, tabulate_baselines
from probes.analysis.baselines import make_baselines, read_target
from probes.analysis.beyond_baseline import BeyondBaseline, go_beyond_baseline
from probes.analysis.chance import Chance, null_of_best
from probes.analysis.clusters import Areas, measure_areas
from probes.analysis.paired import Comparison, compare
from probes.analysis.reading import finite
from probes.analysis.scores import Scores

MOST_TARGETS = 8  # that are analysed: the pictures show as many


@dataclass(frozen=True, eq=False)
class Analysis:
    """What a record says of one target; a part is None where the record does not allow it, and `left_out` says why.

    Attributes:
        test: the map.
        choice: the best cell, chosen on validation rows.
        val_auc: its validation AUC.
        spread: the error of a cell beside the mean of the map; see `find_block`.
        chance: what the best cell reaches by chance.
        limits: simultaneous limits of all cells, and the cells that can't be told from the best.
        baselines: the table of what needs no probe.
        beyond: what each probe adds to the best baseline.
        selectivity: AUC less that of the control labels, `[L, T]`.
        left_out: sentences.
    """

    test: AUCMap
    choice: Choice | None
    val_auc: float | None
    spread: float | None
    chance: Chance | None
    limits: Band | None
    baselines: BaselineTable | None
    beyond: BeyondBaseline | None
    selectivity: Comparison | None
    left_out: tuple[str, ...]

    @property
    def reading(self) -> dict[str, float | None]:
        """What `find_block`, `read_map` and `observe` know beside the map."""
        return {"chance": self.chance and self.chance.q95, "spread": self.spread}

    def columns(self) -> dict[str, torch.Tensor]:
        """More columns of heatmap.csv, `[L, T]` each: see docs/results.md."""
        found: dict[str, torch.Tensor] = {}
        if self.limits is not None:
            found |= {"auc_low": self.limits.lower, "auc_high": self.limits.upper}
            if self.limits.near_best is not None:
                found["near_best"] = self.limits.near_best.long()
        if self.chance is not None:
            found["p_family"] = self.chance.p_family
        if self.beyond is not None:
            found |= {"auc_with_baseline": self.beyond.together.auc, "gain_over_baseline": self.beyond.gain.difference}
        if self.selectivity is not None:
            found["selectivity"] = self.selectivity.difference
        return found

    def to_json(self) -> dict[str, Any]:
        """What summary.json holds, JSON-ready."""
        return {
            "best": self._best(),
            "chance": self.chance
            and {
                "best_mean": self.chance.mean,
                "best_q95": self.chance.q95,
                "best_q99": self.chance.q99,
                "n_above": int(self.chance.above().sum()),
                "draws": self.chance.draws,
                "scheme": "permuted labels" if self.chance.exact else "signs of groups",
            },
            "band": self.limits
            and {
                "critical": self.limits.critical,
                "n_near_best": None if self.limits.near_best is None else int(self.limits.near_best.sum()),
            },
            "baselines": self.baselines and _write_baselines(self.baselines),
            "beyond_baseline": self.beyond and self.choice and _write_beyond(self.beyond, self.choice),
            "selectivity": self.selectivity and self._write_selectivity(self.selectivity),
            "left_out": list(self.left_out),
        }

    def _best(self) -> dict[str, Any] | None:
        if self.choice is None:
            return None
        cell, test = self.choice.cell, self.test
        return {
            "layer": test.layers[self.choice.row],
            "position": test.positions[self.choice.column],
            "chosen_on": self.choice.on,
            "val_auc": self.val_auc,
            "auc": finite(test.auc[cell]),
            "auc_se": finite(test.auc_se[cell]),
            "auc_low": self.limits and finite(self.limits.lower[cell]),
            "auc_high": self.limits and finite(self.limits.upper[cell]),
            "p_family": self.chance and finite(self.chance.p_family[cell]),
            "n": int(test.n[cell]),
        }

    def _write_selectivity(self, found: Comparison) -> dict[str, Any]:
        readable = found.difference[found.difference.isfinite()]
        at_best = None
        if self.choice is not None and self.choice.on == "val":
            cell = self.choice.cell
            at_best = {"difference": finite(found.difference[cell]), "error": finite(found.error[cell])}
        return {"mean": finite(readable.mean()) if len(readable) else None, "best_cell": at_best}


def analyse(scores: Scores, examples: pd.DataFrame | None = None) -> list[Analysis]:
    """Analyse the record of a run: its first targets, up to eight, controls left out.

    Args:
        scores: of all validation and test examples.
        examples: examples.parquet, for the baselines; without it there are none.

    Example:
        >>> record = read_record("outputs/latest")  # doctest: +SKIP
        >>> analyse(record.scores, record.examples)[0].chance.q95  # doctest: +SKIP
    """
    maps = {split: scores.maps(split) for split in ("val", "test")}
    own = [k for k, target in enumerate(scores.card.targets) if not is_control(target.label)]
    return [_analyse_target(scores, k, maps["test"][k], maps["val"][k], examples) for k in own[:MOST_TARGETS]]


def _analyse_target(scores: Scores, k: int, test: AUCMap, val: AUCMap, examples: pd.DataFrame | None) -> Analysis:
    choice, readable = choose_cell(test, val), test.readable()
    if choice is None:
        left_out = (f"none of the {readable.numel()} cells can be read, so nothing is compared",)
        return Analysis(test, None, None, None, None, None, None, None, None, left_out)
    rows, left_out = scores.of("test", k), []
    valid = ~rows.scores.isnan() & readable[..., None]
    areas = measure_areas(rows.scores, rows.labels, valid, rows.groups)
    spread = measure_spread(areas.at(readable))
    chance = null_of_best(rows.scores, rows.labels, valid, rows.groups)
    chosen = choice.on == "val" and bool(areas.at(choice.cell).error().isfinite())
    if choice.on != "val":
        left_out.append(
            "no validation rows chose the best cell: its AUC is the highest of the test rows, and too high; what it "
            "adds to the baselines is not tested"
        )
    baselines = beyond = None
    if examples is None:
        left_out.append("no table of examples: no baselines")
    elif not _belong(examples, scores, k):
        left_out.append("the table of examples has other labels than the scores, so it is of other data: no baselines")
    else:
        made = make_baselines(examples, scores.card.targets[k].name, scores.card.positions)
        baselines = tabulate_baselines(made, scores, choice.cell, k)
        left_out += baselines.missing
        if choice.on != "val":  # the cell is the best of the rows that would judge it
            baselines = replace(baselines, gain=None)
        if baselines.best is not None and baselines.chosen_on == "val":
            beyond = go_beyond_baseline(scores, made.scores[baselines.best], baselines.best, k)
    return Analysis(
        test,
        choice,
        finite(val.auc[choice.cell]),
        spread,
        chance,
        band(areas, choice.cell if chosen else None),
        baselines,
        beyond,
        _compare_with_control(scores, k, areas),
        tuple(left_out),
    )


def _belong(examples: pd.DataFrame, scores: Scores, k: int) -> bool:
    """Whether a table holds the examples of the scores: a folder may keep those that the probes were fitted on."""
    held = scores.part[k] > 0
    rows = scores.examples[held]
    if int(rows.max()) >= len(examples):
        return False
    labels = torch.from_numpy(read_target(examples, scores.card.targets[k].name)[0])
    return torch.equal(labels[rows], scores.labels[k, held].long())


def measure_spread(areas: Areas) -> float | None:
    """Median error of a cell's AUC less the mean AUC of all cells [C]; cells share examples, so it is below their own.

    None where no cell has an error.
    """
    own = areas.influence[areas.influence.isfinite().all(-1)]
    return float((own - own.mean(0)).square().sum(-1).sqrt().median()) if len(own) else None


def find_control(card: Card, k: int) -> int | None:
    """Number of the target that has random labels on the split of target k; see `control_labels`."""
    n = len(card.targets) // 2
    paired = k < n and all(is_control(target.label) for target in card.targets[n:])
    return k + n if paired and 2 * n == len(card.targets) else None


def _compare_with_control(scores: Scores, k: int, areas: Areas) -> Comparison | None:
    control = find_control(scores.card, k)
    if control is None:
        return None
    rows = scores.of("test", control)
    return compare(areas, measure_areas(rows.scores, rows.labels, ~rows.scores.isnan(), rows.groups))


def _write_baselines(table: BaselineTable) -> dict[str, Any]:
    def numbers(values: dict[str, Any]) -> dict[str, Any]:
        return {name: finite(value) if isinstance(value, float) else value for name, value in values.items()}

    gain = table.gain and {
        "difference": finite(table.gain.difference),
        "error": finite(table.gain.error),
        "p": finite(table.gain.p),
        "n": table.n_gain,
    }
    rows: Sequence[dict[str, Any]] = [numbers(asdict(row)) for row in table.rows]
    return {"rows": list(rows), "best": table.best, "chosen_on": table.chosen_on, "gain_of_probe": gain}


def _write_beyond(found: BeyondBaseline, choice: Choice) -> dict[str, Any]:
    gain = found.gain.difference
    known = gain[gain.isfinite()]
    return {
        "baseline": found.name,
        "gain_of_best_cell": finite(gain[choice.cell]),
        "error_of_best_cell": finite(found.gain.error[choice.cell]),
        "mean_gain": finite(known.mean()) if len(known) else None,
        "n_above": int((found.gain.lower > 0).sum()),
        "n_cells": len(known),
    }
