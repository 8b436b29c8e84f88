"""`Scorer` against the record of its run: the same scores, from the same texts, with the model running again."""

import shutil
from copy import deepcopy

import pytest
import torch
from omegaconf import OmegaConf

from datamodules import LoadedModel
from datamodules.language.demo import build_demo_model
from datamodules.questions.question import Question
from probes import LinearProbes, Scorer
from probes.analysis.calibration import choose_threshold, fit_platt
from probes.analysis.sealed import read_sealed, seal

# Activations are rounded to bfloat16, as they were for the record. Another batch moves a float32 activation by 1e-6 of
# itself, and so a few of 128 to the other neighbour, 2^-8 away. The mean of a position is rounded once more.
CLOSE = 0.05


@pytest.fixture(scope="module")
def probes(folder):
    return LinearProbes.load(folder)


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer.load(folder)


def find_recorded(probes, folder, cell, n=12):
    """Some examples of the record, as questions, with their answers and the recorded scores of a cell."""
    import pandas as pd

    table = pd.read_parquet(folder / "examples.parquet")
    rows = probes.record.of("val")
    row, column = probes.card.layers.index(cell.layer), probes.card.positions.index(cell.position)
    chosen = rows.scores[row, column].isfinite().nonzero()[:n, 0]
    examples = table.iloc[rows.examples[chosen].tolist()]
    questions = [
        Question(one.id, one.group, one.question, tuple(one.gold), pattern=r"[A-Z]\w+ [A-Z]\w+")
        for one in examples.itertuples()
    ]
    return questions, examples, rows.scores[row, column, chosen]


@pytest.mark.parametrize("position", ["last_q", "mean", "-1"])
def test_answers_written_again_have_the_recorded_scores(folder, probes, position):
    scorer = Scorer.load(folder, cell=(7, position))
    cell = probes.cell(7, position)
    questions, examples, recorded = find_recorded(probes, folder, cell)
    found = scorer.answer(questions)
    assert [one.answer for one in found] == list(examples["answer"])
    assert [one.finish for one in found] == list(examples["finish"])
    scores = torch.tensor([one.score for one in found])
    torch.testing.assert_close(scores, recorded, rtol=0, atol=CLOSE)
    calibration, threshold = probes.calibrate(cell), probes.threshold(0.05, cell)
    for one in found:
        assert one.probability == pytest.approx(float(calibration.probability(torch.tensor(one.score))), abs=1e-6)
        assert one.threshold == threshold.value
        assert one.decision is (one.score >= threshold.value)
        assert "".join(one.tokens) == one.answer
        assert len(one.token_scores) == len(one.tokens) == len(one.token_probabilities)
    at = {"last_q": None, "mean": slice(None), "-1": slice(-1, None)}[position]
    if at is not None:  # the score of a mean is the mean of the scores
        means = torch.tensor([sum(one.token_scores[at]) / len(one.token_scores[at]) for one in found])
        torch.testing.assert_close(means, scores)
    assert {one.cell for one in found} == {f"7:{position}"}


def test_a_given_answer_is_read_as_the_model_would_have_written_it(folder, scorer):
    written = scorer.answer(["In which town was Sukade Ning born?", "What is the trade of Mobuta Gurd?"])
    for one in written:
        read = scorer(one.question, one.answer.strip())  # the blank before it, and the stop token, are put there
        assert read.answer == one.answer
        assert read.tokens == one.tokens
        torch.testing.assert_close(torch.tensor(read.token_scores), torch.tensor(one.token_scores), rtol=0, atol=CLOSE)
        assert read.score == pytest.approx(one.score, abs=CLOSE)


def test_the_exact_answer_is_found_where_a_pattern_says_how(folder, probes, scorer):
    """Texts alone have no pattern; they are judged by the best cell that needs no exact answer."""
    exact = Scorer.load(folder, cell=(7, "exact_answer_last"))
    questions, _, _ = find_recorded(probes, folder, probes.cell(7, "exact_answer_last"))
    found = exact.answer(questions)
    assert {one.cell for one in found} == {"7:exact_answer_last"}
    for one in found:
        assert one.exact_answer is not None
        assert one.read_at is not None
        assert one.exact_answer in one.answer
        first, last = one.read_at
        assert one.exact_answer.endswith("".join(one.tokens[first : last + 1]).strip())
        assert one.score == pytest.approx(one.token_scores[last], abs=1e-5)
    with pytest.raises(
        ValueError, match=r"^cell: expected questions whose exact answers are found without gold answer"
    ):
        exact.answer([questions[0].text])
    assert scorer.answer([questions[0].text])[0].exact_answer is None


def test_the_best_cell_is_that_of_the_probes(scorer, probes):
    best = probes.best()
    cells = [cell for way in scorer.ways for cell in way.ensemble.cells]
    assert (cells[0].layer, cells[0].position) == (best.layer, best.position)
    assert all(cell.position != "exact_answer_last" for cell in cells[1:])


