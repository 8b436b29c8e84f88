"""The card says what the record says; no name in it is markup, and its code runs."""

import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData

from probes import LinearProbes
from probes.analysis.wording import digits
from probes.report.about_run import describe_run, hash_split, read_about
from probes.report.model_card import code
from tests.probes.python.test_linear_probes import make_probes

HOSTILE = "a`b``|[x](javascript:1)\n# <script>\x1b[31m\u202e$1$"
BASELINES = {
    "rows": [{"name": "length", "auc": 0.61, "error": 0.03, "n": 80}, {"name": "odd", "auc": None, "error": None}],
    "best": "length",
    "chosen_on": "val",
    "gain_of_probe": {"difference": 0.2, "error": 0.04, "p": 0.01, "n": 80},
}


def rename(probes, **names):
    card = replace(probes.card, **names)
    return replace(probes, card=card, record=replace(probes.record, card=card))


def split_front(card):
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_front_matter_is_what_a_hub_reads():
    probes, _ = make_probes()
    front, _ = split_front(rename(probes, model="org/Name-1.5").describe())
    assert front["library_name"] == "probegrid"
    assert front["base_model"] == "org/Name-1.5"
    assert "linear-probe" in front["tags"]
    for local in ("/home/me/model", "a model", "../up/down", "x: [y]\n- z", "me/a/b"):
        front, body = split_front(rename(probes, model=local).describe())
        assert set(front) == {"library_name", "tags", "model-index"}
        assert "/home/me" not in f"{front}{body}"


def test_the_hubs_own_reader_finds_every_field():
    """Oracle: huggingface_hub reads the card, and writes the same front matter again."""
    probes, _ = make_probes(("correctness", "error type"))
    assert probes.record is not None
    text = rename(probes, model="org/Name-1.5", dataset="org/Questions").describe(license="apache-2.0")
    card = ModelCard(text)
    data = card.data
    assert isinstance(data, ModelCardData)
    assert (data.library_name, data.license, data.base_model) == ("probegrid", "apache-2.0", "org/Name-1.5")
    assert data.model_name == "Linear probes on org/Name-1.5"
    assert data.eval_results is not None
    maps = probes.record.maps("test")
    assert len(data.eval_results) == 2
    for found, name, one in zip(data.eval_results, ("correctness", "error type"), maps, strict=True):
        best = probes.best(name)
        at = (0, 4).index(best.layer), "abc".index(best.position)
        assert found.metric_value == pytest.approx(float(one.auc[at]), abs=5e-5)
        assert (found.metric_type, found.task_type, found.task_name) == ("roc_auc", "text-classification", name)
        assert found.metric_name == f"test AUROC, layer {best.layer}, {best.position}"
        assert (found.dataset_type, found.dataset_name, found.dataset_split) == ("org/Questions",) * 2 + ("test",)
    alone = make_probes()[0].describe()
    assert ModelCard(alone).data.to_dict() == split_front(alone)[0]
    # Names of any kind stay texts, and a run without test rows has no results.
    odd: Any = ModelCard(rename(probes, dataset=HOSTILE, model="no: [x]🦜").describe()).data
    assert re.fullmatch("a-b-x-javascript-1.*", odd.eval_results[0].dataset_type)
    assert odd.model_name == "Linear probes on no: [x]🦜"
    assert odd.base_model is None
    without: Any = ModelCard(replace(probes, record=None).describe()).data
    assert without.eval_results is None
    wrong: Any
    for wrong in ("MIT License", "", "a\nb: c", 3):
        with pytest.raises(ValueError, match=r"^license: expected a name of the hub's list, such as mit .*; corr"):
            probes.describe(license=wrong)


@pytest.mark.parametrize("model", ["/home/me/models/mine", "models/mine", "C:\\Users\\me\\mine.gguf", "~/models/mine"])
def test_nothing_that_is_taken_away_says_where_a_local_model_lies(model, tmp_path):
    """A folder may be called like a hub id: its run knows no commit."""
    probes = rename(make_probes()[0], model=model, identity={"weights": "0" * 64})
    folder = probes.save(tmp_path / "mine", license="mit")
    for path in folder.iterdir():
        content = path.read_bytes()
        assert b"models/mine" not in content
        assert b"/me" not in content
        assert b"Users" not in content
    text = (folder / "README.md").read_text()
    assert "- Model: `mine`; revision: not recorded (local files)." in text
    assert 'license: "mit"' in text
    assert "base_model" not in text
    loaded = LinearProbes.load(folder)
    assert loaded.card.model == "mine"
    assert torch.equal(loaded.weight.nan_to_num(), probes.weight.nan_to_num())
    assert loaded.record is not None


def test_numbers_are_those_of_the_record():
    probes = replace(make_probes()[0], about={"described": "a probe", "baselines": {"correctness": BASELINES}})
    assert probes.record is not None
    body = split_front(probes.describe(fpr=0.1))[1]
    test, val = probes.record.maps("test")[0], probes.record.maps("val")[0]
    row = f"| `correctness` | 4 | `a` | val | {digits(float(val.auc[1, 0]))} | {digits(float(test.auc[1, 0]))} ± "
    assert row + f"{digits(float(test.auc_se[1, 0]))} | 80 |" in body
    found = probes.assess(fpr=0.1)
    assert found.threshold is not None
    assert f"Threshold {found.threshold.value:.6g} for at most 10% false alarms" in body
    assert f"{digits(found.error.value)} ({digits(found.error.low)} to {digits(found.error.high)})" in body
    assert "the highest of 1: `length` .610 ± .030" in body
    assert "The probe is .200 ± .040 above `length`, the baseline that `val` rows choose." in body


