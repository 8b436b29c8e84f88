"""What `Scorer` refuses, each in one line: runs and cells whose scores say nothing, and arguments of another kind."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.questions.question import Question
from probes import LinearProbes, Scorer
from probes.analysis.sealed import read_sealed, seal
from probes.scoring.arguments import find_device, read_answers, read_questions
from probes.scoring.ensemble import choose_ensemble
from tests.support.runs import run_here

QUESTION = "In which town was Sukade Ning born?"


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer.load(folder).without_exact_answers()


def copy_run(folder, target):
    return shutil.copytree(folder, target / "copy")


def change_scores(run, change):
    path = run / "scores.safetensors"
    content, tensors = read_sealed(path, "scores", "")
    path.write_bytes(seal(tensors | {"scores": change(tensors["scores"].clone())}, content))
    return run


def tell_mistake(call, *args, **settings):
    with pytest.raises(ValueError, match=r"^\w+: expected ") as caught:
        call(*args, **settings)
    words = str(caught.value)
    assert len(words.splitlines()) == 1
    return words


def test_scores_that_contain_a_baseline_are_refused(folder, tmp_path):
    run = copy_run(folder, tmp_path)
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    summary["fit"]["offset"] = "length"
    path.write_text(json.dumps(summary))
    words = "run: expected scores of the probes alone, got some that contain the log-odds of the baseline length; run "
    for settings in ({}, {"cell": (7, "mean")}):
        assert tell_mistake(Scorer.load, run, **settings).startswith(words)
    status, _, err = run_here(tmp_path / "command", "experiment=score", f"run={run}", "dataset=demo_facts")
    assert status == 1
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_a_maximum_is_no_score_of_tokens(folder, tmp_path):
    run = copy_run(folder, tmp_path)
    path = run / ".hydra/config.yaml"
    cfg = OmegaConf.load(path)
    next(rule for rule in cfg.positions.rules if rule.name == "mean").at = "max"
    OmegaConf.save(cfg, path)
    words = "cell: expected a position whose score is linear in tokens, got mean, a maximum over tokens; choose another"
    assert tell_mistake(Scorer.load, run, cell=(7, "mean")).startswith(words)


def test_a_cell_whose_scores_are_higher_for_wrong_answers_is_refused_or_not_chosen(folder, tmp_path):
    usual = LinearProbes.load(folder)
    worst = change_scores(copy_run(folder, tmp_path), torch.neg)
    words = tell_mistake(Scorer.load, worst, cell=(7, "mean"))
    assert words.startswith("cell: expected higher scores for right answers, got a calibration of slope -")
    assert "no cell of the run tells right answers from wrong ones on validation rows" in tell_mistake(
        Scorer.load, worst
    )
    cells = len(usual.card.layers) * len(usual.card.positions)

    def negate_first(scores):
        scores[:, 0] = -scores[:, 0]
        return scores

    half = LinearProbes.load(change_scores(copy_run(folder, tmp_path / "half"), negate_first))
    found = choose_ensemble(half, cells // 2, 0.1).cells
    assert {cell.layer for cell in found} == {usual.card.layers[1]}
    assert f"expected {cells} cells with higher scores for right answers" in tell_mistake(
        choose_ensemble, half, cells, 0.1
    )


def test_an_order_of_auc_alone_does_not_choose_a_cell(folder, tmp_path):
    """One wrong answer far above all others turns the line, and hardly the order."""
    usual = LinearProbes.load(folder)
    best = usual.best()
    row, column = usual.card.layers.index(best.layer), usual.card.positions.index(best.position)
    assert usual.record is not None
    rows = usual.record.of("val")
    wrong = int(((rows.labels == 0) & rows.scores[row, column].isfinite()).nonzero()[0])

    def spoil(scores):
        at = (scores[:, row, column] == rows.scores[row, column, wrong]).nonzero()[0]
        scores[at[0], row, column, at[1]] = 1e4
        return scores

    spoilt = LinearProbes.load(change_scores(copy_run(folder, tmp_path), spoil))
    assert spoilt.record is not None
    assert spoilt.record.maps("val")[0].auc[row, column] > 0.5
    assert spoilt.calibrate(best).slope < 0
    found = choose_ensemble(spoilt, 3, 0.1).cells
    assert (best.layer, best.position) not in [(cell.layer, cell.position) for cell in found]


@pytest.mark.parametrize("answer", ["", " \n", "</s>", " <s></s> "])
def test_an_answer_without_words_is_refused(scorer, answer):
    words = f"answers: expected words, got {answer!r} at index 0; leave empty answers out"
    assert tell_mistake(scorer, QUESTION, answer) == words


@pytest.mark.parametrize(
    ("questions", "answers", "words"),
    [
        (["a", "b"], ["c"], "answers: expected one for each of 2 questions, got 1; give as many"),
        ([5], ["a"], "questions: expected texts or Question records, got 5 at index 0; write a text"),
        (["Q"], [5], "answers: expected texts, got 5 at index 0; write a text"),
        (["Q"], ["a \ud800"], "answers: index 0: expected a text that UTF-8 can hold, got half of a surrogate pair in"),
        (["\ud800"], ["a"], "questions: index 0: expected a text that UTF-8 can hold, got half of a surrogate pair in"),
        ("abc", ["a"], "questions: expected a list, got 'abc'; put it into [ ]"),
        (5, ["a"], "questions: expected a list, got 5; put it into [ ]"),
        (["Q"], "a", "answers: expected a list, got 'a'; put it into [ ]"),
    ],
)
def test_texts_of_another_kind_are_told(scorer, questions, answers, words):
    with pytest.raises(ValueError, match="expected") as caught:
        scorer.score(questions, answers)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value).splitlines()) == 1


def test_no_questions_have_no_scores(scorer):
    assert scorer.score([], []) == scorer.score([]) == scorer.answer([]) == []
    assert tell_mistake(scorer.answer, "abc") == "questions: expected a list, got 'abc'; put it into [ ]"
    assert [one.id for one in read_questions(("a", "b"), Question)] == ["q0", "q1"]
    assert read_answers(iter(["a</s>"]), 1, ["</s>"]) == ["a</s>"]


@pytest.mark.parametrize("fpr", ["a", 0, 1, True, None, float("nan")])
def test_a_rate_is_a_number_between_0_and_1(folder, fpr):
    assert tell_mistake(Scorer.load, folder, fpr=fpr).startswith("fpr: expected a rate between 0 and 1, got ")


def test_a_cell_is_a_layer_and_a_position(folder):
    words = "cell: expected a layer and a position, got 7; write it as (14, 'mean')"
    assert tell_mistake(Scorer.load, folder, cell=7) == words


def test_a_device_that_is_not_there_is_told(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = "device: expected one of 0 GPUs, got cuda; leave device out, or take cpu"
    assert tell_mistake(Scorer.load, folder, device="cuda") == words
    assert tell_mistake(find_device, "gpu").startswith("device: expected a name such as cpu or cuda:0, got 'gpu'")
    assert find_device(None) == torch.device("cpu")


@pytest.mark.parametrize("limit", ["x", True, -0.1, float("nan")])
def test_a_stop_is_a_probability(scorer, limit):
    assert tell_mistake(scorer.hook, stop_below=limit).startswith("stop_below: expected a probability from 0 to 1, ")


def test_a_hook_holds_for_one_call_inside_its_block(scorer):
    assert tell_mistake(scorer.hook, on_token=5).startswith("on_token: expected a function of probabilities, or None")
    ids = torch.tensor(scorer.tapped.encode([QUESTION]))
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    running = scorer.hook()
    outside = "hook: expected a call inside its with block, got one outside; see RunningScore"
    assert tell_mistake(lambda: running.arguments) == outside
    again = "hook: expected one call of generate in a with block, got another; open one for each call"
    with running:
        arguments = running.arguments
        longer = scorer.network.generate(ids, **settings, **arguments)
        assert tell_mistake(scorer.network.generate, ids, **settings, **arguments) == again
        settings["attention_mask"] = torch.ones_like(longer)
        assert tell_mistake(scorer.network.generate, longer, **settings, **running.arguments) == again
    assert running.scores.shape == (1, 3)
    assert tell_mistake(scorer.network.generate, longer, **settings, **arguments) == outside
    assert not any(module._forward_hooks for module in scorer.network.modules())
