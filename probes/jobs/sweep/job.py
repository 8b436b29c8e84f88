"""One job: what surrounds a run, alone or in a sweep."""

import gc
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from probes.jobs.command.claim import claim_folder
from probes.jobs.command.display import print_leniently
from probes.jobs.command.folders import find_start_folder, iterate_inputs
from probes.jobs.command.mistakes import HydraFullError, is_mistake, stop_at_mistakes, tell
from probes.jobs.command.signals import raise_signal_again
from probes.jobs.messages import say
from probes.jobs.sweep.gpus import take_gpu
from probes.jobs.sweep.job_file import JOB, read_job, write_job
from probes.jobs.sweep.naming import label_job, name_folder, read_values, round_number

log = logging.getLogger("probegrid")
LATEST = "multirun/latest"  # leads to the newest sweep
BASIC = "BasicSweeper"
Run = Callable[[DictConfig], float | None]


class Job:
    """What Hydra calls for each job: runs a configuration and returns the objective.

    Alone, a user's mistake becomes one line and exit status 1. In a sweep no error leaves the job, so that the others
    go on: it is logged, written into job.json, and the objective is None.

    Launchers send it to other processes. There it imports `train` anew, which brings its resolvers and filters along.

    Args:
        run: runs a configuration.
        full_error: the user's own value of HYDRA_FULL_ERROR; "1" shows the traceback of a mistake.
    """

    def __init__(self, run: Run, full_error: str | None = None) -> None:
        self.run, self.full_error = run, full_error

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.full_error,)

    def __call__(self, cfg: DictConfig) -> float | None:
        """Run one job."""
        with HydraFullError(self.full_error):
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                return self._run_in_sweep(cfg)
            if self.full_error == "1":
                return self._run_alone(cfg)
            with stop_at_mistakes():
                return self._run_alone(cfg)

    def _run_alone(self, cfg: DictConfig) -> float | None:
        if cfg.resume:
            raise ValueError("resume: expected a sweep, as in python train.py -m ... resume=true, got a run; remove it")
        if cfg.command is None and isinstance(cfg.folder, str):  # the one that Hydra made, unless it is given
            claim_folder("folder", Path(cfg.folder).absolute(), named=True)
        return self.run(cfg)

    def _run_in_sweep(self, cfg: DictConfig) -> float | None:
        hydra = HydraConfig.get()
        folder, differing = Path(hydra.runtime.output_dir), find_differing(hydra)
        label = label_job(differing) or "job"
        record: dict[str, Any] = {
            "status": "running", "number": hydra.job.num, "differing": differing, "configuration": digest(cfg),
            "objective": None, "error": None, "seconds": None,
        }  # fmt: skip
        if hydra.job.num == 0:
            latest = Path(hydra.runtime.cwd, LATEST)
            if latest.parent.is_dir():  # none is made for a sweep that has its folder elsewhere
                point_to(latest, folder.parent)
            say(f"sweep: {folder.parent}")
        if cfg.resume and (earlier := find_complete(folder, record["configuration"])):
            write_job(folder, earlier | {"number": record["number"]})
            say(f"{label}: complete already")
            return earlier["objective"]
        if cfg.resume and (folder / JOB).exists():
            _clear(folder)
        write_job(folder, record)
        if cfg.report.terminal == "line":
            _drop_bars(cfg)
            _drop_repeated_lines()
        first = not gc.get_freeze_count()  # in this process
        start = time.monotonic()
        try:
            take_gpu()
            record |= {"objective": self._require_objective(self.run(cfg), cfg, hydra), "status": "done"}
        except Exception as error:
            raise_signal_again()
            text = tell(error) if is_mistake(error) else f"{type(error).__name__}: {' '.join(str(error).split())}"
            record |= {"status": "failed", "error": text}
            log.error("%s: error: %s", label, text)
            if self.full_error == "1" or not is_mistake(error):
                # into train.log; on the terminal where the user asks for it
                log.log(logging.ERROR if self.full_error == "1" else logging.INFO, "%s:", label, exc_info=error)
        record["seconds"] = round(time.monotonic() - start, 3)
        write_job(folder, record)
        if record["status"] == "done" and cfg.report.terminal == "line":
            _print_line(label, folder, record["seconds"])
        gc.collect()  # Lightning's objects refer to each other; the next job needs their memory
        if first:
            gc.freeze()  # what the first job has imported stays; to go through it takes as long as a small fit
        return record["objective"]

    @staticmethod
    def _require_objective(objective: float | None, cfg: DictConfig, hydra: HydraConf) -> float | None:
        if objective is None and not hydra.sweeper._target_.endswith(BASIC):
            raise ValueError(
                f"objective: expected {cfg.objective} to be measured, as the search needs it, got nothing; choose "
                "another, or split.val above 0"
            )
        return objective


