"""`experiment=score` and the running score, on a run of the embedded model."""

import csv
import json
import re

import pandas as pd
import pytest
import torch

from probes import Scorer, auroc
from probes.jobs.command.signals import Terminated
from probes.scoring import score_answers
from probes.scoring.scored_answer import COLUMNS
from tests.probes.scoring.test_score_report import HOSTILE
from tests.probes.scoring.test_scorer import CLOSE
from tests.support.runs import run_here

pytestmark = pytest.mark.usefixtures("_without_pictures")


@pytest.fixture(scope="module")
def place(folder):
    """Holds `run`, a run on the embedded model, and `scored`, where new questions were scored."""
    return folder.parent


def score(place, name, *overrides):
    """The command of `experiment=score` in a folder of its own."""
    chosen = [] if any(one.startswith("dataset=") for one in overrides) else ["dataset=demo_facts"]
    return run_here(place / name, "experiment=score", f"run={place}/run", *chosen, *overrides)


@pytest.fixture(scope="module")
def scored(place):
    status, out, err = score(place, "scored", "dataset.limit=120", "dataset.seed=9", "score.fpr=0.1")
    assert status == 0, err
    return place / "scored/run", out


def test_files_hold_every_answer_with_its_label(scored):
    folder, out = scored
    records = [json.loads(line) for line in (folder / "scores.jsonl").read_text("utf-8").splitlines()]
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == len(records) == 120
    for row, one in zip(rows, records, strict=True):
        assert (row["id"], row["answer"], row["cell"]) == (one["id"], one["answer"], one["cell"])
        assert float(row["score"]) == pytest.approx(one["score"], rel=1e-8)
        assert row["decision"] == str(int(one["score"] >= one["threshold"]))
        assert row["label"] == str(int(one["label"]))
        assert "".join(one["tokens"]) == one["answer"]
    found = json.loads((folder / "score.json").read_text())
    labels = torch.tensor([one["label"] for one in records])
    probability = torch.tensor([one["probability"] for one in records], dtype=torch.float64)
    above = torch.tensor([one["decision"] for one in records])
    assert found["auc"] == pytest.approx(float(auroc(probability, labels.long())), abs=1e-9)
    assert found["false_alarms"]["value"] == pytest.approx(float(above[~labels].double().mean()))
    assert found["false_alarms"]["n"] == int((~labels).sum())
    known = set(pd.read_parquet(folder.parents[1] / "run/examples.parquet")["question"])
    assert found["seen"] == sum(one["question"] in known for one in records)
    assert found["called_right"] == int(above.sum())
    assert f"{found['auc']:.3f}" in out
    assert "10.0% asked for" in out
    assert not (folder / ".hydra").exists()


