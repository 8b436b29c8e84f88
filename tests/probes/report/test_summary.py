import json
import math
import re
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from datamodules.card import Card
from probes.analysis.auc_map import AUCMap
from probes.analysis.observations import observe
from probes.analysis.reading import read_map
from probes.report.probes_file import load_probes
from probes.report.report import Report
from probes.report.style import NO_AUC
from probes.report.terminal import print_map, short_labels
from tests.support.cards import make_card

PAPER = (
    "last_q", "first_answer", "second_answer", "exact_answer_before_first", "exact_answer_first", "exact_answer_last",
    "exact_answer_after_last", "-8", "-7", "-6", "-5", "-4", "-3", "-2", "-1",
)  # fmt: skip


def a_map(L=8, T=15, split="test", seed=0) -> AUCMap:
    generator = torch.Generator().manual_seed(seed)
    auc = 0.5 + 0.5 * torch.rand(L, T, generator=generator, dtype=torch.float64)
    n = torch.full((L, T), 200)
    return AUCMap("correctness", split, tuple(range(L)), PAPER[:T], auc, auc * 0.05, n, n // 2)


def a_module(L=8, T=15, **maps) -> SimpleNamespace:
    maps = {name: [one] for name, one in (maps or {"val": a_map(L, T, "val", 1), "test": a_map(L, T)}).items()}
    coincidence = [[1.0 if row == column else 0.0 for column in range(T)] for row in range(T)]
    if T > 1:
        coincidence[0][1] = coincidence[1][0] = 0.25
    counts = dict.fromkeys(("train", "val", "test"), (200, 92))
    card = make_card(
        range(L), PAPER[:T], 4, model="tiny [x]", dataset="capitals", coincidence=tuple(map(tuple, coincidence)),
        n_valid=(1000,) * T, counts=counts,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(L, T, 4, generator=generator)
    weight[0, 0] = math.nan
    bias = torch.randn(L, T, generator=generator)
    bias[0, 0] = math.nan
    tensors = {"weight": torch.nn.Parameter(weight[None]), "bias": torch.nn.Parameter(bias[None])}
    fitted = {"probe": "logistic"}
    described = "logistic, l2 = 1"
    named = {"maps": maps, "fitted": fitted, "described": described, "analyses": [], "tensors": lambda: tensors}
    return SimpleNamespace(**named, card=card, tested=card, record=None)


def report(folder, module, **changes) -> None:
    datamodule = SimpleNamespace(seconds={"activations": 1.25})
    trainer: Any = SimpleNamespace(**({"is_global_zero": True, "datamodule": datamodule} | changes))
    callback = Report(folder)
    for hook in (callback.on_train_start, callback.on_train_end, callback.on_test_start, callback.on_test_end):
        hook(trainer, module)
    callback.teardown(trainer, module, "test")


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def tiles(auc_map, width=100) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        print_map(console, auc_map)
    return capture.get().splitlines()


def test_summary_holds_the_run_its_reading_and_the_extent_of_both_maps(tmp_path):
    module = a_module()
    module.maps["test"][0].n_positive[0, 0] = 3
    module.maps["test"][0].auc[0, 0] = 1.0  # unreadable, so not the best
    report(tmp_path, module)
    summary = strict((tmp_path / "summary.json").read_text())
    card, maps = module.tested, {split: one for split, [one] in module.maps.items()}
    assert Card.from_json({key: summary.pop(key) for key in card.to_json()}) == card
    assert summary.pop("reading") == read_map(maps["test"], card.coincidence, card.n_valid, val=maps["val"])
    assert summary.pop("observations") == observe(maps["test"], val=maps["val"])
    assert summary.pop("analysis") is None  # the scores were not kept
    assert summary.pop("described") == "logistic, l2 = 1"
    seconds, versions = summary.pop("seconds"), summary.pop("versions")
    assert seconds.pop("activations") == 1.25
    assert set(seconds) == {"fit and validation", "test"}
    assert versions["torch"] == version("torch")  # torch.__version__ may have the build besides
    assert summary.pop("fit") == {"probe": "logistic"}
    test, val = (maps[split].auc.flatten()[1:] for split in ("test", "val"))
    assert summary["test"]["best_auc"] == float(test[val.argmax()])  # not the largest of the test rows
    assert summary["test"]["mean_auc"] == pytest.approx(float(test.mean()), abs=1e-12)
    assert summary["val"]["best_auc"] == float(maps["val"].auc.max())
    assert set(summary) == {"val", "test"}


def test_summary_without_validation(tmp_path):
    report(tmp_path, a_module(test=a_map()))
    assert strict((tmp_path / "summary.json").read_text())["val"] is None


def test_nothing_readable_is_reported_not_fatal(tmp_path, capsys):
    module = a_module()
    module.maps["test"][0].auc[:] = math.nan
    report(tmp_path, module)
    summary = strict((tmp_path / "summary.json").read_text())
    assert summary["test"] == {"best_auc": None, "mean_auc": None}
    assert "None of the 120 cells can be read." in capsys.readouterr().out


def test_probes_come_back_bit_for_bit(tmp_path):
    module = a_module(3, 2)
    module.maps["val"][0].auc[1, 1] = math.nan
    report(tmp_path, module)
    weight, bias, card, auc = load_probes(tmp_path / "probes.safetensors")
    assert weight.dtype == bias.dtype == torch.float32
    assert torch.equal(weight.nan_to_num(7), module.tensors()["weight"].nan_to_num(7))
    assert torch.equal(bias.nan_to_num(7), module.tensors()["bias"].nan_to_num(7))
    assert card == module.card
    assert auc["test"][0] == module.maps["test"][0].auc.tolist()
    assert auc["val"][0][1][1] is None
    assert auc["val"][0][2] == module.maps["val"][0].auc[2].tolist()


def test_other_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"expected the probes of a run, got .*other\.safetensors without a card"):
        load_probes(tmp_path / "other.safetensors")


def test_probes_that_are_not_linear_keep_the_names_of_their_tensors(tmp_path):
    module = a_module(3, 2)
    tensors = {"weight_in": torch.randn(3, 2, 5, 4), "bias_out": torch.randn(2, 3).T}
    module.tensors = lambda: tensors
    report(tmp_path, module)
    saved = load_file(tmp_path / "probes.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(
        ValueError, match=r"expected linear probes, got .*probes\.safetensors with bias_out, weight_in; "
    ):
        load_probes(tmp_path / "probes.safetensors")


def test_only_global_rank_zero_reports(tmp_path, capsys):
    report(tmp_path / "none", a_module(), is_global_zero=False)
    assert not (tmp_path / "none").exists()
    assert capsys.readouterr().out == ""


def test_files_are_whole_and_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr("probes.report.report.time.monotonic", lambda: 1.0)
    contents = []
    for name in ("one", "two"):
        report(tmp_path / name, a_module())
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert set(contents[0]) == {"summary.json", "probes.safetensors"}  # and nothing temporary
    assert contents[0] == contents[1]


def test_terminal_says_map_reading_and_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    folder = tmp_path / "sweep [a,b]"  # brackets are markup to rich
    folder.mkdir()
    (folder / "heatmap.png").touch()
    module = a_module(32)
    module.maps["test"][0].auc[16:29, 4:6] = 0.999  # a block
    report(folder, module)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(len(line) for line in lines if str(folder) not in line) <= 100
    assert "tiny [x] · resid_post · logistic, l2 = 1 · test split · n = 200 · base rate 46%" in lines
    assert str(folder / "heatmap.png") in lines
    best = read_map(module.maps["test"][0], val=module.maps["val"][0])["best_cells"][0]
    test, val = (f"{best[name]:.3f}"[:5].removeprefix("0").replace(".", r"\.") for name in ("auc", "val_auc"))
    assert re.search(
        rf"^ *{best['layer']} +{best['position']} +{test} ± \.\d\d\d +200 +{val[:5]}0*$", out, re.MULTILINE
    )
    assert re.search(r"last_q\s+first_answer\s+25\.0%", out)


def test_nothing_is_printed_before_the_end_of_the_test(tmp_path, capsys):
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=None)
    Report(tmp_path).on_test_end(trainer, a_module())
    Report(tmp_path).teardown(trainer, a_module(), "fit")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("L", "width"), [(8, 80), (32, 100)])