def _restore(full_error: str | None) -> Job:
    import train  # registers the resolvers, and silences warnings

    print_leniently()
    return Job(train.run, full_error)


def find_differing(hydra: HydraConf) -> dict[str, str]:
    """Values by key of what differs between the jobs of a sweep, for the job of this Hydra configuration."""
    fixed = set(hydra.job.config.override_dirname.exclude_keys)  # what `Sweep` found
    return {key: value for key, value in read_values(hydra.overrides.task).items() if key not in fixed}


def choose_job_folder() -> str:
    """What `${job_folder:}` stands for: what differs; a search, which may draw the same twice, puts a number before."""
    hydra = HydraConfig.get()
    differing = find_differing(hydra)
    if hydra.sweeper._target_.endswith(BASIC):
        return name_folder(differing)
    rounded = {key: round_number(value) for key, value in differing.items()}
    return f"{hydra.job.num:03}+{name_folder(rounded)}"


def digest(cfg: DictConfig) -> str:
    """Digest of all that a result follows from: the configuration, and size and time of the files that it names.

    What is only cached beside what a run reads is left out: it depends on the other jobs of the sweep.
    """
    tree: Any = OmegaConf.to_container(cfg)
    for key in ("resume", "report"):
        tree.pop(key, None)
    for group in ("site", "positions"):
        for key in ("also", "also_layers"):
            (tree.get(group) or {}).pop(key, None)
    text = OmegaConf.to_yaml(OmegaConf.create(tree), sort_keys=True)
    for path in iterate_inputs(cfg, find_start_folder()):
        text += f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}\n"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_complete(folder: Path, configuration: str) -> dict[str, Any] | None:
    """The record of a job that was finished with this configuration, and whose result is still there."""
    from probes.report.run_folder import SUMMARY

    earlier = read_job(folder)
    same = earlier.get("status") == "done" and earlier.get("configuration") == configuration
    return earlier if same and (earlier["objective"] is None or (folder / SUMMARY).exists()) else None


def point_to(link: Path, folder: Path) -> None:
    """Let a link lead to the newest folder; where that fails, all else goes on."""
    new = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        link.parent.mkdir(exist_ok=True)
        new.symlink_to(os.path.relpath(folder, link.parent))
        new.replace(link)
    except OSError as error:
        log.warning("%s: no link to %s (%s)", link, folder, error.strerror)


def _drop_bars(cfg: DictConfig) -> None:
    """A job of a sweep shows a line, and no bars of its fit."""
    with open_dict(cfg):
        bars = [key for key, one in (cfg.get("callbacks") or {}).items() if "ProgressBar" in str(one.get("_target_"))]
        for key in bars:
            del cfg.callbacks[key]
        if "trainer" in cfg:
            cfg.trainer.enable_progress_bar = False


_said: set[str] = set()


def _drop_repeated_lines() -> None:
    """What one job of a sweep warns of, the next need not say again on the terminal; train.log has all."""

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = record.levelno >= logging.ERROR or text not in _said
        _said.add(text)
        return new

    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(is_new)


def _clear(folder: Path) -> None:
    """Remove what an unfinished job left, but for its log."""
    for path in folder.iterdir():
        if path.name != ".hydra" and path.suffix != ".log":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _print_line(label: str, folder: Path, seconds: float) -> None:
    from probes.jobs.sweep.results import describe, read_results

    rows = read_results(folder)
    for row in rows or [{}]:
        named = f"{label}, {row['target']}" if len(rows) > 1 else label
        say(f"{named}: {describe(row)}, {seconds:.0f} s")
