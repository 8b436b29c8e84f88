"""Which baselines a record allows, which way they point, and that no row's own label is in its score."""

import numpy as np
import pandas as pd
import pytest
import torch

from probes.analysis.auroc import auroc
from probes.analysis.baselines import make_baselines, read_target

N = 300
POSITIONS = ("last_q",)
LOGPROBS = [f"logprob {name}" for name in ("mean", "min", "max", "sum", "first")]


def make_record(seed=0, **columns):
    """Wrong answers are longer, less likely, and name Rome oftener. Every second one has an exact answer."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(N) < 0.4).astype(int)
    n_tokens = rng.integers(3, 9, N) + 3 * (1 - labels)
    said = np.where(rng.random(N) < 0.75, np.where(labels, "Oslo", "Rome"), "Bern")
    usual = {
        "question": [f"Where is town {i % 7}?" for i in range(N)],
        "answer": [f"It is {one}." for one in said],
        "exact_answer": [one if i % 2 else None for i, one in enumerate(said)],
        "exact_answer_tokens": [[2, 2] if i % 2 else None for i in range(N)],
        "prompt_ids": [[0] * (i % 5) for i in range(N)],
        "thought_ids": [[]] * N,
        "answer_ids": [[0] * n for n in n_tokens],
        "logprobs": [list(-rng.exponential(2 - label, n)) for n, label in zip(n_tokens, labels, strict=True)],
        "group": [f"g{i // 2}" for i in range(N)],
        "label": labels.astype(np.int8),
        "split": np.array(["train", "val", "test", "train"])[np.arange(N) // 2 % 4],
    }
    return pd.DataFrame(usual | columns)


RECORD = make_record()
TEST = torch.tensor((RECORD["split"] == "test").to_numpy(copy=True))


def measure(baselines, name, rows=TEST):
    return float(auroc(baselines.scores[name][rows], baselines.labels[rows]))


def test_a_full_record_allows_all():
    baselines = make_baselines(RECORD, "correctness", POSITIONS)
    fitted = (
        "TF-IDF, question", "TF-IDF, answer", "TF-IDF, both", "regression on log-probabilities and lengths",
        "rate of the said answer", "regression with the rate of the said answer",
    )  # fmt: skip
    assert list(baselines.scores) == [
        *(f"{name}, answer" for name in LOGPROBS), *(f"{name}, exact answer" for name in LOGPROBS),
        "answer length", "question length", *fitted,
    ]  # fmt: skip
    assert baselines.fitted == fitted
    assert baselines.missing == ()
    for name, scores in baselines.scores.items():
        assert (scores.dtype, scores.shape) == (torch.float64, (N,))
        assert scores.isnan().sum() == (N // 2 if name.endswith("exact answer") else 0), name
    assert baselines.train.tolist() == (RECORD["split"] == "train").tolist()
    assert baselines.labels.tolist() == RECORD["label"].tolist()


def test_each_finds_what_was_planted():
    baselines = make_baselines(RECORD)
    assert measure(baselines, "logprob mean, answer") > 0.75
    assert measure(baselines, "rate of the said answer") > 0.8
    assert measure(baselines, "TF-IDF, answer") > 0.8
    assert measure(baselines, "TF-IDF, question") < 0.65
    alone = measure(baselines, "regression on log-probabilities and lengths")
    assert alone > max(measure(baselines, "answer length"), 0.85)
    assert measure(baselines, "regression with the rate of the said answer") > alone


def test_what_was_said_is_the_exact_answer_where_there_is_one():
    """Answers all differ; the half with an exact answer is rated by it, the rest has the base rate."""
    record = make_record(answer=[f"{one} in year {i}" for i, one in enumerate(RECORD["answer"])])
    rate = make_baselines(record).scores["rate of the said answer"]
    exact = torch.arange(N) % 2 == 1
    assert rate[TEST & ~exact].unique().numel() == 1
    assert float(auroc(rate[TEST & exact], torch.tensor(RECORD["label"].tolist())[TEST & exact])) > 0.8


@pytest.mark.parametrize("longer", [False, True])
def test_which_way_a_length_points_is_read_off_the_train_rows(longer):
    """Not off the test rows, here turned round: a length that misleads there has an AUC below one half."""
    train = (RECORD["split"] == "train").to_numpy()
    long = RECORD["label"].to_numpy() == (train if longer else ~train)
    record = make_record(answer_ids=[[0] * (9 if one else 2) for one in long])
    baselines = make_baselines(record)
    assert measure(baselines, "answer length", baselines.train) == 1
    assert measure(baselines, "answer length") == 0
    word = "longer" if longer else "shorter"
    assert baselines.notes["answer length"] == f"{word} counts as label 1, as in the train rows"


def test_no_score_depends_on_labels_of_its_group_or_of_other_splits():
    """Turning the labels of validation and test rows changes nothing; of one train group, not the scores of it."""
    before = make_baselines(RECORD)
    train = before.train.numpy()
    changed = RECORD.assign(label=RECORD["label"].where(train, 1 - RECORD["label"]))
    for name, scores in make_baselines(changed).scores.items():
        torch.testing.assert_close(scores, before.scores[name], rtol=0, atol=0, equal_nan=True)
    one = (RECORD["group"] == "g0").to_numpy()
    after = make_baselines(RECORD.assign(label=RECORD["label"].where(~one, 1 - RECORD["label"])))
    moved = []
    for name in set(before.fitted) - {"rate of the said answer"}:  # which is averaged with the base rate of all
        torch.testing.assert_close(after.scores[name][:2], before.scores[name][:2], rtol=1e-9, atol=1e-9)
        moved.append(float((after.scores[name] - before.scores[name]).abs().max()))
    assert min(moved) > 1e-4


def test_a_shuffled_label_is_not_found_on_train_rows():
    """Scores of train rows are honest: fits to these rows themselves reach an AUC above .75 here."""
    rng = np.random.default_rng(3)
    words = [" ".join(rng.choice([f"w{i}" for i in range(60)], 6)) for _ in range(N)]
    baselines = make_baselines(make_record(answer=words, label=rng.integers(0, 2, N).astype(np.int8)))
    for name in baselines.fitted:
        assert abs(measure(baselines, name, baselines.train) - 0.5) < 0.12, name


def test_one_of_several_targets():
    names = ("truth, seed 0", "truth, seed 5")
    record = RECORD.drop(columns=["label", "split"])
    other = [{"train": "test", "test": "train"}.get(split) for split in RECORD["split"]]
    record = record.assign(
        **{f"label/{names[0]}": RECORD["label"], f"split/{names[0]}": RECORD["split"]},
        **{f"label/{names[1]}": 1 - RECORD["label"], f"split/{names[1]}": other},
    )
    labels, train = read_target(record, names[1])
    assert labels.tolist() == (1 - RECORD["label"]).tolist()
    assert train.tolist() == (RECORD["split"] == "test").tolist()
    torch.testing.assert_close(make_baselines(record, names[0]).scores, make_baselines(RECORD).scores, equal_nan=True)
    with pytest.raises(ValueError, match="expected labels of length, got truth, seed 0, truth, seed 5; name one"):
        read_target(record, "length")


def test_ones_own_activations_allow_none():
    columns = {"row": np.arange(N), "group": RECORD["group"], "label": RECORD["label"], "split": RECORD["split"]}
    baselines = make_baselines(pd.DataFrame(columns))
    assert baselines.scores == {}
    assert baselines.missing == (
        "no log-probabilities are recorded; the baselines from them are left out",
        "no texts are recorded; the baselines from texts and lengths are left out",
    )


def test_statements_have_words_and_a_length():
    record = make_record(question=RECORD["answer"], logprobs=[[]] * N, exact_answer=None, exact_answer_tokens=None)
    baselines = make_baselines(record)
    assert list(baselines.scores) == [
        "answer length", "TF-IDF, answer", "rate of the said answer", "regression with the rate of the said answer",
    ]  # fmt: skip
    assert baselines.missing == ("no log-probabilities are recorded; the baselines from them are left out",)


def test_train_rows_of_one_class_fit_nothing():
    baselines = make_baselines(RECORD.assign(label=RECORD["label"].where(RECORD["split"] != "train", 1)))
    assert list(baselines.scores) == [f"{name}, {of}" for of in ("answer", "exact answer") for name in LOGPROBS]
    assert baselines.missing == ("the train rows lack a class; the baselines that are fitted on them are left out",)


def test_empty_answers():
    """No answer has a word or a token: what is left are the questions."""
    record = make_record(answer="", exact_answer=None, exact_answer_tokens=None, answer_ids=[[]] * N, logprobs=[[]] * N)
    baselines = make_baselines(record)
    assert "TF-IDF, answer: expected texts with words, got none; left out" in baselines.missing
    assert measure(baselines, "rate of the said answer") == 0.5
    assert "TF-IDF, question" in baselines.scores


def test_equal_examples_share_their_baselines_and_others_do_not(tmp_path):
    RECORD.to_parquet(tmp_path / "examples.parquet")
    made, again = (make_baselines(pd.read_parquet(tmp_path / "examples.parquet")) for _ in range(2))  # as two jobs do
    assert again is made
    moved = make_baselines(RECORD.assign(split=np.roll(RECORD["split"], 1)))
    assert not torch.equal(moved.scores["TF-IDF, answer"], made.scores["TF-IDF, answer"])
    turned = make_baselines(RECORD.assign(label=1 - RECORD["label"]))
    assert torch.equal(turned.labels, 1 - made.labels)
