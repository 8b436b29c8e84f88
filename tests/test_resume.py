"""A fit that was killed goes on from its checkpoint to the probes of a fit that was left alone."""

import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.runs import fork, run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")

EPOCHS = 7


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """300 random examples of 2 layers and 3 positions, the label written into one direction of layer 1."""
    generator = torch.Generator().manual_seed(0)
    acts, labels = torch.randn(300, 2, 3, 8, generator=generator), torch.arange(300) % 2
    acts[:, 1, :, 0] += labels[:, None] * 1.0
    path = tmp_path_factory.mktemp("acts") / "acts.safetensors"
    save_file({"acts": acts, "labels": labels}, path)
    each_epoch = [
        "callbacks=checkpoint",
        "callbacks.checkpoint.save_top_k=-1",
        "callbacks.checkpoint.filename='{epoch}'",
    ]
    return ["datamodule=precomputed", f"datamodule.path={path}", "datamodule.batch_size=64", *each_epoch]


@pytest.mark.parametrize("probe", ["minibatch", "mlp"])
def test_killed_after_epoch_3_and_resumed_it_equals_a_run_left_alone(probe, overrides, tmp_path):
    """Order of the batches, schedule, moments of the optimizer, patience and best epoch are those of one run."""
    own = [f"probe={probe}", f"trainer.max_epochs={EPOCHS}", *overrides]
    status, _, err = run_here(tmp_path / "alone", *own)
    assert status == 0, err
    killed, saved = fork(tmp_path / "killed", *own), tmp_path / "killed" / "run" / "checkpoints" / "epoch=3.ckpt"
    since = time.monotonic()
    while not saved.exists() and killed.poll() is None and time.monotonic() - since < 120:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed = fork(tmp_path / "resumed", *own, f"ckpt_path='{saved}'")
    _, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    assert "Warning" not in err
    alone, resumed = (tmp_path / name / "run" for name in ("alone", "resumed"))
    assert (resumed / "heatmap.csv").read_bytes() == (alone / "heatmap.csv").read_bytes()
    one, other = (load_file(folder / "probes.safetensors") for folder in (alone, resumed))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=0, equal_nan=True)
    one, other = (load_file(folder / "scores.safetensors") for folder in (alone, resumed))
    assert all(torch.equal(one[name].nan_to_num(-9), other[name].nan_to_num(-9)) for name in one)


def test_a_best_epoch_from_before_the_kill_is_kept(overrides, tmp_path):
    """A rate so high that later epochs are worse: the best one is in the checkpoint alone."""
    own = ["probe=minibatch", "trainer.max_epochs=6", "probe.optimizer.lr=3", *overrides]
    assert run_here(tmp_path / "alone", *own)[0] == 0
    saved = tmp_path / "alone" / "run" / "checkpoints" / "epoch=4.ckpt"
    best = torch.load(saved, weights_only=True)["best"]["epoch"]
    assert best < 4
    status, _, err = run_here(tmp_path / "resumed", *own, f"ckpt_path='{saved}'")
    assert status == 0, err
    for name in ("heatmap.csv", "probes.safetensors", "scores.safetensors"):
        assert (tmp_path / "resumed" / "run" / name).read_bytes() == (tmp_path / "alone" / "run" / name).read_bytes()


def test_a_checkpoint_of_an_exact_fit_holds_its_probes(overrides, tmp_path):
    """A fit without an optimizer counts its blocks as steps, so that the callback finds something to save."""
    status, _, err = run_here(tmp_path, *overrides, "datamodule.batch_size=null", "callbacks.checkpoint.filename=best")
    assert status == 0, err
    saved = tmp_path / "run" / "checkpoints"
    assert {path.name for path in saved.iterdir()} == {"best.ckpt", "last.ckpt"}
    weight = torch.load(saved / "last.ckpt", weights_only=True)["state_dict"]["weight"]
    assert weight.isfinite().all()
    torch.testing.assert_close(weight, load_file(tmp_path / "run" / "probes.safetensors")["weight"], rtol=0, atol=0)


def test_a_checkpoint_that_is_not_there_is_refused(overrides, tmp_path):
    status, _, err = run_here(tmp_path, *overrides, "datamodule.batch_size=null", "ckpt_path=absent.ckpt")
    assert (status, err.count("\n")) == (1, 1)
    assert "ckpt_path: expected a checkpoint, got 'absent.ckpt', which is not there" in err
