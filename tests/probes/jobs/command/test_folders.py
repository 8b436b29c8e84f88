"""Where a job writes and what its relative paths stand for, with Hydra's launcher and without."""

import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import train
from probes.jobs.command import folders
from probes.jobs.command.folders import settle_folders
from tests.support.configurations import compose_run
from tests.support.runs import run_forked, run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")


def save_activations(file: Path) -> None:
    """160 examples, 2 layers, 3 positions; the label is written in layer 1 at position 2 alone."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 2
    acts = torch.randn(160, 2, 3, 4, generator=generator)
    acts[:, 1, 2, 0] += 6 * labels
    save_file({"acts": acts, "labels": labels}, file)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_activations(tmp_path / "mine.safetensors")
    return tmp_path


OWN = ("datamodule=precomputed", "datamodule.path=mine.safetensors", "trainer=cpu", "~callbacks.progress")


def test_a_run_from_a_notebook(here, caplog):
    """Composed with `hydra.compose`: each run has a folder of its own, and the objective comes back."""
    cfg = compose_run(*OWN, "objective=test/auc_best")
    with caplog.at_level(logging.WARNING):
        first, second = train.run(cfg), train.run(cfg)
    assert first == second
    assert first is not None
    assert first > 0.95
    runs = sorted(path.parent for path in here.glob("outputs/*/*/heatmap.csv"))
    assert len(runs) == 2
    assert (here / "outputs" / "latest").resolve() == runs[-1]
    for folder in runs:
        recorded = OmegaConf.load(folder / ".hydra" / "config.yaml")
        assert recorded.folder == str(folder)
        assert recorded.datamodule.path == "mine.safetensors"
    assert {record.levelno for record in caplog.records if record.name == "probegrid"} <= {logging.WARNING}
    assert OmegaConf.to_container(cfg)["folder"] == "${run_folder:}"  # pyright: ignore


@pytest.mark.parametrize(
    ("override", "kind", "words"),
    [
        ("datamodule.path=absent.safetensors", ValueError, "expected a safetensors file, got absent.safetensors"),
        ("+prob=mlp", ValueError, "did you mean probe?"),
        ("probe.l2=-1", ValueError, "probe.l2: expected"),
        ("cache.root=", ValueError, "cache.root: expected a folder, got ''"),
    ],
)
def test_a_mistake_in_a_notebook_is_an_exception(override, kind, words, here):
    with pytest.raises(kind) as raised:
        train.run(compose_run(*OWN, override))
    assert words in str(raised.value)


def test_a_command_from_a_notebook_makes_no_folder(here):
    assert train.run(compose_run("experiment=cache_info")) is None
    assert {path.name for path in here.iterdir()} == {"mine.safetensors"}


def test_relative_paths_stand_for_what_they_do_in_the_start_folder(here, monkeypatch):
    (here / "model").mkdir()
    (here / "elsewhere").mkdir()
    monkeypatch.setattr(folders, "find_start_folder", lambda: here)
    overrides = (
        "model=hf", "model.id=model", "model.gguf=a.gguf", "dataset=csv", "dataset.path=a.csv", "folder=x",
        'dataset.test_path="~/b.csv"', "logger=mlflow", "experiment=compare", "runs=[a,/b]",
        "spans=model", "+model/hf@spans.model=gpt2",
    )  # fmt: skip
    cfg = compose_run(*(override for override in overrides if "@" not in override))
    assert settle_folders(cfg) == cfg  # it is where it started
    monkeypatch.chdir(here / "elsewhere")
    settled = settle_folders(cfg)
    assert settled.cache.root == f"{here}/cache"
    assert (settled.model.id, settled.model.gguf) == (f"{here}/model", f"{here}/a.gguf")
    assert (settled.dataset.path, settled.dataset.test_path) == (f"{here}/a.csv", "~/b.csv")
    assert settled.runs == [f"{here}/a", "/b"]
    assert settled.logger.mlflow.tracking_uri == f"sqlite:///{here}/mlflow.db"
    assert settled.model.adapter == "auto"
    named = settle_folders(compose_run("model=hf", "model.id=org/name", "folder=x", "command={}"))
    assert named.model.id == "org/name"


def test_the_configuration_can_be_shown_resolved_before_there_is_a_run(here):
    status, out, err = run_here(here, "--cfg=job", "--resolve")
    assert (status, err) == (0, "")
    assert f"\nfolder: {here}/run\n" in out
    assert sorted(path.name for path in here.iterdir()) == ["mine.safetensors"]


def test_a_job_that_hydra_takes_to_its_run_folder_reads_and_writes_as_any_other(here):
    status, _, err = run_forked(here, *OWN, "hydra.job.chdir=true", "hydra.run.dir=made/run")
    assert status == 0, err
    assert {path.name for path in here.iterdir()} == {"mine.safetensors", "made", "outputs"}
    assert (here / "outputs" / "latest").resolve() == here / "made" / "run"
    assert (here / "made" / "run" / "heatmap.csv").exists()
    again = ("experiment=analyse", "run=outputs/latest", "hydra.job.chdir=true", "hydra.run.dir=made")
    status, _, err = run_forked(here, *again)
    assert status == 0, err


def test_a_trainer_without_a_logger_logs_nothing_and_a_logger_of_its_own_is_refused(here):
    for setting, logs in (("true", True), ("false", False)):
        train.run(compose_run(*OWN, f"trainer.logger={setting}", f"folder={here / setting}"))
        assert (here / setting / "heatmap.csv").exists()
        assert (here / setting / "metrics").exists() == logs
    for override, words in (
        ("trainer.logger=wandb", "trainer.logger: expected true or false (the group logger chooses one,"),
        ("+trainer.callbacks=[a]", "trainer.callbacks: expected callbacks in a group of their own"),
    ):
        with pytest.raises(ValueError, match="expected") as raised:
            train.run(compose_run(*OWN, override))
        assert words in str(raised.value)
