"""Ranks without the seconds of their imports: each is forked from the process that starts it, which has imported all.

They have a session, a standard input, an environment and an exit status of their own, and can be killed, as those that
`probes/jobs/ranks.py` starts. `tests/test_ranks.py` and `tests/test_installed.py` start ranks that import for
themselves.
"""

import logging
import os
import signal
import sys
import traceback
import weakref
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import train
from probes.jobs import ranks
from probes.jobs.command.signals import end_at_once, run_to_end
from probes.jobs.one_rank import run_rank
from tests.support.warm import PATH, settle_lightning


def run_with_warm_ranks() -> None:
    """What `python train.py` does, with ranks that are forked from this process; does not return."""
    with mock.patch.object(ranks, "_start", WarmRank):
        end_at_once()
        run_to_end(train.main)


class WarmRank:
    """A forked rank, as far as `probes.jobs.ranks` uses one of `subprocess.Popen`.

    Args:
        program: train.py.
        environment: all of its variables.
    """

    def __init__(self, program: Path, environment: dict[str, str]):
        read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _become_rank(program, environment, read)
        os.close(read)
        self.stdin = os.fdopen(write, "wb")

    def poll(self) -> int | None:
        """Exit status; minus the signal that has ended it; None while it runs."""
        return self._look(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait for its end; returns the exit status."""
        return self._look(0)

    def send_signal(self, number: int) -> None:
        """Send a signal, where it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _look(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _become_rank(program: Path, environment: dict[str, str], stdin: int) -> None:
    """What a new process has and knows, and then what `python train.py` does in a rank; does not return."""
    try:
        os.setsid()
        os.dup2(stdin, 0)
        for log in (logging.root, *map(logging.getLogger, ("probegrid", "hydra"))):
            for handler in log.handlers[:]:
                log.removeHandler(handler)
                handler.close()
        for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # of the starter's folders
            finalizer.detach()
        os.closerange(3, 1024)  # the ends of other ranks' standard inputs among them
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:], sys.path[:] = [str(program)], PATH
        sys.unraisablehook = sys.__unraisablehook__
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
        settle_lightning()
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        end_at_once()
        run_to_end(lambda: run_rank(train.run))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