def test_code_of_the_card_runs(tmp_path, monkeypatch, capsys):
    probes, _ = make_probes()
    monkeypatch.chdir(probes.save(tmp_path))
    (block,) = re.findall(r"^```python\n(.*?)^```", probes.describe(0.1), re.M | re.S)
    exec(block, {})
    best, bias = probes.best(), probes.best().bias
    score = float(torch.tensor(bias))
    assert capsys.readouterr().out.splitlines() == [
        f"4 a {torch.tensor([score])}",
        str(probes.calibrate().probability(torch.tensor([score]))),
        str(torch.tensor([score]) >= probes.threshold(0.1, best).value),
    ]


@pytest.mark.parametrize(
    ("model", "config", "line"),
    [
        ("probegrid demo model", {}, "name = 'demo'"),
        ("mine", {"_target_": "datamodules.language.demo.build_demo_model"}, "name = 'demo'"),
        ("org/name", {}, "name = 'org/name'"),
        ("mine", {"id": "org/name"}, "name = 'org/name'"),
        ("/home/me/x.gguf", {"id": "org/name", "gguf": "/home/me/x.gguf"}, "name = 'x'  # put its folder, GGUF file"),
    ],
)
def test_the_model_is_named_as_it_can_be_asked(model, config, line):
    probes, _ = make_probes()
    config = {"model": config, "positions": {"rules": [{"name": "a", "of": "prompt"}]}}
    about = describe_run(probes.card, {}, None, config)
    named = rename(probes, model=model, identity={"dtype": "float16"}, revision="f" * 40)
    card = replace(named, about=about).describe()
    (found,) = [one for one in card.splitlines() if one.startswith("name = ")]
    assert found == line or (found.startswith(line) and "#" in line)
    assert '- Asked with: `{"dtype": "float16"}`.' in card
    assert "\nmodel = load_model(name, **{'dtype': 'float16'})\n" in card


def test_names_are_no_markup():
    probes, _ = make_probes()
    about = {
        "described": HOSTILE,
        "splits": {"correctness": HOSTILE},
        "asked": {"prompt": HOSTILE},
        "rules": [{"name": "a", "of": "answer", "at": HOSTILE}, {"name": 3}, HOSTILE],
        "baselines": {"correctness": {"rows": [{"name": HOSTILE, "auc": 0.5}, 7], "best": 3}},
    }
    hostile = rename(
        probes, model=HOSTILE, dataset=HOSTILE, site=HOSTILE, revision=HOSTILE, positions=("a", HOSTILE, "c")
    )
    _, body = split_front(replace(hostile, about=about).describe())
    assert "\x1b" not in body
    assert "\u202e" not in body
    prose = re.sub(r"^```python\n.*?^```", "", body, flags=re.M | re.S)
    without_code = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", prose)
    for markup in ("<script", "](javascript", "$1$", "\n# <"):
        assert markup not in without_code
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert [line.split()[0] for line in headings] == ["#"] + 5 * ["##"]


@pytest.mark.parametrize("about", [{"rules": 3}, {"baselines": [1]}, {"splits": "x"}, {"asked": None, "rules": [None]}])
def test_notes_of_another_kind_are_passed_over(about):
    assert "## Limits" in replace(make_probes()[0], about=about).describe()


def test_a_card_without_validation_rows_says_so():
    probes, _ = make_probes()
    assert probes.record is not None
    record = replace(probes.record, part=torch.full_like(probes.record.part, 2))
    card = replace(probes, record=record).describe()
    assert "test AUC is too high" in card
    assert "- None: `expected val rows with a score, got none; fit with split.val above 0`" in card


def test_code_shows_any_text():
    assert code("a|b") == "`a|b`"
    assert code("`") == "`` ` ``"
    assert code(" \n ") == "` \\n `"
    assert code("x" * 1000) == f"`{'x' * 300}...`"


def test_a_split_is_told_by_its_digest(tmp_path):
    examples = pd.DataFrame({"id": ["q0", "q1"], "group": ["g", "h"], "split": ["train", "test"], "label": [0, 1]})
    first = hash_split(examples, "correctness")
    assert first == hash_split(examples.assign(label=[1, 1]), "correctness")
    for name, values in (("id", ["q0", "q2"]), ("group", ["g", "g"]), ("split", ["test", "train"])):
        assert hash_split(examples.assign(**{name: values}), "correctness") != first
    probes, _ = make_probes()
    config = {
        "model": {"prompt": "Q: {question}", "id": "/home/me"},
        "positions": {"rules": [{"name": "a", "of": "prompt"}]},
    }
    about = describe_run(probes.card, {"described": "x", "fit": {"offset": "y"}}, examples, config)
    assert about["asked"] == {"prompt": "Q: {question}"}
    assert about["rules"] == [{"name": "a", "of": "prompt"}]
    assert about["splits"] == {"correctness": first}
    assert (about["described"], about["offset"]) == ("x", "y")
    assert read_about(tmp_path, probes.card) == {}
