"""Commands on finished runs, and the records that they read."""

import csv
import json
import random
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.report.commands import analyse_run
from probes.report.findings import mark
from probes.report.run_folder import read_record
from tests.probes.analysis.test_analysis import make_examples, make_scores
from tests.support.maps import map_of


@pytest.fixture
def folder(tmp_path):
    scores = make_scores()
    (tmp_path / "scores.safetensors").write_bytes(scores.to_bytes())
    make_examples(scores).to_parquet(tmp_path / "examples.parquet", write_page_checksum=True)  # as runs do
    (tmp_path / "summary.json").write_text(json.dumps({"seconds": {"test": 1.5}, "described": "a probe", "reading": 0}))
    return tmp_path


def test_a_finished_run_is_analysed_from_its_record(folder, capsys):
    analyse_run(str(folder))
    out = capsys.readouterr().out
    assert "Best cell (chosen on validation rows): layer 4, last, test AUC" in " ".join(out.split())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seconds"] == {"test": 1.5}  # of the run itself, kept
    assert summary["analysis"]["best"]["position"] == "last"
    assert summary["reading"]["best_cells"][0]["layer"] == 4
    rows = list(csv.DictReader((folder / "heatmap.csv").read_text().splitlines()))
    assert len([row for row in rows if row["auc_low"]]) == 4  # readable cells of the test
    assert not [row for row in rows if row["split"] == "val" and row["p_family"]]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) >= {"heatmap.png", "heatmap.pdf"}
    analyse_run(str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_record_of_an_earlier_version_takes_its_groups_from_the_examples(folder):
    tensors = load_file(folder / "scores.safetensors")
    card = read_record(folder).scores.card
    del tensors["groups"]
    save_file(tensors, folder / "scores.safetensors", {"card": json.dumps(card.to_json())})
    examples = pd.read_parquet(folder / "examples.parquet")
    examples["group"] = [f"country {n // 3}" for n in range(len(examples))]
    examples.to_parquet(folder / "examples.parquet")
    groups = read_record(folder).scores.groups
    assert len(groups.unique()) == 100
    assert groups[0] == groups[2] != groups[3]


def damage(folder, name):
    path = folder / name
    if name == "summary.json":
        path.write_text("{")
    elif name == "examples.parquet":
        pd.read_parquet(path)[:150].to_parquet(path)
    else:
        path.write_bytes(b"no")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("summary.json", "expected JSON in"),
        ("examples.parquet", "the files are of different runs"),
        ("scores.safetensors", "scores.safetensors"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(folder, name, words):
    damage(folder, name)
    with pytest.raises((ValueError, OSError), match=words) as error:
        analyse_run(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["scores.safetensors", "examples.parquet"])
def test_a_folder_without_a_record_is_refused_in_one_line(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        analyse_run(str(folder))
    with pytest.raises(FileNotFoundError, match="expected the folder of a finished run"):
        analyse_run(str(folder / "nowhere"))


def test_cells_short_of_the_optimum_are_marked_on_the_map_of_their_target():
    one = map_of([[0.6, 0.7], [0.8, 0.9]], layers=(3, 7))
    short = [
        {"layer": 7, "position": "p0"},
        {"layer": 3, "position": "p1", "target": "another"},
        {"layer": 3, "position": "p0", "target": "correctness"},
    ]
    crossed = mark(one, None, short).short
    assert crossed is not None
    assert torch.equal(crossed, torch.tensor([[True, False], [True, False]]))


@pytest.mark.parametrize("change", ["one cell of equal scores", "one group"])
def test_a_record_with_undefined_errors_is_written_as_json(folder, change):
    path = folder / "scores.safetensors"
    tensors, card = load_file(path), read_record(folder).scores.card
    tensors["groups"] = torch.arange(len(tensors["examples"])) // 2
    if change == "one group":
        tensors["groups"] *= 0
    else:
        tensors["scores"][0, 0, 0] = 0.0
    save_file(tensors, path, {"card": json.dumps(card.to_json())})
    analyse_run(str(folder))
    chance = json.loads((folder / "summary.json").read_text())["analysis"]["chance"]
    if change != "one group":
        assert 0.5 < chance["best_mean"] < chance["best_q95"] < chance["best_q99"] < 0.8


@pytest.mark.parametrize("name", ["scores", "part", "labels", "groups", "card", "summary", "run"])
def test_parts_of_a_record_that_do_not_fit_are_refused_in_one_line(folder, name):
    path = folder / "scores.safetensors"
    run: Any = str(folder)
    tensors, card = load_file(path), json.dumps(read_record(folder).scores.card.to_json())
    if name in tensors:
        tensors[name] = tensors[name][..., :5].contiguous()
    elif name == "card":
        card = "[1]"
    elif name == "summary":
        (folder / "summary.json").write_text("null")
    else:
        run = [run]
    save_file(tensors, path, {"card": card})
    with pytest.raises(ValueError, match=f"expected .*{name}.*"):
        read_record(run)


@pytest.mark.parametrize("change", [torch.Tensor.double, torch.neg])
def test_examples_that_are_no_row_numbers_are_refused_in_one_line(folder, change):
    path = folder / "scores.safetensors"
    tensors, card = load_file(path), json.dumps(read_record(folder).scores.card.to_json())
    tensors["examples"] = change(tensors["examples"])
    save_file(tensors, path, {"card": card})
    with pytest.raises(ValueError, match="expected row numbers from 0, ascending, as examples of"):
        read_record(folder)


def find_fault(folder):
    """The one line for a record; None where it is read."""
    try:
        read_record(folder)
    except ValueError as error:
        return str(error)
    return None


def test_a_record_cut_short_or_altered_is_one_line(folder):
    """All of the scores is under a checksum; of the examples the pages are."""
    random_ = random.Random(0)
    for name in ("scores.safetensors", "examples.parquet"):
        data, refused = (folder / name).read_bytes(), 0
        for n in range(60):
            altered = bytearray(data if n % 2 else data[: random_.randrange(len(data))])
            if altered:
                altered[random_.randrange(len(altered))] ^= 1 << random_.randrange(8)
            (folder / name).write_bytes(altered)
            said = find_fault(folder)
            assert said is None or ("\n" not in said and len(said) < 800)
            refused += said is not None
        assert refused == {"scores.safetensors": 60}.get(name, refused)
        assert refused > 50
        (folder / name).write_bytes(data)
    for content in ("", "{", "[" * 100_000, "3", "\udcff"):
        (folder / "summary.json").write_text(content, errors="surrogateescape")
        with pytest.raises(ValueError, match=r"^run: expected [^\n]*JSON[^\n]*$"):
            read_record(folder)