def test_the_page_shows_the_least_probable_answers_first(scored):
    folder, _ = scored
    page = (folder / "score.html").read_text("utf-8")
    shown = [float(p) for p in re.findall(r"<b class='p'>([\d.]+)</b>", page)]
    assert len(shown) == 120
    assert shown == sorted(shown)
    assert page.count("class='figures'") == 1
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"<script|src=|href=|url\(|@import", page)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["positions=exact"],
            "positions: expected as the run had it, got positions=exact; leave it out of experiment=sc",
        ),
        (["site=mlp_out"], "site: expected resid_post, where the probes of the run read, got mlp_out; leave it out"),
        (
            ["model.dtype=bfloat16"],
            "model: expected probegrid demo model as the run read it, got another dtype (bfloat16",
        ),
        (["model=demo", "model.prompt='{question}'"], "got another prompt or chat template ("),
        (["score.fpr=1.5"], "score.fpr: expected "),
        (["score.fpr=0.001"], "threshold: expected at least 1000 validation rows of label 0"),
        (["score.fpr=1e-320"], "threshold: expected more validation rows of label 0 for a false-alarm rate of 1e-320"),
        (["run="], "run: expected the folder of a finished run, such as outputs/latest, got ''"),
        (
            ["score.cells=1000"],
            "run: expected 1000 cells with a probe and enough validation rows of both classes, got ",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(place, overrides, words):
    status, _, err = score(place, "mistake", *overrides)
    assert status == 1
    assert len(err.strip().splitlines()) == 1, err
    assert words in err


@pytest.mark.parametrize("asked", [1000, 100_000])
def test_a_too_long_answer_is_told_with_the_room_that_is_left(place, asked):
    """The advice is exact: what it names scores the shortest question, and one token more scores none."""
    chosen = ("dataset.limit=3", "dataset.seed=9")
    status, out, err = score(place, "long", *chosen, f"score.max_new_tokens={asked}")
    assert (status, out.strip()) == (1, "")
    told = re.search(
        r"error: score\.max_new_tokens: expected at most (\d+), which the shortest question leaves of the context of "
        rf"the model, 256 tokens, got {asked:,}; lower it, or take shorter questions$",
        err.strip(),
    )
    assert told, err
    room = int(told[1])
    tapped = Scorer.load(place / "run").tapped
    texts = [row["question"] for row in map(json.loads, (place / "scored/run/scores.jsonl").read_text().splitlines())]
    lengths = {len(prompt) for prompt in tapped.encode(texts)}
    assert 256 - room in lengths
    status, _, err = score(place, "longest", *chosen, f"score.max_new_tokens={room}")
    assert status == 0, err
    status, _, err = score(place, "longer", *chosen, f"score.max_new_tokens={room + 1}")
    assert f"expected at most {room}, " in err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["score.cell=[99,last_q]"], "layer: expected one of "),
        (["score.cell=[3,nowhere]"], "position: expected one of "),
        (["score.cell=[last_q,0]"], "score.cell: expected a layer and a position, such as [12,exact_answer_last]"),
        (["score.target=truth"], "target: expected one of "),
        (["score.cell=[0,last_q]", "score.cells=3"], "cells: expected 1 beside a cell that is named, got 3"),
        (["run=/nope"], "/nope"),
    ],
)
def test_a_cell_that_is_not_there_is_told_with_the_choices(place, overrides, words):
    status, _, err = score(place, "mistake", *overrides)
    assert status == 1
    assert len(err.strip().splitlines()) == 1, err
    assert words in err


def test_questions_have_to_be_chosen(place):
    status, _, err = run_here(place / "unchosen", "experiment=score", f"run={place}/run")
    assert status == 1
    assert err.startswith("error: expected a choice for dataset, which has no default here; add dataset=..., one of ")
    assert len(err.strip().splitlines()) == 1


def test_a_cell_that_is_named_judges(place):
    status, out, err = score(place, "named", "dataset.limit=20", "score.cell=[3,last_q]")
    assert status == 0, err
    found = json.loads((place / "named/run/score.json").read_text())
    assert all("last_q" in json.dumps(judge) for judge in found["judges"])
    assert "last_q" in out


def test_scores_that_are_interrupted_are_not_there_and_the_command_begins_again(place, monkeypatch, tmp_path):
    """Whatever ends it in the middle: a signal comes as an exception, as a full disk does."""
    monkeypatch.setattr(score_answers, "BATCH", 10)
    given, ends = score_answers.score_batch, iter([False, True])

    def end_in_the_second_batch(*arguments):
        if next(ends):
            raise Terminated(143)
        return given(*arguments)

    monkeypatch.setattr(score_answers, "score_batch", end_in_the_second_batch)
    status, _, err = score(place, "ended", "dataset.limit=40")
    assert status == 143
    assert err.strip().splitlines()[-1].startswith("error: ended by SIGTERM; ")
    assert [path.name for path in (place / "ended/run").iterdir() if path.name.startswith((".", "score"))] == []
    monkeypatch.setattr(score_answers, "score_batch", given)
    status, _, err = score(place, "ended", "dataset.limit=40")
    assert status == 0, err
    assert len((place / "ended/run/scores.jsonl").read_text().splitlines()) == 40


