import json
import logging
import sqlite3
import warnings
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from probes.report.heatmap import Heatmap
from probes.report.logged import Logged, log_config, open_loggers, read_numbers
from probes.report.mlflow_store import open_mlflow
from probes.report.report import Report


def a_trainer(*loggers: Any, callbacks=(), rank: int = 0) -> Any:
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=4))
    named = {"loggers": loggers, "callbacks": callbacks, "is_global_zero": rank == 0, "fit_loop": loop}
    return SimpleNamespace(**named, sanity_checking=False)


class Full(CSVLogger):
    """Takes nothing."""

    def log_hyperparams(self, params=None, step=None):
        raise RuntimeError("the service\nis full")

    log_metrics = log_hyperparams  # type: ignore[assignment]


def a_summary(*baselines: float | None) -> dict[str, Any]:
    """Of so many targets, each with the test AUC of its best baseline."""
    targets = {
        f"seed {number}": {
            "baselines": auc
            and {"best": "length", "rows": [{"name": "other", "auc": 0.99}, {"name": "length", "auc": auc}]}
        }
        for number, auc in enumerate(baselines)
    }
    found = targets if len(targets) != 1 else targets["seed 0"]
    return {"seconds": {"fit and validation": 2.5}, "analysis": found or None}


def test_numbers_are_read_from_the_summary():
    assert read_numbers(a_summary(0.8)) == {"seconds/fit_and_validation": 2.5, "test/auc_baseline": 0.8}
    assert read_numbers(a_summary(0.5, 0.75))["test/auc_baseline"] == 0.625  # the mean, as of auc_best
    for without in (a_summary(), a_summary(None), a_summary(0.5, None)):
        assert read_numbers(without) == {"seconds/fit_and_validation": 2.5}


def test_what_a_logger_does_not_take_is_a_line_and_the_others_get_it(tmp_path, caplog):
    other = CSVLogger(tmp_path, "other", 0)
    (tmp_path / "summary.json").write_text(json.dumps(a_summary(0.8)))
    trainer = a_trainer(Full(tmp_path), other, callbacks=[Report(tmp_path)])
    callback = Logged({"probe.l2": 1.0}, tmp_path)
    with caplog.at_level(logging.WARNING):
        callback.setup(trainer, None, "fit")
        callback.on_test_end(trainer, None)
    assert [record.getMessage() for record in caplog.records] == [
        "Full: did not take the configuration (the service is full)",
        "Full: did not take numbers (the service is full)",
    ]
    assert other.experiment.hparams == {"probe.l2": 1.0}
    assert other.experiment.metrics == [{"test/auc_baseline": 0.8, "seconds/fit_and_validation": 2.5, "step": 4}]


def test_other_ranks_and_files_of_an_earlier_run_are_not_logged(tmp_path):
    """The folder may hold a picture and a summary that this run does not write."""
    (tmp_path / "summary.json").write_text(json.dumps(a_summary(0.8)))
    (tmp_path / "heatmap.png").write_text("no picture")
    logger = CSVLogger(tmp_path / "logs")
    for trainer in (a_trainer(logger), a_trainer(logger, callbacks=[Report(tmp_path), Heatmap(tmp_path)], rank=1)):
        callback = Logged({}, tmp_path)
        callback.on_validation_end(trainer, None)
        callback.on_test_end(trainer, None)
    assert logger.experiment.metrics == []


def test_a_logger_that_does_not_start_is_one_line(tmp_path):
    class NoLogin(WandbLogger):
        @property
        def experiment(self):
            raise RuntimeError("No API key configured.")

    with pytest.raises(
        ValueError, match=r"^logger: expected NoLogin to start a run, got: No API key configured.; mend t"
    ):
        open_loggers(a_trainer(NoLogin(save_dir=tmp_path)))
    open_loggers(a_trainer(NoLogin(save_dir=tmp_path), rank=1))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ValueError, match=r"^logger: expected CSVLogger to start a run, got: .*Not a directory"):
        open_loggers(a_trainer(CSVLogger(blocked / "in")))


def test_a_run_of_wandb_ends_with_the_job_well_or_not():
    codes = []
    logger = WandbLogger(experiment=SimpleNamespace(finish=lambda exit_code: codes.append(exit_code)))  # type: ignore[arg-type]
    callback = Logged({}, "folder")
    callback.teardown(a_trainer(logger), None, "fit")  # the test is still to come
    assert codes == []
    callback.teardown(a_trainer(logger), None, "test")
    callback.on_exception(a_trainer(logger), None, RuntimeError())
    assert codes == [0, 1]


def test_names_and_values_that_mlflow_would_refuse_are_made_to_fit(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that MLflow imports
        logger = open_mlflow(uri, experiment_name="test", artifact_location=f"file:{tmp_path}/artifacts")
        config = {
            "long": "x" * 9000,
            "labels.größe=1": 1,
            "empty": "",
            "none": None,
            "list": [],
            "n" * 300: 2,
            "nan": 1e999,
        }
        log_config(logger, config | {f"key{number}": number for number in range(250)})
    with closing(sqlite3.connect(tmp_path / "new" / "mlflow.db")) as store:
        rows = store.execute("select key, value from params").fetchall()
    found = dict(rows)
    assert len(rows) == 257
    assert found["long"] == "x" * 250
    assert found["labels.gr__e_1"] == "1"
    assert (found["empty"], found["none"], found["list"], found["n" * 250], found["nan"]) == (
        "",
        "None",
        "[]",
        "2",
        "inf",
    )
    (whole,) = (tmp_path / "artifacts").rglob("config.json")
    assert json.loads(whole.read_text())["long"] == "x" * 9000
