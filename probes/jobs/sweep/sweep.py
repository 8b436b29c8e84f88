"""A sweep: what all its jobs share before the first, and what is said of them after the last."""

import logging
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from probes.jobs.command.claim import claim_folder, let_go
from probes.jobs.command.keys import refuse_mistakes
from probes.jobs.command.mistakes import stop_at_mistakes
from probes.jobs.sweep.gather import gather
from probes.jobs.sweep.gpus import GPUS, LOCKS, check_jobs_at_once, list_gpus
from probes.jobs.sweep.job import BASIC, LATEST
from probes.jobs.sweep.job_file import JOB
from probes.jobs.sweep.naming import check_names, find_swept, quote, read_values, take_first
from probes.settings import check_ckpt_path, check_objective

log = logging.getLogger("probegrid")
NO_TRIAL = ("No trials are completed yet.", "Record does not exist.")  # in Optuna's words, without and with a store
ROOT = Path(__file__).resolve().parents[3]


class Sweep(Callback):
    """Hydra's callback: settles what all jobs of a sweep share, and keeps its folder for `end_sweep`.

    Hydra composes each job from the overrides `hydra.overrides.hydra` of the sweep and its own, so what stands there
    reaches every job, in whatever process. These come first: the command line wins over them.
    """

    current: "Sweep | None" = None

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.scale = (0.5, 1.0)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Settle it. Hydra turns what a callback raises into a warning, so any error stops here."""
        try:
            with stop_at_mistakes():
                self.folder = self._start(config)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        self.scale = (config.heatmap.vmin, config.heatmap.vmax)
        Sweep.current = self

    def _start(self, config: DictConfig) -> Path:
        given = list(config.hydra.overrides.task)
        basic = config.hydra.sweeper._target_.endswith(BASIC)
        swept = find_swept(given, config.hydra.sweeper.get("params"))
        check_names(swept)
        check_folders(config, given, swept)
        refuse_mistakes(compose(config.hydra.job.config_name, take_first(given)))
        if "optuna" in config.hydra.sweeper._target_:
            import optuna

            optuna.logging.set_verbosity(logging.WARNING)  # each job has a line of its own
        if OmegaConf.select(config, "checks.objective"):
            check_objective(config.objective)
        if OmegaConf.select(config, "checks.ckpt_path") and "ckpt_path" not in swept:
            check_ckpt_path(config.ckpt_path)
        gpus = list_gpus() if config.hydra.launcher._target_.endswith("JoblibLauncher") else []
        if gpus:
            check_jobs_at_once(config.hydra.launcher.n_jobs, len(gpus))
        folder = choose_folder(config, resume=config.resume, basic=basic)
        shared = [f"hydra.sweep.dir={quote(str(folder))}"]
        terminal = dict(read_values(given)).get("report.terminal", "line")
        if "report.terminal" not in swept:
            shared.append(f"report.terminal={terminal}")
        if terminal == "line" and OmegaConf.select(config, "hydra.job_logging.handlers.console"):
            shared.append("++hydra.job_logging.handlers.console.level=WARNING")
        shared += gather(config, given, swept)
        fixed = {*read_values(given), *read_values([one for one in shared if "hydra." not in one])} - set(swept)
        shared.append(f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(quote, sorted(fixed)))}]")
        with read_write(config), open_dict(config):
            config.hydra.overrides.hydra += shared
            config.hydra.sweep.dir = str(folder)
        if not config.hydra.launcher._target_.endswith("BasicLauncher"):
            # other processes do not start from train.py
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        if gpus:
            os.environ |= {GPUS: ",".join(gpus), LOCKS: str(folder)}
        return folder


def check_folders(config: DictConfig, given: Sequence[str], swept: Collection[str]) -> None:
    """Refuse settings with which jobs of a sweep would write into one folder, over each other.

    Raises:
        ValueError: `folder` is set, or the folders of jobs have names that need not differ.
    """
    if "folder" in read_values(given):
        raise ValueError(
            "folder: expected none in a sweep, where each job has a folder of its own, got one for all; name that of "
            "the sweep with hydra.sweep.dir=FOLDER"
        )
    name: Any = OmegaConf.to_container(config.hydra.sweep)
    name = str(name["subdir"])
    differs = any(part in name for part in ("${job_folder:", "hydra.job.num", "hydra.job.id", "hydra:job.num"))
    if "/" in name or not (differs or (swept and all(f"${{{key}}}" in name for key in swept))):
        raise ValueError(
            f"hydra.sweep.subdir: expected a name that differs between jobs, without a /, got {name}; leave it out, or "
            "put ${hydra.job.num} into it"
        )


def choose_folder(config: DictConfig, resume: bool, basic: bool) -> Path:
    """The folder of a sweep, made: the newest for one that is resumed without a folder, else a new one.

    Raises:
        ValueError: there is none to resume, or the values of the sweep are drawn.
    """
    given: Any = OmegaConf.to_container(config.hydra.overrides.hydra)  # unresolved: some values are those of a job
    named = any(one.startswith("hydra.sweep.dir=") for one in given)
    folder = Path(config.hydra.sweep.dir).absolute()
    if resume and not basic:
        raise ValueError(
            "resume: expected a sweep over given values, got a search, which draws them; name the study and its store "
            "instead: hydra.sweeper.study_name=NAME hydra.sweeper.storage=sqlite:///NAME.db"
        )
    if resume:
        folder = folder if named else Path(LATEST).resolve()
        if not folder.is_dir():
            raise ValueError(
                f"resume: expected the folder of a sweep, got {folder}, which is none; leave resume out, or name it: "
                "hydra.sweep.dir=FOLDER"
            )
    return claim_folder("hydra.sweep.dir", folder, named or resume)


@contextmanager
def end_sweep() -> Iterator[None]:
    """Around all of Hydra: after a sweep, however it ends, show its results; exit status 1 where a job failed.

    Hydra's own `on_multirun_end` is not called where a launcher or a search raises, or the user interrupts.
    """
    failed = 0
    try:
        yield
    except ValueError as error:
        if str(error) not in NO_TRIAL:  # a search of which every job failed: the list below says it
            raise
    finally:
        sweep, Sweep.current = Sweep.current, None
        if sweep and sweep.folder:
            with stop_at_mistakes():
                failed = report(sweep.folder, *sweep.scale)
            let_go(sweep.folder)
    if failed:
        sys.exit(1)


def report(folder: Path, vmin: float, vmax: float) -> int:
    """Print and write the results of the jobs in a folder; returns how many failed."""
    from datamodules.card import show_text
    from probes.jobs.sweep.collect import publish
    from probes.jobs.sweep.results import iterate_failures, tabulate_runs

    folders = [path.parent for path in folder.glob(f"*/{JOB}")]
    if not folders:
        return 0
    rows = tabulate_runs(folders)
    failures = list(iterate_failures(rows))
    try:
        publish(folder, rows, vmin, vmax)
    finally:  # a full disk leaves the list at least
        if failures:
            print(
                f"\n{len(failures)} of {len(folders)} jobs failed:",
                *map(show_text, failures),
                sep="\n",
                file=sys.stderr,
                flush=True,
            )
    return len(failures)
