"""Run a configuration: `python train.py [overrides]`, or `probegrid [overrides]`. Composes, computes nothing.

Torch and Lightning take seconds to import, so they are loaded when the configuration is known to hold together.
"""

from probes.jobs.command.signals import end_at_once, end_at_signals, run_to_end

if __name__ == "__main__":
    end_at_once()  # the imports that follow take long enough for a Ctrl-C

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from probes.jobs.collector import pause_collection
from probes.jobs.command.command_line import check_command_line, check_thread_limits
from probes.jobs.command.display import print_leniently
from probes.jobs.command.empty_groups import spell_null
from probes.jobs.command.folders import find_run_folder, find_start_folder, settle_folders
from probes.jobs.command.help import describe_groups
from probes.jobs.command.keys import refuse_mistakes
from probes.jobs.command.mistakes import HydraFullError, is_mistake, stop_at_mistakes
from probes.jobs.command.targets import refuse_other_targets_of_hydra
from probes.jobs.command.values import refuse_wrong_values
from probes.jobs.loggers import report_to_loggers
from probes.jobs.one_rank import FOLDER, run_rank
from probes.jobs.ranks import check_world, count_to_start, let_rank_zero_speak, run_ranks
from probes.jobs.run_name import choose_run_name
from probes.jobs.sweep.gpus import count_jobs_at_once
from probes.jobs.sweep.job import Job, choose_job_folder, point_to
from probes.jobs.sweep.job_file import JOB
from probes.jobs.sweep.sweep import end_sweep

if TYPE_CHECKING:
    import pytorch_lightning as pl

log = logging.getLogger("probegrid")

# True of this program by design, and so no news to its users.
warnings.filterwarnings("ignore", message=".*configure_optimizers. returned .None.")
warnings.filterwarnings("ignore", message="It is recommended to use .self.log.*sync_dist=True")  # equal on all ranks
warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # split.val=0
warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


