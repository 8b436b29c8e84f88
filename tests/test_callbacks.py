"""Callbacks and limits of Lightning as people add them on the command line."""

import csv
import re
import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from probes.jobs.sweep.sweep import Sweep
from tests.support.ranks import write_activations
from tests.support.runs import run_here, table

pytestmark = pytest.mark.usefixtures("_without_pictures")

BEST = [
    "+callbacks.best._target_=pytorch_lightning.callbacks.ModelCheckpoint",
    "+callbacks.best.monitor=val/auc_best",
    "+callbacks.best.mode=max",
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return [*write_activations(tmp_path_factory.mktemp("own") / "own.safetensors"), "trainer=cpu"]


def validated(folder: Path) -> dict[int, float]:
    """val/auc_best of each epoch, as the CSV logger has it."""
    rows = csv.DictReader((folder / "run" / "metrics" / "version_0" / "metrics.csv").read_text().splitlines())
    return {int(row["epoch"]): float(row["val/auc_best"]) for row in rows if row["val/auc_best"]}


@pytest.mark.parametrize("probe", ["logistic", "minibatch"])
def test_a_checkpoint_of_the_best_epoch_as_people_write_it(probe, own, tmp_path):
    """It saves one file, which can be read, and which a fit goes on from."""
    epochs = 4 if probe == "minibatch" else 1
    fit = [*own, f"probe={probe}", f"trainer.max_epochs={epochs}"]
    status, _, err = run_here(tmp_path, *fit, *BEST)
    assert status == 0, err
    (path,) = (tmp_path / "run").rglob("checkpoints/*.ckpt")
    saved = torch.load(path, weights_only=True)
    (state,) = (state for name, state in saved["callbacks"].items() if name.startswith("ModelCheckpoint"))
    by_epoch = validated(tmp_path)
    assert state["best_model_path"] == str(path)
    assert float(state["best_model_score"]) == pytest.approx(max(by_epoch.values()), abs=1e-6)
    assert by_epoch[saved["epoch"]] == pytest.approx(max(by_epoch.values()), abs=1e-6)
    if probe == "logistic":
        probes = load_file(tmp_path / "run" / "probes.safetensors")
        assert torch.equal(saved["state_dict"]["weight"], probes["weight"])
    status, _, err = run_here(tmp_path / "again", *fit, f"ckpt_path='{path}'")
    assert status == 0, err
    assert (tmp_path / "again" / "run" / "heatmap.csv").read_bytes() == (tmp_path / "run" / "heatmap.csv").read_bytes()


@pytest.mark.parametrize(
    ("limit", "n"), [("fast_dev_run=true", 1), ("fast_dev_run=2", 2), ("limit_train_batches=0.5", 3)]
)
def test_a_run_of_a_few_cells_says_how_many_and_draws_only_those(limit, n, own, tmp_path):
    status, out, err = run_here(tmp_path, *own, f"trainer.{limit}")
    assert status == 0, err
    (told,) = re.findall(r"fit: .* cells are fitted; .*", out + err)
    assert told == f"fit: {n} of 6 cells are fitted; trainer.{limit} leaves out the others"
    for split in ("val", "test"):
        rows = [row for row in table(tmp_path) if row["split"] == split]
        assert sum(row["auc"] not in ("", "nan") for row in rows) == n
    assert out.count("··") > 0
    weight = load_file(tmp_path / "run" / "probes.safetensors")["weight"]
    assert int((~weight.isnan()).all(-1).sum()) == n


def test_a_fit_that_stops_early_says_why(own, tmp_path):
    stops = ["probe=minibatch", "trainer.max_epochs=50", "callbacks.early_stopping.patience=1"]
    status, out, err = run_here(tmp_path, *own, *stops, "probe.optimizer.lr=1e-6")
    assert status == 0
    reason = "Monitored metric val/auc_mean did not improve in the last 1 records."
    assert reason in err
    assert reason in (tmp_path / "run" / "train.log").read_text()
    assert "New best score" not in out + err  # of each epoch; the bar shows it


class Interrupted(pl.Callback):
    """Ctrl-C in the middle of a fit."""

    def on_train_batch_start(self, *_) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("sweep", [False, True])
def test_ctrl_c_in_a_fit_is_told_as_that(sweep, own, tmp_path, monkeypatch):
    """Lightning exits with status 1, as after a mistake, and ignores every Ctrl-C from then on."""
    monkeypatch.setattr(Sweep, "current", None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
    try:
        several = ["-m", f"hydra.sweep.dir={tmp_path}/sweep", "probe.l2=1,10"] if sweep else []
        interrupt = ["+callbacks.mine._target_=tests.test_callbacks.Interrupted", "allow_targets=[tests]"]
        status, out, err = run_here(tmp_path, *several, *own, *interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130
    goes_on = "finished jobs are kept" if sweep else "the cache keeps what is finished"
    assert err.splitlines()[-1].startswith(f"error: ended by Ctrl-C; {goes_on}")
    assert "Traceback" not in out + err
    assert err.count("l2-1: unfinished") == sweep
    assert not list(tmp_path.rglob("heatmap.csv"))
    assert not list((tmp_path / "sweep").glob("l2-10/job.json"))  # the sweep ends, and starts no other job
