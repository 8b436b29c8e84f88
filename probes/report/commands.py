"""Commands on finished runs, which need no model: `experiment=analyse`."""

import json

from probes.analysis.analysis import analyse
from probes.analysis.scores import PARTS
from probes.report.console import PlainConsole
from probes.report.findings import decorate
from probes.report.map_files import caption, write_heatmap
from probes.report.run_folder import SUMMARY, read_record
from probes.report.style import VMAX, VMIN
from probes.report.summary import print_maps, summarise_maps
from probes.report.whole_file import whole_file
from probes.settings import Area, FinishedRun


def analyse_run(run: FinishedRun, vmin: Area = VMIN, vmax: Area = VMAX) -> None:
    """Analyse a finished run from its record; write its map, table and summary anew, and print what they show.

    Args:
        run: folder of the run.
        vmin, vmax: AUC of the lightest and of the darkest colour.

    Raises:
        FileNotFoundError: the folder has no record.
        ValueError: the record is none of a run, or has no test scores.
    """
    record = read_record(run)
    scores, card = record.scores, record.scores.card
    maps = {split: scores.maps(split) for split in ("val", "test") if (scores.part == PARTS[split]).any()}
    if "test" not in maps:
        raise ValueError(
            f"run: expected test scores in {record.folder}, got none; test the probes, or name another run"
        )
    analyses = analyse(scores, record.examples)
    described = record.summary.get("described") or "probe"
    found = decorate(maps["test"], card, analyses, (record.summary.get("fit") or {}).get("short", ()))
    write_heatmap(record.folder, maps, card, described, "test", vmin=vmin, vmax=vmax, **found)
    summary = record.summary | card.to_json() | summarise_maps(card, maps, analyses, scores)
    with whole_file(record.folder / SUMMARY) as path:
        path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", "utf-8")
    console = PlainConsole()
    title, subtitle = caption(card, described, "test")
    console.print(title, style="bold")
    console.print(" ".join(subtitle.split()), style="dim")
    print_maps(console, maps, card, analyses, scores)
