"""Runs of `train.py` in a process of their own, and in this one."""

import csv
import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.figure import Figure

import train
from tests.support.places import ROOT
from tests.support.warm import Forked
from tests.support.warm_ranks import run_with_warm_ranks

TRAIN = ROOT / "train.py"


def command(folder: Path, *overrides: str) -> list[str]:
    """The command of a run that writes into `folder`, its cache too."""
    options = [override for override in overrides if override.startswith("-")]  # these come first
    rest = [override for override in overrides if override not in options]
    return [sys.executable, str(TRAIN), *options, f"hydra.run.dir={folder}/run", f"cache.root={folder}/cache", *rest]


def fork(folder: Path, *overrides: str) -> Forked:
    """Start a run in `folder`, without the imports of its processes, and do not wait for it."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return Forked(run_with_warm_ranks, folder=folder, argv=command(folder, *overrides)[1:], environment=environment)


def run_forked(folder: Path, *overrides: str) -> tuple[int, str, str]:
    """The same as `run`, without the imports of its processes."""
    process = fork(folder, *overrides)
    out, err = process.communicate(timeout=300)
    return process.returncode or 0, out, err


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start a run in `folder` and do not wait for it."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.Popen(
        command(folder, *overrides),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *overrides: str) -> tuple[int, str, str]:
    """Run to the end; returns exit status, standard output and standard error."""
    process = start(folder, *overrides)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run_here(folder: Path, *overrides: str) -> tuple[int, str, str]:
    """The same as `run` in this process, which spares the imports; logging is put back afterwards."""
    folder.mkdir(exist_ok=True)
    root, out, err, status = logging.getLogger(), io.StringIO(), io.StringIO(), 0
    before = {log: (log.handlers, log.level) for log in [root, *map(logging.getLogger, ("probegrid", "hydra"))]}
    root.handlers = []
    with (
        chdir(folder),
        mock.patch.object(sys, "argv", command(folder, *overrides)[1:]),
        mock.patch.dict(os.environ, COLUMNS="100"),
        redirect_stdout(out),
        redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # those that train.py silences; a run in a process of its own shows others
        try:
            train.main()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            for log, (handlers, level) in before.items():
                for opened in {*log.handlers} - {*handlers}:
                    opened.close()
                log.handlers = handlers
                log.setLevel(level)  # which forgets what loggers remember of it
    return status, out.getvalue(), err.getvalue()


@contextmanager
def without_pictures() -> Iterator[None]:
    """Pictures of runs in this process are one byte: drawing takes half of a small run."""

    def write_byte(self: Figure, to: Any, **_: Any) -> None:
        to.write(b".") if hasattr(to, "write") else Path(to).write_bytes(b".")

    with mock.patch.object(Figure, "savefig", write_byte):
        yield


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of `heatmap.csv` that a run left under `folder`."""
    return list(csv.DictReader((folder / "run" / "heatmap.csv").read_text().splitlines()))