def test_several_cells_have_the_mean_of_their_calibrated_log_odds(folder, probes):
    scorer = Scorer.load(folder, cells=3, fpr=0.1).without_exact_answers()
    (way,) = scorer.ways
    assert len(way.ensemble.cells) == 3
    rows = [probes.rows("val", cell) for cell in way.ensemble.cells]
    labels, groups = rows[0][1:]
    lines = [fit_platt(*one) for one in rows]
    odds = torch.stack([line.slope * one[0].double() + line.offset for line, one in zip(lines, rows, strict=True)])
    calibration, threshold = (
        fit_platt(odds.mean(0), labels, groups),
        choose_threshold(odds.mean(0), labels, groups, 0.1),
    )
    assert way.ensemble.threshold.value == pytest.approx(threshold.value, abs=1e-5)
    one = scorer.answer(["In which town was Sukade Ning born?"])[0]
    singles = [Scorer.load(folder, cell=(cell.layer, cell.position)) for cell in way.ensemble.cells]
    alone = [single.answer(["In which town was Sukade Ning born?"])[0] for single in singles]
    expected = sum(line.slope * (a.score or 0) + line.offset for line, a in zip(lines, alone, strict=True)) / 3
    assert one.score == pytest.approx(expected, abs=1e-4)
    assert one.probability == pytest.approx(float(calibration.probability(torch.tensor(expected))), abs=1e-4)


def test_a_model_of_transformers_is_taken_if_it_is_that_of_the_run(folder, scorer):
    network, tokenizer = scorer.network, scorer.tokenizer
    own = Scorer.load(folder, network, tokenizer)
    text = "In which town was Sukade Ning born?"
    assert own.network is network
    assert own.answer([text]) == scorer.answer([text])
    other = build_demo_model(prompt="{question}", dtype="float32").load("cpu")
    for parameter in other.parameters():
        parameter.mul_(1.1)
    with pytest.raises(
        ValueError, match=r"^model: expected probegrid demo model as the run read it, got other weights: "
    ):
        Scorer.load(folder, other, tokenizer)
    with pytest.raises(ValueError, match=r"got another dtype \(bfloat16 instead of float32\)"):
        Scorer.load(folder, other.bfloat16(), tokenizer)
    with pytest.raises(ValueError, match=r"^tokenizer: expected the tokenizer of the loaded model, got none"):
        Scorer.load(folder, network)
    with pytest.raises(ValueError, match=r"^model: expected a model ready for inference, got .* in training mode"):
        Scorer.load(folder, deepcopy(network).train(), tokenizer)
    loaded = Scorer.load(folder, LoadedModel(scorer.tapped.model, network, tokenizer))
    assert loaded.network is network


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "bfloat16"}, r"another dtype \(bfloat16 instead of float32\)"),
        ({"prompt": "{question}"}, r"another prompt or chat template \("),
    ],
)
def test_another_reading_is_refused_by_what_differs(folder, settings, words):
    usual = {"prompt": "<s>Q: {question}\nA:", "dtype": "float32"}
    with pytest.raises(ValueError, match=f"^model: expected probegrid demo model as the run read it, got {words}"):
        Scorer.load(folder, build_demo_model(**usual | settings))
    Scorer.load(folder, build_demo_model(**usual))


def change_card(folder, target, **changes):
    """Copy a run, with another card of its probes."""
    shutil.copytree(folder, target)
    path = target / "probes.safetensors"
    content, tensors = read_sealed(path, "probes", "")
    path.write_bytes(seal(tensors, content | changes))
    return target


def test_other_weights_or_another_revision_are_refused(folder, tmp_path, probes):
    identity = dict(probes.card.identity)
    assert set(identity) == {"weights", "dtype", "tokenizer", "prompt"}
    other = change_card(folder, tmp_path / "a", identity=identity | {"weights": "0" * 64})
    with pytest.raises(ValueError, match=r"got other weights \([0-9a-f]{12} instead of 000000000000\)"):
        Scorer.load(other)
    other = change_card(folder, tmp_path / "b", revision="abc")
    with pytest.raises(ValueError, match=r"got another revision \(local files instead of abc\)"):
        Scorer.load(other)


def test_a_run_that_does_not_say_how_it_was_read_is_held_against_its_record(folder, tmp_path, scorer):
    old = change_card(folder, tmp_path / "old", identity={})
    text = "In which town was Sukade Ning born?"
    assert Scorer.load(old).answer([text]) == scorer.answer([text])
    with pytest.raises(ValueError, match="got another prompt, chat template or tokenizer"):
        Scorer.load(old, build_demo_model(prompt="<s>Q: {question}", dtype="float32"))
    content, tensors = read_sealed(old / "scores.safetensors", "scores", "")
    (old / "scores.safetensors").write_bytes(seal(tensors | {"scores": tensors["scores"].flip(-1)}, content))
    with pytest.raises(ValueError, match="got other weights: scores of recorded answers differ by"):
        Scorer.load(old)


def test_what_a_configuration_may_not_name_is_refused(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    path = run / ".hydra/config.yaml"
    cfg = OmegaConf.load(path)
    cfg.allow_targets = ["os.system"]  # a file cannot allow its own
    cfg.model = {"_target_": "os.system", "command": "false"}
    OmegaConf.save(cfg, path)
    with pytest.raises(ValueError, match=r"^model._target_: expected a class of datamodules, .* got os.system"):
        Scorer.load(run)
    cfg.datamodule._target_ = "datamodules.precomputed.PrecomputedDataModule"
    OmegaConf.save(cfg, path)
    with pytest.raises(ValueError, match=r"^run: expected a run on a language model, got one on activations from"):
        Scorer.load(run)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"config.yaml, which says what the model read, got none"):
        Scorer.load(run)
    with pytest.raises(ValueError, match=r"^scorer: expected a question and its answer, got one text"):
        Scorer.load(folder)("A question alone?")
    with pytest.raises(ValueError, match=r"^cells: expected a whole number above 0, got 0"):
        Scorer.load(folder, cells=0)
