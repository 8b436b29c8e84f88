"""Several classes: each against the rest is a target, on one split, from numbers in a file or from a column."""

import csv
import json
import logging
import re

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import one_hot

from datamodules.precomputed import PrecomputedDataModule
from datamodules.questions.files import FileQuestions
from datamodules.questions.statements import FileStatements
from datamodules.split import SPLITS, GroupSplit
from datamodules.targets import number_classes, require_classes
from tests.support.runs import run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")

NAMES = ["red", "green", "blue", "teal"]
N = 300
LABELS = torch.cat([torch.arange(N - 5) % 3, torch.full((5,), 3)])[
    torch.randperm(N, generator=torch.Generator().manual_seed(0))
]


def make(tmp_path, labels=LABELS, classes: list[str] | str = NAMES, seed: int | list[int] = 0, **metadata):
    path = tmp_path / "acts.safetensors"
    acts = torch.randn(N, 2, 1, 4, generator=torch.Generator().manual_seed(1))
    given = {"classes": classes if isinstance(classes, str) else json.dumps(classes)} | metadata
    save_file({"acts": acts, "labels": labels}, path, given)
    data = PrecomputedDataModule(str(path), GroupSplit(seed=seed))
    data.setup()
    assert data.card
    return data.targets, data.card


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_each_class_against_the_rest_is_a_target_on_one_split(tmp_path, dtype, caplog):
    caplog.set_level(logging.INFO)
    targets, card = make(tmp_path, LABELS.to(dtype))
    assert targets.names == ("red", "green", "blue")
    for k in range(3):
        assert torch.equal(targets.labels[k], LABELS.eq(k).long())
        assert torch.equal(targets.splits[k], targets.splits[0])
    assert card.classes == ("of other classes", "of the class")
    line = "classes: teal (5) have fewer than 10 examples, so no target of their own; their examples are among the rest"
    assert line in caplog.text
    assert caplog.text.count("teal") == 1


def test_classes_that_a_split_has_few_of_take_a_few_lines(tmp_path, caplog):
    make(tmp_path, torch.arange(N) % 20, [str(i) for i in range(20)])  # 15 of each, of which few are in test
    warnings = [record.message for record in caplog.records if record.message.startswith("split: test")]
    assert len(warnings) == 4
    assert warnings[0].startswith("split: test of 0 has ")
    assert warnings[-1] == "split: test has as few of 17 more label sets"


def test_every_split_has_its_share_of_every_class(tmp_path):
    targets, _ = make(tmp_path)
    for number, share in enumerate((0.6, 0.15, 0.25)):
        for k in range(3):
            here = targets.splits[k].eq(number) & LABELS.eq(k)
            assert int(here.sum()) == pytest.approx(share * int(LABELS.eq(k).sum()), abs=2), SPLITS[number]


def test_seeds_and_a_common_name(tmp_path):
    targets, _ = make(tmp_path, seed=[0, 5], target="colour")
    assert targets.names[:3] == ("colour: red, seed 0", "colour: red, seed 5", "colour: green, seed 0")
    assert targets.label[:2] == ("colour: red", "colour: red")
    assert torch.equal(targets.labels[0], targets.labels[1])
    assert not torch.equal(targets.splits[0], targets.splits[1])
    assert torch.equal(targets.splits[0], targets.splits[2])


