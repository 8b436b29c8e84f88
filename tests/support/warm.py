"""Real processes without the seconds of their imports: each is forked from one that has imported what a run needs.

They can be killed, have a standard output of their own and show every warning, as those of `python train.py` do.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import chdir
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from tests.support.places import ROOT

PRELOADED = ["tests.support.everything"]
PATH = list(sys.path)  # of a process that knows nothing of PYTHONPATH yet


def keep_warm() -> None:
    """Start the process from which others are forked, where there is none yet; it ends with this one."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with chdir(ROOT), mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


class Forked:
    """A process that runs `work`, as far as tests use one of `subprocess.Popen`; as a context, killed where it ends.

    Args:
        work: what it does, a function of a module.
        arguments: that `work` takes.
        folder: its working directory.
        argv: its `sys.argv`.
        environment: all of its variables.
    """

    def __init__(
        self,
        work: Callable[..., object],
        *arguments: object,
        folder: Path,
        argv: list[str],
        environment: Mapping[str, str],
    ):
        keep_warm()
        self._said = tempfile.TemporaryDirectory(prefix="forked-")
        given = (work, arguments, str(folder), argv, dict(environment), self._said.name)
        self._process = multiprocessing.get_context("forkserver").Process(target=_become, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    @property
    def returncode(self) -> int | None:
        """Exit status; minus the signal that has ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same as `returncode`."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, where it still runs."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; returns standard output and standard error."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("forked process", timeout or 0)
        out, err = ((Path(self._said.name) / name).read_text() for name in ("out", "err"))
        self._said.cleanup()
        return out, err


def settle_lightning() -> None:
    """Put right what Lightning decides once, when it is imported: the rank of the process, and who shows its log."""
    from lightning_fabric.utilities.rank_zero import _get_rank, rank_zero_only

    rank_zero_only.rank = _get_rank() or 0
    for name in ("pytorch_lightning", "lightning_fabric"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [], True  # as in a run, which imports it where the root has handlers


def _become(work: Callable[..., object], arguments: tuple, folder: str, argv: list[str], environment: dict, said: str):
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(Path(said) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
    tempfile.tempdir = None  # TMPDIR may be another one here
    sys.argv[:] = argv
    sys.path[1:1] = [one for one in environment.get("PYTHONPATH", "").split(os.pathsep) if one]
    settle_lightning()
    work(*arguments)
