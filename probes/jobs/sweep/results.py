"""The results of many runs as one table: a row per job, from what their folders hold."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from datamodules.card import show_text
from probes.analysis.wording import digits
from probes.jobs.sweep.damage import tell_damage
from probes.jobs.sweep.job_file import read_job
from probes.jobs.sweep.naming import label_job, read_values, round_number, shorten_keys
from probes.report.run_folder import SUMMARY
from probes.report.whole_file import whole_file

RESULTS = "results.csv"
NOT_OURS = (
    "resume",
    "site.also",
    "site.also_layers",
    "positions.also",
    "report.terminal",
)  # set by the sweep, or of no result
STATUS = {"running": "unfinished"}  # what it is once the sweep is over
OWN = (
    "status", "target", "objective", "layer", "position", "chosen_on", "val_auc", "test_auc", "test_auc_error",
    "mean_auc", "baseline", "baseline_auc",
)  # fmt: skip
LAST = ("bytes", "folder", "error")
MOST_KEYS = 4  # columns of the table in the terminal for what differs


def find_runs(folders: Sequence[str | Path] | None) -> list[Path]:
    """Folders of runs among some folders and in them; patterns such as outputs/*/* are expanded.

    Raises:
        ValueError: there is none.
    """
    found: dict[Path, None] = {}
    for one in [one for one in folders or () if str(one).strip()]:
        for match in sorted(glob(str(Path(one).expanduser()))):
            inside = sorted(path.parent for path in Path(match).rglob(".hydra") if path.is_dir())
            for path in [Path(match)] if _is_run(Path(match)) else inside:
                found.setdefault(path.resolve())
    if not found:
        named = ", ".join(map(str, folders or ()))
        raise ValueError(
            f"runs: expected folders of runs, got {named or 'none'}, which hold none; name some, as "
            "runs=[outputs/latest,multirun/latest]"
        )
    return list(found)


def tabulate_runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each run, or for each label set of a run that has several; in the order of their jobs.

    Each row has `job`, a label of what differs; a key for each override that differs; what `read_results` gives;
    seconds of each stage; `bytes` of the folder, without what it links to; `folder`; and `error`, where it failed.
    """
    jobs = sorted(((read_job(folder), folder) for folder in folders), key=_order)
    differing = find_differences([folder for _, folder in jobs])
    rows = []
    for (job, folder), values in zip(jobs, differing, strict=True):
        results = read_results(folder) if job.get("status", "done") == "done" else []
        status = STATUS.get(str(job.get("status")), job.get("status") or ("done" if results else "unfinished"))
        for result in results or [{}]:
            rows.append(
                {"job": label_job(values) or folder.name, **values, "status": status, **result}
                | {"objective": job.get("objective"), "seconds": job.get("seconds")}
                | {"bytes": sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())}
                | {"folder": str(folder), "error": job.get("error")}
            )
    return rows


def find_differences(folders: Sequence[Path]) -> list[dict[str, str]]:
    """For each run the overrides that not all runs have with the same value; a default where it has none of its own."""
    own = [_read_overrides(folder) for folder in folders]
    keys = [key for key in dict.fromkeys(key for one in own for key in one) if key not in NOT_OURS]
    values = [
        {key: one[key] if key in one else _read_default(folder, key) for key in keys}
        for folder, one in zip(folders, own, strict=True)
    ]
    differing = [key for key in keys if len({one[key] for one in values}) > 1]
    return [{key: one[key] for key in differing} for one in values]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """What summary.json of a run says of each label set: the best cell, chosen by validation, the mean, a baseline.

    Keys: target, layer, position, chosen_on (the split that chose the cell: test where there is no validation map, and
    for the mean of several splits), val_auc, test_auc, test_auc_error, mean_auc (over readable cells of the test map),
    baseline (the best by validation) and baseline_auc on test, both of the mean over several splits, and
    `seconds_STAGE` of each stage; None where there is no such number. No row where the run left no summary.
    """
    with tell_damage(folder / SUMMARY):
        return list(_iterate_results(json.loads((folder / SUMMARY).read_text("utf-8"))))
    return []


def _iterate_results(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    readings = _by_target(summary["reading"], "best_cells", summary)
    extents = _by_target(summary["test"], "mean_auc", summary)
    analyses = summary.get("analysis") or {}
    analyses = {summary["targets"][0]["name"]: analyses} if "best" in analyses else analyses
    seconds = {f"seconds_{stage.replace(' ', '_')}": value for stage, value in summary.get("seconds", {}).items()}
    for target, reading in readings.items():
        best = next(iter(reading["best_cells"]), {})
        splits = [one["name"] for one in summary["targets"] if target in (one["name"], _name_mean(one, summary))]
        baseline = _choose_baseline([analyses[name] for name in splits if name in analyses])
        numbers = {
            "val_auc": best.get("val_auc"),
            "test_auc": best.get("auc"),
            "test_auc_error": best.get("auc_se", best.get("auc_sd")),
            "mean_auc": (extents.get(target) or {}).get("mean_auc"),
            "baseline_auc": baseline.get("auc"),
        }
        for name, value in (numbers | seconds).items():
            if not isinstance(value, int | float | None):
                raise ValueError(f"{name} is {value!r}")
        yield {
            "target": target,
            "layer": best.get("layer"),
            "position": best.get("position"),
            "chosen_on": reading.get("chosen_on"),
            **numbers,
            "baseline": baseline.get("name"),
            **seconds,
        }


def describe(row: Mapping[str, Any]) -> str:
    """A result in a few words.

    >>> describe({"test_auc": 0.912, "test_auc_error": 0.02, "layer": 4, "position": "last_q", "mean_auc": 0.7})
    'best .912 ± .020 at layer 4, last_q; mean .700'
    """
    if row.get("test_auc") is None:
        return "done"
    return (
        f"best {digits(row['test_auc'])} ± {digits(row['test_auc_error'])} at layer {row['layer']}, {row['position']}; "
        f"mean {digits(row['mean_auc'])}"
    )


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table as CSV, whole or not at all."""
    stages = list(dict.fromkeys(key for row in rows for key in row if key.startswith("seconds")))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["job", *_list_differing(rows), *OWN, *stages, *LAST], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: show_text(one) if isinstance(one, str) else one for key, one in row.items()} for row in rows)
    with whole_file(path) as temporary:
        temporary.write_text(text.getvalue(), "utf-8")


def print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table: what differs, status, best cell, mean, baseline, seconds."""
    from rich.table import Table

    from probes.report.console import PlainConsole

    console = PlainConsole()
    table = Table(box=None, pad_edge=False)
    several = len({row.get("target") for row in rows if row.get("target")}) > 1
    keys = _list_differing(rows)
    short = shorten_keys(keys)
    named = keys if 0 < len(keys) <= MOST_KEYS else ["job"]
    columns = [short.get(key, key) for key in named] + (["labels"] if several else [])
    columns += ["status", "best cell", "test AUC", "val", "mean"]
    for name in [*columns, "baseline", "s"]:
        right = name in ("test AUC", "val", "mean", "baseline", "s")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        found = row.get("test_auc") is not None
        cells = [round_number(str(row[key])) for key in named] + ([str(row.get("target") or "")] if several else [])
        cells += [str(row["status"])]
        cells += [f"{row['layer']}:{row['position']}" if found else ""]
        cells += [f"{digits(row['test_auc'])} ± {digits(row['test_auc_error'])}" if found else ""]
        cells += [digits(row["val_auc"]) if found else "", digits(row["mean_auc"]) if found else ""]
        cells += [digits(row["baseline_auc"]) if found and row["baseline"] else ""]
        table.add_row(*cells, "" if row["seconds"] is None else f"{row['seconds']:.0f}")
    console.print("", table, sep="\n")
    console.print("LAYER:POSITION of the best cell, and the best baseline, are chosen on validation rows.", style="dim")
    if any(row.get("chosen_on") == "test" for row in rows):
        console.print(
            "Where val is -, the best cell is chosen on the test rows themselves, so its test AUC is too high.",
            style="dim",
        )


def _list_differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of overrides that differ."""
    keys = dict.fromkeys(key for row in rows for key in row if not key.startswith("seconds"))
    return [key for key in keys if key not in {"job", *OWN, *LAST}]


def _order(job: tuple[Mapping[str, Any], Path]) -> tuple[Any, ...]:
    number = job[0].get("number")
    return (0, number, job[1]) if isinstance(number, int) else (1, 0, job[1])


def _is_run(folder: Path) -> bool:
    return (folder / SUMMARY).exists() or (folder / ".hydra").is_dir()


def _read_overrides(folder: Path) -> dict[str, str]:
    path = folder / ".hydra" / "overrides.yaml"
    with tell_damage(path):
        return read_values([str(one) for one in OmegaConf.load(path)])
    return {}


def _read_default(folder: Path, key: str) -> str:
    """What a run has where nothing was overridden: a choice of a group, or a value."""
    for name, place in (("hydra.yaml", "hydra.runtime.choices"), ("config.yaml", "")):
        path = folder / ".hydra" / name
        with tell_damage(path):
            content = OmegaConf.load(path)
            choices = OmegaConf.select(content, place) if place else {}
            if place and key in choices:
                return str(choices[key])
            if not place:
                value = OmegaConf.select(content, key)
                return "null" if value is None else str(value)
    return ""


def _by_target(part: Mapping[str, Any], key: str, summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of the summary by label set; of the one label set it is not by name."""
    return {_name_mean(summary["targets"][0], summary): part} if key in part else part


def _name_mean(target: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """What the map of the label set of a target is called: of several splits it is their mean."""
    splits = [one for one in summary["targets"] if one["label"] == target["label"]]
    return target["label"] if len(splits) == 1 else f"{target['label']}, mean of {len(splits)} splits"


def _choose_baseline(analyses: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The best baseline by validation; by test where nothing was validated. Of several splits by the mean."""
    every = [(one.get("baselines") or {}).get("rows") or () for one in analyses]
    of: dict[str, list[Mapping[str, Any]]] = {}
    for row in chain.from_iterable(every):
        of.setdefault(row["name"], []).append(row)
    rows: list[dict[str, Any]] = [
        {"name": name} | {key: _average([row.get(key) for row in group]) for key in ("auc", "auc_chosen")}
        for name, group in of.items()
        if len(group) == len(analyses)
    ]
    rows = [row for row in rows if row["auc"] is not None]
    chosen = [row for row in rows if row.get("auc_chosen") is not None]
    key = "auc_chosen" if chosen else "auc"
    return max(chosen or rows, key=lambda row: row[key], default={})


def _average(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return fmean(known) if known and len(known) == len(numbers) else None


def iterate_failures(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each job that failed or did not finish."""
    for row in rows:
        if row["status"] != "done":
            yield f"{row['job']}: {row['status']}" + (f": {row['error']}" if row.get("error") else "")
