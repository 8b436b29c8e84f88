"""Probes that are taken from a run give the run's scores again, and choose the cell that the run chooses."""

import json
from dataclasses import replace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HFValidationError

from probes import LinearProbes
from probes.analysis.scores import Scores
from probes.report.probes_file import save_probes
from tests.support.cards import make_card

N, LAYERS, POSITIONS, D = 160, (0, 4), ("a", "b", "c"), 6


def make_probes(names=("correctness",)):
    """Probes of a grid, activations of N examples, and the record of their scores: half val, half test."""
    generator = torch.Generator().manual_seed(0)
    card = make_card(LAYERS, POSITIONS, D, names)
    acts = torch.randn(N, len(LAYERS), len(POSITIONS), D, generator=generator)
    weight, bias = torch.randn(card.shape, generator=generator), torch.randn(card.shape[:3], generator=generator)
    weight[:, 1, 2], bias[:, 1, 2] = torch.nan, torch.nan  # a cell without a probe
    scores = torch.einsum("kltd,nltd->kltn", weight, acts) + bias[..., None]
    noise = torch.randn(len(names), N, generator=generator)
    labels = (scores[:, 1, 0] + noise > 0).to(torch.uint8)  # layer 4 at a reads the label
    part = torch.arange(N).remainder(2).add(1).to(torch.uint8).expand(len(names), -1)
    record = Scores(scores, torch.arange(N), part, labels, torch.arange(N) // 2, card)
    return LinearProbes(weight, bias, card, record), acts


def test_scores_are_those_of_the_record():
    probes, acts = make_probes(("correctness", "error type"))
    assert probes.record is not None
    torch.testing.assert_close(probes.score(acts), probes.record.scores, equal_nan=True)
    torch.testing.assert_close(probes.score(acts.numpy()), probes.record.scores, equal_nan=True)
    some = probes.score(acts[:, [1], :][:, :, [2, 0]], layers=[4], positions=["c", "a"])
    torch.testing.assert_close(some, probes.record.scores[:, [1]][:, :, [2, 0]], equal_nan=True)
    valid = torch.rand(N, 3) < 0.5
    nan = probes.score(acts, valid).isnan()
    assert torch.equal(nan[:, 0], ~valid.mT.expand(2, -1, -1))
    cell = probes.cell(4, "a", "error type")
    torch.testing.assert_close(cell.score(acts[:, 1, 0]), probes.record.scores[1, 1, 0])


def test_the_best_cell_and_its_decisions_come_from_validation_rows():
    probes, _ = make_probes()
    best = probes.best()
    assert (best.layer, best.position, best.target) == (4, "a", "correctness")
    scores, labels, groups = probes.rows("val")
    assert len(scores) == N // 2
    assert torch.equal(groups, torch.arange(0, N, 2) // 2)
    found = probes.threshold(fpr=0.1)
    negative = scores[labels == 0]
    assert int((negative >= found.value).sum()) == int(0.1 * len(negative))
    assert probes.calibrate().slope > 3 * probes.calibrate().slope_se
    assert probes.threshold(0.1, probes.cell(0, "b")).value != found.value


def test_a_notebook_shows_a_line():
    probes, _ = make_probes(("correctness", "error type"))
    k, layers, positions, width = probes.weight.shape
    shape = f"{k} targets, {layers} layers x {positions} positions, width {width}"
    assert repr(probes) == f"LinearProbes: {shape}, fitted on {probes.card.dataset} with {probes.card.model}"
    best = probes.best()
    assert repr(best) == f"CellProbe: layer {best.layer}, {best.position}, correctness, width {width}"


def test_a_direction_is_a_unit_vector_along_the_weights():
    probes, acts = make_probes()
    direction = probes.direction(4, "a")
    assert direction.dtype == torch.float32
    assert float(direction.norm()) == pytest.approx(1, abs=1e-6)
    cell = probes.cell(4, "a")
    rise = cell.score(acts[:, 1, 0] + direction) - cell.score(acts[:, 1, 0])
    torch.testing.assert_close(rise, cell.weight.norm().expand(N), atol=1e-5, rtol=1e-5)


def test_a_run_folder_or_its_file_is_read(tmp_path):
    probes, acts = make_probes()
    assert probes.record is not None
    maps = {split: probes.record.maps(split) for split in ("val", "test")}
    save_probes(tmp_path / "probes.safetensors", {"weight": probes.weight, "bias": probes.bias}, probes.card, maps)
    alone = LinearProbes.load(tmp_path)
    assert alone.record is None
    assert alone.best().layer == 4  # by the AUCs in the file
    with pytest.raises(ValueError, match=r"expected scores\.safetensors beside the probes, got none"):
        alone.threshold()
    (tmp_path / "scores.safetensors").write_bytes(probes.record.to_bytes())
    for path in (tmp_path, str(tmp_path / "probes.safetensors")):
        loaded = LinearProbes.load(path)
        torch.testing.assert_close(loaded.score(acts), probes.score(acts), equal_nan=True, rtol=0, atol=0)
        assert json.dumps(loaded.card.to_json()) == json.dumps(probes.card.to_json())
        assert loaded.threshold() == probes.threshold()


def test_what_does_not_fit_is_told_in_one_line():
    probes, acts = make_probes()
    anything: Any = probes
    cases = [
        (lambda: probes.score(acts[..., :5]), r"acts: expected \[N, 2, 3, 6\] .*got \[160, 2, 3, 5\]"),
        (lambda: probes.score(acts, layers=[0, 3]), "layers: expected some of 0, 4, got 3"),
        (lambda: probes.score(acts, positions=["x", "b", "c"]), "positions: expected some of a, b, c, got x"),
        (lambda: probes.score(acts, acts[:, :, 0, 0] > 0), r"valid: expected \[160, 3\] .*got \[160, 2\]"),
        (lambda: probes.cell(4, "c"), "expected a probe at layer 4, position c, got none"),
        (lambda: probes.cell(5, "c"), "layer: expected one of 0, 4, got 5"),
        (lambda: probes.cell(0, "a", "nothing"), "target: expected one of correctness, got nothing"),
        (lambda: anything.cell("0", "a"), "layer: expected one of 0, 4, got '0'; choose among these"),
        (lambda: anything.threshold(fpr="x"), "fpr: expected a rate between 0 and 1, got 'x'"),
        (lambda: anything.threshold(0.05, (0, "a")), r"cell: expected a CellProbe, got \(0, 'a'\); take probes.cell\("),
        (lambda: probes.rows("train"), "split: expected val or test, whose rows no probe was fitted on, got 'train'"),
        (lambda: anything.push_to_hub(None), "repo_id: expected a name such as me/my-probes, got None"),
        (lambda: probes.push_to_hub(""), "repo_id: expected a name such as me/my-probes, got ''"),
        (lambda: probes.cell(0, "a").score(acts[..., :3]), r"expected activations \[.., 6\], got"),
    ]
    for call, line in cases:
        with pytest.raises(ValueError, match=line):
            call()


def test_what_is_saved_is_loaded_again(tmp_path):
    probes, acts = make_probes(("correctness", "error type"))
    probes = replace(probes, about={"described": "a probe", "splits": {"correctness": "abc"}})
    loaded = LinearProbes.load(probes.save(tmp_path / "mine"))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "README.md", "probes.safetensors", "scores.safetensors",
    ]  # fmt: skip
    torch.testing.assert_close(loaded.score(acts), probes.score(acts), equal_nan=True, rtol=0, atol=0)
    assert loaded.about == probes.about
    assert loaded.threshold(0.1) == probes.threshold(0.1)
    assert loaded.describe() == probes.describe() == (tmp_path / "mine" / "README.md").read_text()
    alone = replace(loaded, record=None).save(tmp_path / "alone")
    assert not (alone / "scores.safetensors").exists()
    assert LinearProbes.load(alone).best("error type").layer == probes.best("error type").layer
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="save: expected a folder, got the file"):
        probes.save(tmp_path / "file")


def test_probes_beside_a_baseline_give_no_threshold():
    probes = replace(make_probes()[0], about={"offset": "logprob mean\n"})
    with pytest.raises(ValueError, match=r"got those of probes fitted beside logprob mean\\n; calibrate"):
        probes.threshold()
    assert "fitted beside the baseline `logprob mean\\n`" in probes.describe()


def test_nothing_reaches_the_hub_unless_asked(monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id, **settings):
            if "/" not in repo_id:
                raise HFValidationError("no such\nname")
            calls.append((repo_id, settings))
            return f"address of {repo_id}"

        def upload_folder(self, repo_id, folder_path, **_):
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    probes, _ = make_probes()
    assert calls == []
    assert probes.push_to_hub("me/mine") == "address of me/mine"
    files = ["README.md", "probes.safetensors", "scores.safetensors"]
    assert calls == [("me/mine", {"private": True, "exist_ok": True}), ("me/mine", files)]
    with pytest.raises(ValueError, match=r"repo_id: expected a name such as me/my-probes, got 'mine' \(no such name\)"):
        probes.push_to_hub("mine")