def test_statements_are_no_questions(place, tmp_path):
    path = tmp_path / "statements.csv"
    path.write_text("statement,label\nIt rains.,1\nIt snows.,0\n")
    status, _, err = score(place, "statements", "dataset=statements", f"dataset.path={path}")
    assert status == 1
    assert "dataset: expected questions, as those of the run, got statements" in err


def test_responses_from_elsewhere_are_scored_as_they_are(place, scored):
    records = [json.loads(line) for line in (scored[0] / "scores.jsonl").read_text("utf-8").splitlines()][:5]
    path = place / "responses.jsonl"
    rows = [{"question": one["question"], "response": one["answer"], "label": int(one["label"])} for one in records]
    rows[0]["response"] = HOSTILE
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = score(place, "responses", "dataset=responses", f"dataset.path={path}")
    assert status == 0, err
    folder = place / "responses/run"
    again = [json.loads(line) for line in (folder / "scores.jsonl").read_text("utf-8").splitlines()]
    assert [one["label"] for one in again] == [one["label"] for one in records]
    assert [one["answer"] for one in again[1:]] == [one["answer"] for one in records[1:]]
    alone = Scorer.load(place / "run").without_exact_answers()  # a response without a pattern has no exact answer
    for one, known in list(zip(again, alone.answer([one["question"] for one in records]), strict=True))[1:]:
        written = torch.tensor(known.token_scores)[: len(one["token_scores"])]  # it may end without a stop token
        torch.testing.assert_close(torch.tensor(one["token_scores"]), written, rtol=0, atol=CLOSE)
    assert "<script" not in (folder / "score.html").read_text("utf-8")


def test_the_running_score_of_generate(place):
    scorer = Scorer.load(place / "run").without_exact_answers()
    texts = [
        "In which town was Sukade Ning born?",
        "What is the trade of Mobuta Gurd?",
        "Which food does Kemona Gint like?",
    ]
    written = scorer.answer(texts)
    tokenizer, network = scorer.tokenizer, scorer.network
    prompts = scorer.tapped.encode(texts)
    width = max(map(len, prompts))
    inputs = {
        "input_ids": torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
    }
    settings = {"max_new_tokens": 48, "do_sample": False, "pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    told = []
    with scorer.hook(on_token=told.append) as running:
        ids = network.generate(**inputs, **settings, **running.arguments)
    assert not any(module._forward_hooks for module in network.modules())
    assert len(told) == running.scores.shape[1] == ids.shape[1] - width
    assert not running.stopped.any()
    for row, one in enumerate(written):
        n = len(one.token_scores)
        read = running.scores[row, 1 : n + 1]  # behind the end of the prompt; its last token may never be read
        expected = torch.tensor(one.token_scores)[: len(read)]
        torch.testing.assert_close(read, expected, rtol=0, atol=CLOSE)
        assert running.scores[row, n + 1 :].isnan().all()
    low = min(range(3), key=lambda row: running.probabilities[row, 3:].nan_to_num(2).min())
    limit = float(running.probabilities[low, 3:].nan_to_num(2).min()) + 1e-6
    at = int((running.probabilities[low, 3:] < limit).nonzero()[0]) + 3
    with scorer.hook(stop_below=limit, at_least=3) as stopped:
        short = network.generate(**inputs, **settings, **stopped.arguments)
    assert stopped.stopped.tolist() == [row == low for row in range(3)]
    assert torch.equal(short[low, : width + at + 1], ids[low, : width + at + 1])  # the token that was chosen meanwhile
    assert not short[low, width + at + 1 :].any()  # then padding
    others = [row for row in range(3) if row != low]
    assert torch.equal(short[others], ids[others][:, : short.shape[1]])
    with pytest.raises(ValueError, match=r"^stop_below: expected a probability from 0 to 1, or None, got 2"):
        scorer.hook(stop_below=2)
