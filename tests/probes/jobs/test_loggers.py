import logging
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from probes.jobs.command.empty_groups import spell_null
from probes.jobs.loggers import check_loggers, flatten
from tests.support.places import ROOT

OF_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def shipped(name: str) -> dict:
    """The nodes of a file of conf/logger/."""
    return OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "logger" / f"{name}.yaml"))  # type: ignore[return-value]


@pytest.mark.parametrize(("logger", "package"), OF_PACKAGES.items())
def test_a_missing_package_is_named_with_its_extra(logger, package, monkeypatch):
    monkeypatch.setattr("probes.jobs.loggers.find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(
        ValueError, match=rf"expected the package {package} for logger={logger}, got none; .*'.\["
    ) as it:
        check_loggers(shipped(logger))
    assert "\n" not in str(it.value)
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extra = str(it.value).partition(".[")[2].partition("]")[0]
    assert f"\n{extra} = [" in extras
    check_loggers(shipped("csv"))


def test_every_shipped_logger_and_none_pass():
    for path in (ROOT / "conf" / "logger").glob("*.yaml"):
        check_loggers(shipped(path.stem))
    check_loggers(None)
    check_loggers({})


def test_a_setting_of_a_logger_that_is_not_chosen_is_refused():
    with pytest.raises(
        ValueError, match=r"^logger.wandb: expected a logger, got {'offline': True}; choose it with log"
    ):
        check_loggers({**shipped("csv"), "wandb": {"offline": True}})


def test_the_configuration_is_flat_and_each_value_stands_once():
    cfg = OmegaConf.create(
        {
            "model": {"id": "org/name", "stop": None, "template": {}},
            "site": {"layers": [0, "${seed}"]},
            "dataset": {"labels": {True: ["yes"], 0: []}},
            "seed": 3,
            "datamodule": {"model": "${model}", "layers": "${site.layers}", "seed": "${seed}", "path": "???"},
            "checks": {"site": {"name": "x"}},
        }
    )
    assert flatten(cfg) == {
        "model.id": "org/name",
        "model.stop": None,
        "site.layers": [0, 3],
        "dataset.labels.True": ["yes"],
        "dataset.labels.0": [],
        "seed": 3,
        "datamodule.layers": [0, 3],
        "datamodule.seed": 3,
    }


@pytest.mark.parametrize(
    ("argument", "spelt"),
    [
        ("logger=null", "logger=[]"),
        ("logger=null,csv", "logger=[],csv"),
        ("logger=csv,null,[csv,tensorboard]", "logger=csv,[],[csv,tensorboard]"),
        ("callbacks=null", "callbacks=[]"),
        ("model@rule.model=null", "model@rule.model=[]"),
        ("logger=nullable", "logger=nullable"),
        ("model.stop=null", "model.stop=null"),
        ("command=null", "command=null"),  # no group
        ("seed=null", "seed=null"),
        ("--config-dir=null", "--config-dir=null"),
        ("-m", "-m"),
    ],
)
def test_null_as_the_choice_of_a_group(argument, spelt):
    assert spell_null(argument, ROOT / "conf") == spelt


@pytest.mark.parametrize(
    ("name", "message", "shown"),
    [
        ("pytorch_lightning.utilities.rank_zero", "GPU available: False, used: False", False),
        ("pytorch_lightning.utilities.rank_zero", "💡 Tip: For seamless cloud logging", False),
        ("pytorch_lightning.utilities.rank_zero", "`Trainer.fit` stopped: `max_epochs=1` reached.", False),
        ("pytorch_lightning.utilities.rank_zero", "`Trainer.fit` stopped: No training batches.", True),
        ("pytorch_lightning.utilities.rank_zero", "Restoring states from the checkpoint path at x.ckpt", True),
        ("pytorch_lightning.profilers.profiler", "FIT Profiler Report", True),
        ("pytorch_lightning.callbacks.early_stopping", "Monitored metric did not improve", True),
        ("pytorch_lightning.callbacks.early_stopping", "[rank: 0] Monitored metric did not improve", True),
        ("pytorch_lightning.callbacks.early_stopping", "Metric val/auc_mean improved. New best score: 0.7", False),
        ("pytorch_lightning.callbacks.early_stopping", "[rank: 0] Metric val/auc_mean improved by 0.1", False),
    ],
)
def test_lightning_s_messages_are_shown_but_for_noise(name, message, shown, tmp_path, monkeypatch):
    """With the logging that a job gets of conf/config.yaml."""
    from hydra import compose, initialize_config_dir
    from hydra.core.utils import configure_log

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", return_hydra_config=True)
    config = OmegaConf.to_container(cfg.hydra.job_logging, resolve=False)
    assert isinstance(config, dict)
    path = Path(tmp_path / "job.log")
    config["handlers"] = {"file": {"class": "logging.FileHandler", "formatter": "simple", "filename": str(path)}}
    config["root"]["handlers"] = ["file"]
    root = logging.getLogger()
    before = list(root.handlers), root.level
    try:
        configure_log(OmegaConf.create(config))
        logging.getLogger(name).info(message)
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], level = before
        root.setLevel(level)
        for logger in config["loggers"]:
            logging.getLogger(logger).setLevel(logging.NOTSET)
            logging.getLogger(logger).filters.clear()
    assert (message in path.read_text()) is shown
