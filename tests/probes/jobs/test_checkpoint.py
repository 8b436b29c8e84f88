"""A checkpoint that is damaged, made up or of another run is refused in one line, and no code in it is run."""

import copy
import os
import random

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file

from probes.jobs.checkpoint import check_checkpoint
from tests.support.runs import run_here


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The overrides of a fit of 2 x 2 cells, and the checkpoint that it left."""
    folder = tmp_path_factory.mktemp("fit")
    acts, labels = torch.randn(200, 2, 2, 8), torch.arange(200) % 2
    save_file({"acts": acts, "labels": labels}, folder / "acts.safetensors")
    overrides = ["datamodule=precomputed", f"datamodule.path={folder}/acts.safetensors", "datamodule.batch_size=64"]
    overrides += ["probe=minibatch", "callbacks=checkpoint", "~callbacks.heatmap", "~callbacks.report"]
    status, _, err = run_here(folder, *overrides, "trainer.max_epochs=2")
    assert status == 0, err
    return overrides, folder / "run/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def loop():
    return pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu").fit_loop.state_dict()


def end(path, loop):
    try:
        check_checkpoint(path, loop)
    except ValueError as error:
        said = str(error)
    else:
        said = "loads"
    assert "\n" not in said
    return said


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_bytes_that_were_cut_off_or_altered(run, loop, tmp_path):
    whole, path, random_ = run[1].read_bytes(), tmp_path / "x.ckpt", random.Random(0)
    kept = torch.load(run[1], weights_only=True)["state_dict"]
    assert end(run[1], loop) == "loads"
    ends = set()
    for _ in range(40):
        path.write_bytes(whole[: random_.randrange(len(whole))])
        assert end(path, loop).startswith("ckpt_path: expected a checkpoint of a fit of probes, got ")
        altered = bytearray(whole)
        altered[random_.randrange(len(whole))] ^= 1 << random_.randrange(8)
        path.write_bytes(altered)
        ends.add(end(path, loop)[:9])
        if end(path, loop) == "loads":  # between the parts
            read = torch.load(path, weights_only=True)["state_dict"]
            assert all(torch.equal(read[name], kept[name]) for name in kept)
    assert ends == {"loads", "ckpt_path"}


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_checkpoint_is_not_run(as_zip, run, loop, tmp_path):
    content = torch.load(run[1], weights_only=True) | {"more": Code(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=as_zip)
    line = "a file with code of its own, or a damaged one" if as_zip else "one that cannot be read (File is not a zip"
    assert line in end(tmp_path / "x.ckpt", loop)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        ((), [], "a list; take one of a run"),
        (("card",), None, "one without card, or with card of another kind"),
        (("card", "width"), -1, "one whose card is another (expected a card whose parts fit each other, got one with"),
        (("state_dict", "slope"), 3, "one with slope that is no tensor"),
        (("state_dict", "slope"), torch.full((1, 4, 8), torch.inf), "one with infinity in slope"),
        (("loops", "fit_loop", "epoch_progress", "current", "completed"), "x", "one whose fit loop has another form"),
        (("epoch",), "x", "one without epoch, or with epoch of another kind"),
    ],
)
def test_parts_of_another_kind(place, value, line, run, loop, tmp_path):
    content = change(run[1], place, value)
    torch.save(content, tmp_path / "x.ckpt")
    assert line in end(tmp_path / "x.ckpt", loop)


@pytest.mark.parametrize(
    ("place", "value", "line"),
    [
        (("state_dict", "slope"), torch.zeros(3), "one that does not fit this run (Error(s) in loading state_dict"),
        (("optimizer_states", 0, "param_groups", 0), {"params": [0, 1]}, "one that does not fit this run ('"),
        (("optimizer_states",), [], "one without optimizer_states; take"),
        (("val_scores", "labels"), torch.zeros(3), "expected a checkpoint of this data, got one with labels [3] where"),
        (("best", "val"), [], "whose best epoch has the layers, positions and targets of its card, got another"),
        (("best", "parameters"), {}, "ckpt_path: expected a best epoch with the probes of this run, got others"),
    ],
)
def test_a_fit_does_not_go_on_from_what_does_not_fit(place, value, line, run, tmp_path):
    torch.save(change(run[1], place, value), tmp_path / "x.ckpt")
    status, _, err = run_here(tmp_path, *run[0], "trainer.max_epochs=4", f"ckpt_path={tmp_path}/x.ckpt")
    (error,) = [row for row in err.splitlines() if "error: " in row]
    assert (status, line in error) == (1, True), error


def change(path, place, value):
    content = copy.deepcopy(torch.load(path, weights_only=True))
    if not place:
        return value
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return content


def test_a_pipe(loop, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "pipe, no regular file; take one of a run" in end(tmp_path / "pipe", loop)
