"""job.json: what became of a job of a sweep."""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from probes.report.whole_file import whole_file

log = logging.getLogger("probegrid")
JOB = "job.json"
NUMBER = (int, float, type(None))
KINDS = {"status": str, "number": NUMBER, "objective": NUMBER, "seconds": NUMBER, "error": (str, type(None))}


def read_job(folder: Path) -> dict[str, Any]:
    """The content of job.json; empty where there is none, or what is there was not written by `write_job`."""
    with suppress(OSError, ValueError):
        record = json.loads((folder / JOB).read_text("utf-8"))
        if isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in KINDS.items()):
            return record
    return {}


def write_job(folder: Path, record: dict[str, Any]) -> None:
    """Write job.json whole or not at all; a full disk is told, and ends no other job.

    Where there is no room for a second file, the first is written over: that a job failed has to be known.
    """
    text = json.dumps(record, indent=2) + "\n"
    try:
        with whole_file(folder / JOB) as path:
            path.write_text(text, "utf-8")
    except OSError as error:
        log.error("error: %s", error)
        with suppress(OSError), (folder / JOB).open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()
