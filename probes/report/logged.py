"""What loggers get of a run beside the metrics that modules log: the configuration, pictures, the summary."""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.image
import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from probes.report.heatmap import Heatmap
from probes.report.map_files import PICTURE
from probes.report.report import Report
from probes.report.run_folder import SUMMARY

log = logging.getLogger(__name__)

SHOWN = ("val/auc_best", "val/auc_mean", "test/auc_best", "test/auc_mean", "test/auc_baseline")  # on the HParams page


class Logged(pl.Callback):
    """Gives each logger of the trainer the configuration, the heatmap, more numbers and summary.json.

    The configuration goes to it before the fit, as hyperparameters; the heatmap after every validation and after the
    test; the summary after the test, with the AUC of the best baseline and the seconds of each stage as numbers. It
    reads the files that the callbacks before it wrote into the run folder. What a logger does not take is one line, and
    the run goes on. Global rank zero only.

    Args:
        config: hyperparameters by name, as ``probe.l2``.
        folder: of the run.
    """

    def __init__(self, config: Mapping[str, Any], folder: str | Path) -> None:
        self.config, self.folder = dict(config), Path(folder)

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Log the configuration, once the data is there."""
        if stage == "fit":
            _tell(trainer, "the configuration", lambda logger: log_config(logger, self.config))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the validation map, except during the sanity check."""
        if not trainer.sanity_checking:
            self._log_heatmap(trainer, "heatmap/val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the test map, the summary, and numbers from it."""
        self._log_heatmap(trainer, "heatmap/test")
        if trainer.is_global_zero and _has(trainer, Report):
            path = self.folder / SUMMARY
            numbers = read_numbers(json.loads(path.read_text("utf-8")))
            _tell(trainer, "numbers", lambda logger: logger.log_metrics(numbers, _step(trainer)))
            _tell(trainer, SUMMARY, lambda logger: log_file(logger, path))

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Close what stays open after the test."""
        if stage == "test":
            _close(trainer, failed=False)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Close what stays open."""
        _close(trainer, failed=True)

    def _log_heatmap(self, trainer: pl.Trainer, name: str) -> None:
        if _has(trainer, Heatmap):
            path = self.folder / PICTURE
            _tell(trainer, name, lambda logger: log_picture(logger, name, path, _step(trainer)))


def open_loggers(trainer: pl.Trainer) -> None:
    """Start the run of each logger, on global rank zero.

    Raises:
        ValueError: a logger does not start, as W&B without a login, or MLflow without its server.
    """
    for logger in trainer.loggers if trainer.is_global_zero else ():
        try:
            _start(logger)
        except Exception as error:  # each service has errors of its own
            offline = "add logger.wandb.offline=true" if isinstance(logger, WandbLogger) else "choose logger=csv"
            raise ValueError(
                f"logger: expected {type(logger).__name__} to start a run, got: {error}; mend that, or {offline}"
            ) from error


def _start(logger: Logger) -> None:
    try:
        getattr(logger, "experiment", None)
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise
        getattr(logger, "experiment", None)  # another job has just made MLflow's experiment, and it is found now


def log_config(logger: Logger, config: Mapping[str, Any]) -> None:
    """Log hyperparameters, in names and values that the logger takes."""
    if isinstance(logger, MLFlowLogger):
        logger.experiment.log_dict(logger.run_id, dict(config), "config.json")  # whole: long parameters are cut
        config = {re.sub(r"[^\w\-. :/]", "_", name, flags=re.A)[:250]: str(value) for name, value in config.items()}
    if isinstance(logger, TensorBoardLogger) and logger.root_dir is not None:
        from torch.utils.tensorboard.summary import hparams

        writer = logger.experiment._get_file_writer()
        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in config.items()}
        for part in hparams(plain, dict.fromkeys(SHOWN, 0.0)):  # the names of the numbers to show; no values yet
            writer.add_summary(part)
    logger.log_hyperparams(dict(config))


def log_picture(logger: Logger, name: str, path: Path, step: int) -> None:
    """Log a PNG file as an image, where the logger has images."""
    match logger:
        case WandbLogger():
            logger.log_image(name, [str(path)], step)
        case TensorBoardLogger():
            logger.experiment.add_image(name, matplotlib.image.imread(path), step, dataformats="HWC")
        case MLFlowLogger():
            logger.experiment.log_image(logger.run_id, matplotlib.image.imread(path), key=name, step=step)


def log_file(logger: Logger, path: Path) -> None:
    """Log a JSON file as an artifact, or as a text where the logger has no artifacts but texts."""
    match logger:
        case WandbLogger():
            import wandb

            artifact = wandb.Artifact(f"{path.stem}-{logger.version}", type=path.stem)
            artifact.add_file(str(path), policy="immutable")  # no copy of it in the home folder
            logger.experiment.log_artifact(artifact)
        case TensorBoardLogger():
            logger.experiment.add_text(path.name, f"```json\n{path.read_text('utf-8')}```")
        case MLFlowLogger():
            logger.experiment.log_artifact(logger.run_id, str(path))


def read_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of summary.json that no module logs: AUC of the best baseline, seconds of each stage.

    Of several targets the mean, as in ``test/auc_best``.
    """
    numbers = {f"seconds/{stage.replace(' ', '_')}": value for stage, value in summary["seconds"].items()}
    analysis = summary["analysis"] or {}
    analyses = [analysis] if "baselines" in analysis else list(analysis.values())
    found = [_read_baseline(one["baselines"]) for one in analyses]
    known = [auc for auc in found if auc is not None]
    if known and len(known) == len(found):
        numbers["test/auc_baseline"] = fmean(known)
    return numbers


def _read_baseline(table: Mapping[str, Any] | None) -> float | None:
    rows = {} if table is None else {row["name"]: row["auc"] for row in table["rows"]}
    return rows.get(table and table["best"])


def _has(trainer: pl.Trainer, kind: type[pl.Callback]) -> bool:
    """Whether this run writes a file; the folder may hold that of an earlier one."""
    return any(isinstance(callback, kind) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _step(trainer: pl.Trainer) -> int:
    """The step at which Lightning logs metrics; its global step stays 0 where nothing is optimised."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def _tell(trainer: pl.Trainer, what: str, how: Callable[[Logger], None]) -> None:
    """Give each logger something; a logger that does not take it is no reason to lose a run."""
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        try:
            how(logger)
        except Exception as error:
            log.warning("%s: did not take %s (%s)", type(logger).__name__, what, " ".join(str(error).split()))


def _close(trainer: pl.Trainer, failed: bool) -> None:
    """End the run of W&B, which Lightning leaves open: the next job of this process is another one."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and trainer.is_global_zero:
            logger.experiment.finish(exit_code=int(failed))
