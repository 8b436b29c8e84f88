"""Grids fitted in memory: their numbers are those of the command line, and they say and write nothing."""

import json
import logging
import signal
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from probes import fit_grid, fit_logistic, load_grid
from probes.grids.logistic import LogisticGrid
from tests.support.places import ROOT
from tests.support.runs import run_here

N, L, T, D = 320, 2, 2, 6
NAMES: dict[str, Any] = {"layers": [4, 8], "positions": ["first", "last"]}


def make_tensors() -> dict[str, Any]:
    """Labels that cell (1, 1) tells; the last position is absent in every fourth example."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(2, (N,), generator=generator)
    acts = torch.randn(N, L, T, D, generator=generator)
    acts[:, 1, 1, 0] += 3 * labels
    valid = torch.ones(N, T, dtype=torch.bool)
    valid[::4, 1] = False
    return {"acts": acts, "labels": labels, "groups": torch.arange(N) // 2, "valid": valid}


def run_the_command(folder, tensors, *overrides, **metadata):
    named = {key: json.dumps(value) for key, value in (NAMES | metadata).items()}
    save_file(tensors, folder / "own.safetensors", named)
    path = f"datamodule.path={folder}/own.safetensors"
    status, _, err = run_here(folder, "datamodule=precomputed", path, *overrides)
    assert status == 0, err
    return folder / "run"


def check_equal(grid, run, folder):
    """Maps to the digits of the file; scores and probes to the last bit; the rest of the record as it is read."""
    made = grid.save(folder)
    for name in ("heatmap.csv", "heatmap_mean.csv"):
        assert (made / name).exists() == (run / name).exists()
        if (run / name).exists():
            pd.testing.assert_frame_equal(pd.read_csv(made / name), pd.read_csv(run / name), rtol=0, atol=1e-7)
    for name in ("scores", "probes"):
        ours, theirs = (load_file(where / f"{name}.safetensors") for where in (made, run))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key].nan_to_num(-9), theirs[key].nan_to_num(-9)) for key in ours), name
    pd.testing.assert_frame_equal(pd.read_parquet(made / "examples.parquet"), pd.read_parquet(run / "examples.parquet"))
    ours, theirs = (json.loads((where / "summary.json").read_text()) for where in (made, run))
    for part in ("dataset", "seconds"):
        del ours[part], theirs[part]
    assert ours == theirs


@pytest.mark.parametrize(("probe", "control"), [("logistic", False), ("mass_mean", True)])
def test_numbers_are_those_of_the_command_line(probe, control, tmp_path):
    tensors = make_tensors()
    run = run_the_command(tmp_path, tensors, f"probe={probe}", f"datamodule.control_labels={control}")
    grid = fit_grid(**tensors, **NAMES, probe=probe, control_labels=control)
    check_equal(grid, run, tmp_path / "mine")
    assert grid.best()[:2] == (8, "last")


def test_several_label_sets_and_seeds(tmp_path):
    tensors = make_tensors()
    tensors["labels"] = torch.stack([tensors["labels"], (tensors["acts"][:, 0, 0, 1] > 0).long()])
    run = run_the_command(tmp_path, tensors, "split.seed=[0,5]", "probe.l2=3", targets=["truth", "sign"])
    # Arrays instead of tensors, and groups by their names.
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    grid = fit_grid(**arrays, **NAMES, targets=["truth", "sign"], seed=[0, 5], l2=3)
    check_equal(grid, run, tmp_path / "mine")
    assert [one.target for one in grid.maps["test"]][:2] == ["truth, seed 0", "truth, seed 5"]
    assert grid.best("sign, seed 5")[:2] == (4, "first")


def test_minibatches_too(tmp_path):
    tensors = make_tensors()
    run = run_the_command(tmp_path, tensors, "probe=minibatch", "trainer.max_epochs=2")
    before = torch.get_rng_state()
    grid = fit_grid(**tensors, **NAMES, probe="minibatch", epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    check_equal(grid, run, tmp_path / "mine")


def test_nothing_is_said_or_written(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    levels = [logging.getLogger(name).level for name in ("pytorch_lightning", "probes", "datamodules")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = fit_grid(**make_tensors(), l2="auto", val=0.05)
        grid.plot()
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert not list(tmp_path.iterdir())
    assert [logging.getLogger(name).level for name in ("pytorch_lightning", "probes", "datamodules")] == levels
    assert any(note.startswith("probe.l2:") for note in grid.notes)
    assert any(note.startswith("split: val has") for note in grid.notes)


def test_dtypes_are_probed_as_they_are():
    tensors = make_tensors()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        acts = tensors["acts"].to(dtype)
        grid = fit_grid(acts, tensors["labels"], l2=2.0)
        rows = torch.tensor([split == "train" for split in grid.examples["split"]])
        fit = fit_logistic(acts[rows].flatten(1, 2).transpose(0, 1), tensors["labels"][rows], l2=2.0, standardize=True)
        assert torch.allclose(grid.probes.weight.flatten(0, 2), fit.weight.float(), atol=1e-6)


def test_texts_are_groups_and_names_may_be_numpys():
    tensors = make_tensors()
    plain = fit_grid(**tensors, **NAMES)
    names: dict[str, Any] = {"layers": np.array([4, 8]), "positions": np.array(["first", "last"])}
    groups = [f"question {number:03}" for number in tensors["groups"].tolist()]
    named = fit_grid(**tensors | {"groups": groups}, **names)
    assert torch.equal(plain.map.auc, named.map.auc)
    assert named.examples["group"].tolist() == groups
    assert named.card.layers == (4, 8)


def test_classes_are_targets_against_the_rest(tmp_path):
    tensors = make_tensors()
    numbers = tensors["labels"] + (tensors["acts"][:, 0, 0, 1] > 0.5).long()
    names = ["blue", "green", "red"]
    run = run_the_command(tmp_path, tensors | {"labels": numbers}, "probe=mass_mean", classes=names)
    grid = fit_grid(**tensors | {"labels": [names[k] for k in numbers.tolist()]}, **NAMES, probe="mass_mean")
    check_equal(grid, run, tmp_path / "mine")
    assert [one.target for one in grid.maps["test"]] == names
    same = fit_grid(**tensors | {"labels": numbers}, **NAMES, classes=names, probe="mass_mean")
    assert torch.equal(same.record.scores.nan_to_num(), grid.record.scores.nan_to_num())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"labels": torch.zeros(3)}, r"arrays: expected labels \[N\] = \[320\] beside acts .*, got \[3\]; give one"),
        ({"labels": torch.zeros(N)}, "arrays: expected labels 0 and 1, got 0 in all 320 rows; add examples"),
        ({"labels": ["yes"] * N}, "arrays: expected 2 to 50 different classes, got 1: yes"),
        ({"labels": [object()] * N}, "arrays: expected labels as numbers, got object; convert them"),
        ({"labels": [[0], [1, 2]]}, "arrays: expected labels as an array, got another value"),
        ({"acts": torch.zeros(N, D)}, r"arrays: expected acts \[N, L, T, D\], none of them 0, got \[320, 6\]; reshape"),
        ({"acts": np.zeros((N, 1, 1, 2), int)}, "arrays: expected acts in float16, .*, got torch.int64; convert it"),
        ({"groups": [1] * 3}, r"arrays: expected groups \[N\] = \[320\] beside acts of 320 examples, got \[3\]; give"),
        ({"groups": [None, *range(N - 1)]}, "arrays: expected groups as numbers or as texts, got both, or none"),
        ({"groups": [np.nan] * N}, "arrays: expected groups as numbers, got NaN"),
        ({"valid": torch.ones(N, T)}, "arrays: expected valid in bool, got torch.float32; convert it"),
        ({"layers": [1, 1]}, r"arrays: expected layers as a list of L whole numbers, 2 different ones, got 2 entries"),
        ({"positions": "ab"}, "arrays: expected positions as a list of T strings, 2 different ones, got 1 entries"),
        ({"layers": 3}, "arrays: expected layers as a list of L whole numbers, 2 different ones, got 1 entries"),
        ({"model": 3}, "arrays: expected model as a text, got 3; quote it"),
        ({"probe": "knn"}, "probe: expected one of logistic, paper, mass_mean, minibatch, mlp; got 'knn'"),
        ({"l3": 1}, "l3: expected a setting of fit_grid, or one of l2, standardize, tol, max_iter"),
        ({"l2": -1}, "probe.l2: expected a number above 0"),
        ({"offset": "best"}, "offset: expected none, as arrays hold no baselines"),
        ({"probe": "minibatch", "epochs": 0}, "epochs: expected a whole number above 0, got 0"),
        ({"seed": 1.5}, "seed: expected a whole number, or several, got 1.5"),
        ({"seed": []}, r"seed: expected a whole number, or several, got \[\]"),
        ({"val": 0.9}, "split: expected val of at least 0, test above 0, and both together below 1"),
        ({"device": "tpu"}, "device: expected auto, cpu, cuda or one such as cuda:1, got tpu"),
        (
            {"acts": torch.full((N, 1, 1, 2), torch.nan), "valid": None, "groups": None},
            r"NaN or infinity at layer 0, position 0, example 0 \(a row of acts\); mark",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(changes, line):
    with pytest.raises(ValueError, match=line) as found:
        fit_grid(**make_tensors() | changes)
    assert "\n" not in str(found.value)
    assert len(found.traceback) < 8  # not the way through Lightning


def test_ctrl_c_is_passed_on(monkeypatch):
    """Lightning would end the process, a notebook's too, and ignore the next Ctrl-C."""

    def interrupt(*_):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(LogisticGrid, "solve", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_grid(**make_tensors())
    assert signal.getsignal(signal.SIGINT) is handler


def test_to_load_a_grid_takes_no_lightning():
    program = "import sys; from probes import load_grid; print('pytorch_lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
    assert load_grid