def build(node: DictConfig | None, **more: Any) -> Any:
    """Instantiate one node of the configuration; everything that Hydra instantiates comes through here."""
    try:
        return hydra.utils.instantiate(node, _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if not is_mistake(cause):  # a value of another kind, an unknown key, a _target_ that is not there
            raise ValueError(f"configuration: {cause}") from cause
        raise cause from None  # the constructor's own words, without Hydra's around them


def check(node: DictConfig) -> None:
    """Find the missing values of a node, and mistakes in its parts, without Lightning.

    The parts are records that are built in no time; with the node itself they are built once more.
    """
    for part in node.values():  # a missing value raises
        if isinstance(part, DictConfig) and "_target_" in part:
            build(part)


@let_rank_zero_speak
def run(cfg: DictConfig) -> float | None:
    """Fit, test and report, or carry out another command; return the sweep objective."""
    with pause_collection():
        refuse_mistakes(cfg)
        cfg = settle_folders(cfg)
        n_ranks = 0
        if cfg.command is None:
            check(cfg.checks)
            check(cfg.datamodule)
            n_ranks = count_to_start(cfg.trainer)
            if not n_ranks:
                load_lightning(cfg)
    if cfg.command is not None:
        build(cfg.command)
        return None
    return run_ranks(cfg, n_ranks, Path(__file__).resolve()) if n_ranks else fit_and_test(cfg)


def load_lightning(cfg: DictConfig) -> None:
    """Import Lightning and what the configuration names, and find the mistakes that only they can tell."""
    levels = {log: log.level for log in map(logging.getLogger, ("pytorch_lightning", "lightning_fabric"))}
    import pytorch_lightning  # noqa: F401

    for lightning_log, level in levels.items():
        lightning_log.setLevel(level)  # that of hydra.job_logging; the import sets its own
    refuse_wrong_values(cfg, light=False)


def fit_and_test(cfg: DictConfig) -> float | None:
    """Build the parts of a run, fit, test and save; return the sweep objective."""
    from pytorch_lightning import seed_everything
    from pytorch_lightning.callbacks import Checkpoint

    from probes.jobs.checkpoint import restoring

    seed_everything(cfg.seed, workers=True, verbose=False)
    probe: pl.LightningModule = build(cfg.probe)  # first: the data module imports transformers
    datamodule: pl.LightningDataModule = build(cfg.datamodule)
    callbacks, loggers = (
        [build(node) for node in (cfg.get(group) or {}).values()] for group in ("callbacks", "logger")
    )
    if not cfg.trainer.get("logger", True):
        loggers = []
    saving = {"enable_checkpointing": True} if any(isinstance(one, Checkpoint) for one in callbacks) else {}
    trainer: pl.Trainer = build(cfg.trainer, callbacks=callbacks, logger=loggers, **saving)
    check_world(trainer.world_size)
    report_to_loggers(trainer, cfg)
    folder = Path(cfg.folder)
    with restoring(trainer, cfg.ckpt_path):
        trainer.fit(probe, datamodule, ckpt_path=cfg.ckpt_path, weights_only=True)
    metrics = dict(trainer.callback_metrics)  # the test drops those of the validation
    if cfg.ckpt_path is not None and not metrics:  # of a finished fit: nothing was left to fit, nor to validate
        trainer.validate(probe, datamodule, verbose=False)
        metrics = dict(trainer.callback_metrics)
    if trainer.max_epochs == 0:  # experiment=cache_only: setting up has built what the cache lacked
        return None
    trainer.save_checkpoint(folder / "probe.ckpt")
    trainer.test(probe, datamodule, verbose=False)
    if trainer.is_global_zero and not (folder / JOB).exists():  # a sweep has a link of its own
        point_to(find_start_folder() / "outputs/latest", folder)
    objective = (metrics | trainer.callback_metrics).get(cfg.objective)
    return None if objective is None else float(objective)


def choose_accelerator() -> str:
    """What `${gpu_or_cpu:}` stands for in a configuration."""
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def choose_gpu_for_probes() -> str:
    """What `${gpu_for_probes:}` stands for: the CPU where the only GPU is Apple's, which has no float64."""
    return "cpu" if choose_gpu_for_model() else "gpu"


def choose_gpu_for_model() -> str | None:
    """What `${gpu_for_model:}` stands for: Apple's GPU where there is no other, else that of the trainer."""
    import torch

    return "mps" if torch.backends.mps.is_available() and not torch.cuda.is_available() else None


OmegaConf.register_new_resolver("run_folder", find_run_folder, replace=True)
OmegaConf.register_new_resolver("run_name", choose_run_name, replace=True)
OmegaConf.register_new_resolver("groups", describe_groups, replace=True)
OmegaConf.register_new_resolver("job_folder", choose_job_folder, replace=True)
OmegaConf.register_new_resolver("jobs_at_once", count_jobs_at_once, replace=True)
OmegaConf.register_new_resolver("gpu_or_cpu", choose_accelerator, replace=True)
OmegaConf.register_new_resolver("gpu_for_probes", choose_gpu_for_probes, replace=True)
OmegaConf.register_new_resolver("gpu_for_model", choose_gpu_for_model, replace=True)
CONF = Path(__file__).resolve().parent / "conf"
hydra_job = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")


def main() -> None:
    """Run, and turn a user's mistake into one line and exit status 1; HYDRA_FULL_ERROR=1 shows the traceback."""
    print_leniently()
    logging.raiseExceptions = False  # a full disk takes no log lines, and is told once
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait in busy loops slow down a busy machine
    sys.argv[1:] = [spell_null(argument, CONF) for argument in sys.argv[1:]]
    users_value = os.environ.get("HYDRA_FULL_ERROR")
    job = hydra_job(Job(run, users_value))
    if users_value == "1":
        with end_at_signals(), refuse_other_targets_of_hydra(), end_sweep():
            job()
        return
    with HydraFullError("1"), end_at_signals(), stop_at_mistakes(), refuse_other_targets_of_hydra(), end_sweep():
        check_command_line(sys.argv[1:])
        check_thread_limits(os.environ)
        job()


if __name__ == "__main__":
    run_to_end(lambda: run_rank(run) if FOLDER in os.environ else main())