def test_every_cell_of_the_map_is_in_the_terminal(L, width):
    auc_map = a_map(L)
    auc_map.n_positive[2, 3] = 9
    lines = tiles(auc_map, width)
    start = next(row for row, line in enumerate(lines) if line.startswith("layer"))
    assert lines[start].split() == ["layer", *"abcdefg", *PAPER[7:]]
    for layer in range(L):
        number, *cells = lines[start + 1 + layer].split()
        assert number == str(layer)
        for column, cell in enumerate(cells):
            if (layer, column) == (2, 3):
                assert cell == "··"
            else:
                assert float(cell) == pytest.approx(float(auc_map.auc[layer, column]), abs=0.0051)
        assert len(cells) == 15
    legend = " ".join(lines[start + 1 + L :])
    assert "g exact_answer_after_last" in legend
    assert NO_AUC in legend
    assert max(map(len, lines)) <= width


def test_a_narrow_terminal_gets_the_map_in_bands():
    lines = tiles(a_map(2, 15), width=40)
    headers = [line.split()[1:] for line in lines if line.startswith("layer")]
    assert [len(header) for header in headers] == [7, 7, 1]
    assert [label for header in headers for label in header] == [*"abcdefg", *PAPER[7:]]


def test_one_rounds_to_one():
    auc_map = a_map(1, 3)
    auc_map.auc[:] = torch.tensor([[1.0, 0.994, 0.0]])
    assert tiles(auc_map)[2].split() == ["0", "1.0", ".99", ".00"]


