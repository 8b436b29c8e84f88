"""One rank of a job: a process that reads the configuration from a file, runs it, and leaves word of how it ended."""

import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from probes.jobs.command.display import print_leniently
from probes.jobs.command.mistakes import is_mistake, tell
from probes.jobs.command.signals import send_lost_signals_again

FOLDER = "PROBEGRID_RANK"  # environment variable: the folder of the files below
CONFIGURATION, OBJECTIVE, STARTED = "job.yaml", "objective.json", "started"


@dataclass(frozen=True)
class Failure:
    """How a rank failed.

    Attributes:
        rank: on its machine.
        time: in seconds since 1970.
        mistake: whether a user can mend it.
        line: the error in a line.
        traceback: as Python prints it.
    """

    rank: int
    time: float
    mistake: bool
    line: str
    traceback: str

    @classmethod
    def read(cls, folder: Path, rank: int) -> "Failure | None":
        """What a rank has written; None where it has not."""
        try:
            return cls(**json.loads((folder / f"failure-{rank}.json").read_text("utf-8")))
        except (OSError, ValueError):
            return None

    def write(self, folder: Path) -> None:
        """Write it whole: whoever reads may be quick."""
        path = folder / f"failure-{self.rank}.json"
        path.with_suffix(".tmp").write_text(json.dumps(asdict(self)), "utf-8")
        path.with_suffix(".tmp").replace(path)


def run_rank(run: Callable[[DictConfig], float | None]) -> None:
    """Run the job of the configuration that `FOLDER` leads to, and exit with status 1 where it fails.

    An error is written down and not shown: the process that started the ranks knows whose error came first.
    """
    print_leniently()
    folder, rank = Path(os.environ[FOLDER]), int(os.environ["LOCAL_RANK"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # in all threads, before there are any: one waits for it
    threading.Thread(target=_end_at_signal, daemon=True).start()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    try:
        (folder / f"{STARTED}-{rank}").touch()
        job: Any = OmegaConf.load(folder / CONFIGURATION)
        sys.path[:] = list(job.path)  # where the user's own classes are
        _log_as(rank, job)
        with send_lost_signals_again():
            objective = run(job.cfg)
        if objective is not None and _is_rank_zero(rank):
            (folder / OBJECTIVE).write_text(json.dumps(objective))
    except KeyboardInterrupt:  # whoever started this process passes it on, and tells of it
        _flush()
        os._exit(128 + signal.SIGINT)
    except Exception as error:
        mistake = is_mistake(error)
        line = tell(error) if mistake else f"{type(error).__name__}: {' '.join(str(error).split())}"
        Failure(rank, time.time(), mistake, line, traceback.format_exc()).write(folder)
        _flush()
        os._exit(1)  # at once: to take a process group down would wait for the others


def escape(value: Any) -> Any:
    """Values as they are, so that reading them back takes no text for an interpolation.

    >>> escape({"prompt": "costs ${x}"})
    {'prompt': 'costs \\\\${x}'}
    """
    if isinstance(value, dict):
        return {key: escape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [escape(part) for part in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _is_rank_zero(rank: int) -> bool:
    return rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _end_at_signal() -> None:
    """End by SIGTERM at once. Lightning's handler would wait for the other ranks, which know nothing of it."""
    signal.sigwait([signal.SIGTERM])
    _flush()
    os._exit(128 + signal.SIGTERM)


def _end_with_starter() -> None:
    """End when standard input closes: whoever started this process is gone."""
    while os.read(0, 1):  # not by sys.stdin, whose lock Python wants when it ends
        pass
    _flush()
    os._exit(1)


def _flush() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()


def _log_as(rank: int, job: Any) -> None:
    """Log where the job does. Ranks beside the first tell warnings alone, with their number."""
    if job.job_logging is not None:
        for handler in job.job_logging.get("handlers", {}).values():
            if "filename" in handler:
                handler.mode = "a"  # what the starter has written there stays
        configure_log(job.job_logging, job.verbose)
    if _is_rank_zero(rank):
        return
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    make = logging.getLogRecordFactory()

    def make_with_rank(*args: Any, **more: Any) -> logging.LogRecord:
        record = make(*args, **more)
        record.msg = f"rank {rank}: {record.msg}"
        return record

    logging.setLogRecordFactory(make_with_rank)