def test_of_two_classes_the_second_is_the_target(tmp_path):
    targets, card = make(tmp_path, LABELS.clamp(max=1), ["red", "green"])
    assert targets.names == ("green",)
    assert torch.equal(targets.labels[0], LABELS.clamp(max=1))
    assert card.classes == ("red", "green")


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (LABELS + 1, NAMES, "expected labels from 0 to 3, one for each of the 4 names of classes, got 4 in row "),
        (LABELS, NAMES[:3], "expected labels from 0 to 2, one for each of the 3 names of classes, got 3 in row "),
        (LABELS - 1, NAMES, "expected labels from 0 to 3, one for each of the 4 names of classes, got -1 in row "),
        (LABELS + 0.5, NAMES, "expected labels from 0 to 3, one for each of the 4 names of classes, got "),
        (LABELS * torch.nan, NAMES, "expected labels from 0 to 3, one for each of the 4 names of classes, got nan"),
        (LABELS * 0, NAMES, "expected examples of at least 2 classes, got red in all 300 rows; add examples of others"),
        (LABELS, ["red"], "expected 2 to 50 different classes, got 1: red;"),
        (LABELS, [str(i) for i in range(51)], "expected 2 to 50 different classes, got 51: 0, 1, 2, 3, 4, ...;"),
        (LABELS, ["red", "red", "blue", "teal"], "expected different names in classes, got red, red, blue, teal"),
        (LABELS, "red, green", "expected classes as a JSON list of K names, got red, green; write it with json.dumps"),
        (LABELS, ["red", 2, "blue", ""], "expected classes as a JSON list of K names, got "),
        (LABELS, ["x" * 201, *NAMES[1:]], "expected names of classes of at most 200 characters, got one of 201, xxx"),
        (LABELS, ["control", *NAMES[1:]], "expected names other than control"),
        (torch.stack([LABELS, LABELS]), NAMES, "expected labels [N] = [300] beside acts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_a_line(tmp_path, labels, classes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        make(tmp_path, labels, classes)
    assert "\n" not in str(told.value)


def test_classes_and_targets_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected metadata targets or classes, got both; leave one out"):
        make(tmp_path, targets='["a"]')


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_statements_take_their_classes_from_a_column_and_need_no_label(tmp_path):
    rows = [["statement", "kind"], ["It rains.", "weather"], ["Ann sings.", "people"], ["It is so.", " "]]
    told: list[str] = []
    loaded = FileStatements(path=write(tmp_path / "s.csv", rows), target="kind").load(told.append)
    assert [one.target for one in loaded] == ["kind: weather", "kind: people"]
    assert any("skipped 1 of 3 rows with no kind" in line for line in told)


def test_questions_keep_their_answers_and_contradicting_classes_are_left_out(tmp_path):
    rows = [
        ["question", "answer", "kind"],
        ["Who?", "Ann", 1],
        ["Who?", "Bo", 1],
        ["When?", "now", 2],
        ["When?", "now", 3],
    ]
    told: list[str] = []
    loaded = FileQuestions(path=write(tmp_path / "q.csv", rows), target="kind").load(told.append)
    assert [(one.text, one.answers, one.target) for one in loaded] == [("Who?", ("Ann", "Bo"), "kind: 1")]
    assert any("left out 1 texts whose rows contradict each other" in line for line in told)


def test_a_column_that_is_no_class_is_refused():
    for values, message in (
        (["kind: a"] * 20, "dataset.target=kind: expected 2 to 50 different classes, got 1: a; take"),
        ([f"kind: {i}" for i in range(60)], "dataset.target=kind: expected 2 to 50 different classes, got 60: 0, 1,"),
    ):
        with pytest.raises(ValueError, match=message):
            require_classes(values, "kind")
    numbers, names = number_classes(["b", "a", "b"])
    assert (numbers.tolist(), names) == ([1, 0, 1], ["a", "b"])


def test_a_run_reports_each_class_and_their_mean(tmp_path):
    path = tmp_path / "acts.safetensors"
    acts = torch.randn(N, 2, 1, 4, generator=torch.Generator().manual_seed(1))
    acts[:, 1, 0] += 3 * one_hot(LABELS, 4)
    save_file({"acts": acts, "labels": LABELS}, path, {"classes": json.dumps(NAMES)})
    status, out, err = run_here(
        tmp_path / "job", "datamodule=precomputed", f"datamodule.path={path}", "probe.class_weight=balanced"
    )
    assert status == 0, err
    summary = json.loads((tmp_path / "job/run/summary.json").read_text())
    found, names = summary["mean_over_classes"], ["red", "green", "blue"]
    assert (found["layer"], found["n_classes"], found["chosen_on"]) == (1, 3, "val")
    assert [target["name"] for target in summary["targets"]] == names
    assert summary["fit"]["class_weight"] == "balanced"
    with (tmp_path / "job/run/heatmap.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["split"], row["layer"]) == ("test", "1")]
    assert [row["target"] for row in rows] == names
    assert found["auc"] == pytest.approx(sum(float(row["auc"]) for row in rows) / 3, abs=1e-6)
    assert 0 < found["auc_se"] < 0.1
    assert f"the mean test AUC is {found['auc']:.3f} ± {found['auc_se']:.3f}." in " ".join(out.split())