def test_darker_tiles_have_higher_auc():
    auc_map = a_map(1, 3)
    auc_map.auc[:] = torch.tensor([[0.2, 0.75, 1.0]])
    console = Console(width=100, force_terminal=True, color_system="truecolor", legacy_windows=False)
    with console.capture() as capture:
        print_map(console, auc_map)
    backgrounds = [sum(map(int, channels)) for channels in re.findall(r"48;2;(\d+);(\d+);(\d+)", capture.get())]
    assert len(backgrounds) == 3
    assert backgrounds == sorted(backgrounds, reverse=True)
    assert backgrounds[0] == 247 + 251 + 255  # below one half: the lightest blue


def test_short_labels_are_short_unique_and_leave_short_names_alone():
    names = ["a", "-1", "ab", *(f"position_{number}" for number in range(200))]
    labels = short_labels(names)
    assert labels[:3] == names[:3]
    assert labels[3] == "b"
    assert len(set(labels)) == len(names)
    assert max(map(len, labels)) <= 4


def test_positions_that_never_meet_are_told(tmp_path, capsys):
    module = a_module()
    report(tmp_path, module)
    assert "No two positions ever" not in capsys.readouterr().out
    T = len(module.tested.positions)
    never = tuple(tuple(float(i == j) for j in range(T)) for i in range(T))
    module.tested = replace(module.tested, coincidence=never)
    report(tmp_path, module)
    assert "No two positions ever fall on one token." in capsys.readouterr().out


def test_nothing_is_said_of_tokens_that_are_not_known(tmp_path, capsys):
    module = a_module()
    module.tested = replace(module.tested, coincidence=None)
    report(tmp_path, module)
    printed = capsys.readouterr().out
    assert "Best layer of each position" in printed
    assert "fall on one token" not in printed
    assert "Positions on one token" not in printed
    assert strict((tmp_path / "summary.json").read_text())["reading"]["coincidences"] is None
