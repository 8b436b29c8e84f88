"""Which examples the columns share, what a split holds out, and what is said of both."""

import csv
import re

import numpy as np
import pytest

from datamodules.language.positions import Positions, Rule
from datamodules.questions.files import FileQuestions
from datamodules.questions.split_by import find_tested
from datamodules.split import SPLITS, GroupSplit
from tests.support.activations import counts, make, table_of

EXACT = [Rule("end", "answer", -1), Rule("exact", "exact_answer"), Rule("after", "exact_answer", "after", 3)]


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def build(language_model, questions_csv, cache_root, folder, rows="exact_answer", rules=EXACT, **changes):
    positions = Positions(rules, rows=rows)  # pyright: ignore
    built = make(language_model, questions_csv, cache_root, positions=positions, folder=folder, layers=[1], **changes)
    built.setup()
    return built


@pytest.mark.parametrize("rows", ["exact_answer", "any", "common"])
def test_columns_have_the_chosen_rows_and_one_entry_serves_all(
    rows, language_model, questions_csv, cache_root, tmp_path, caplog
):
    with caplog.at_level("INFO"):
        built = build(language_model, questions_csv, cache_root, tmp_path, rows)
    table = table_of(built)
    lacking = [row["exact_answer"] is None for row in table]
    partial = [not all(row["valid"]) for row in table]
    assert 0 < sum(lacking) < sum(partial) < len(table) == 300  # the three differ
    out = {"any": [False] * 300, "exact_answer": lacking, "common": partial}[rows]
    assert [row["split"] is None for row in table] == out
    shown = [row for row, left_out in zip(table, out, strict=True) if not left_out]
    assert built.card is not None
    assert built.card.n_valid == tuple(sum(row["valid"][t] for row in shown) for t in range(3))
    for split, count in zip(SPLITS, counts(built), strict=True):
        here = [row for row in shown if row["split"] == split]
        assert (count.n, count.n_positive) == (len(here), sum(row["label"] for row in here))
        assert count.n_groups == len({row["group"] for row in here})
    dealt = GroupSplit()([row["group"] for row in shown], [row["label"] for row in shown])
    assert {i for i, row in enumerate(shown) if row["split"] == "test"} == {
        *dealt["test"]
    }  # as if there were no others
    wrong = sum(not row["label"] for row, left_out in zip(table, out, strict=True) if left_out)
    why = "lack a position" if rows == "common" else "have no exact answer"
    line = f"{sum(out)} of 300 examples {why} and are left out: {wrong} wrong, {sum(out) - wrong} right; "
    assert caplog.text.count(f"positions: {line}positions.rows=any keeps them") == (rows != "any")
    assert len(list(cache_root.glob("activations/*/manifest.json"))) == 1  # what is read does not depend on the rows


def test_without_a_column_of_the_exact_answer_all_examples_stay(language_model, questions_csv, cache_root, tmp_path):
    built = build(language_model, questions_csv, cache_root, tmp_path, rules=EXACT[:1])
    assert sum(count.n for count in counts(built)) == 300


def test_rows_in_common_that_do_not_exist_name_the_rarest_column(language_model, questions_csv, cache_root, tmp_path):
    rules = [*EXACT, Rule("far", "answer", 50)]
    with pytest.raises(ValueError, match=r"positions.rows=common: .* got none of 300; far is the rarest, in 0; leave"):
        build(language_model, questions_csv, cache_root, tmp_path, "common", rules)


@pytest.fixture(scope="module")
def lands_csv(questions_csv, tmp_path_factory):
    """The same questions with a column that no answer decides, whole and in a train and a test part."""
    with questions_csv.open() as file:
        rows = [row | {"land": f"land {i % 37}"} for i, row in enumerate(csv.DictReader(file))]
    folder = tmp_path_factory.mktemp("lands")
    for name, part in (("all", rows), ("train", rows[:220]), ("test", rows[220:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer", "land"])
            writer.writeheader()
            writer.writerows(part)
    return folder / "all.csv"


def dataset_of(path, **settings):
    return FileQuestions(path=str(path), pattern=r"\w+", name="lands", **settings)


@pytest.mark.parametrize("by", ["exact_answer", "land"])
def test_no_two_splits_share_what_is_held_out(by, language_model, questions_csv, lands_csv, cache_root, tmp_path):
    with lands_csv.open() as file:
        land_of = {row["question"]: row["land"] for row in csv.DictReader(file)}
    changes = {"dataset": dataset_of(lands_csv), "split": GroupSplit(by=by, val=0.2, test=0.3)}
    built = build(language_model, questions_csv, cache_root, tmp_path, **changes)
    table = [row for row in table_of(built) if row["split"] is not None]
    held = [land_of[row["question"]] if by == "land" else row["exact_answer"].casefold() for row in table]
    for key in ("split", "group"):  # `group` says what was held out
        found = {}
        for value, row in zip(held, table, strict=True):
            found.setdefault(value, set()).add(row[key])
        assert max(map(len, found.values())) == 1
    assert len(set(held)) > 30
    names = [row["group"] for row in table_of(built)]
    for block in built.train_dataloader():
        mine = np.unique([names[i] for i in block["examples"].tolist()], return_inverse=True)[1]
        assert np.unique(block["groups"].numpy(), return_inverse=True)[1].tolist() == mine.tolist()


def test_what_the_test_part_holds_is_not_trained_on(
    language_model, questions_csv, lands_csv, cache_root, tmp_path, caplog
):
    parts = {"path": lands_csv.with_name("train.csv"), "test_path": str(lands_csv.with_name("test.csv"))}
    split = GroupSplit(by="exact_answer", val=0)
    with caplog.at_level("INFO"):
        built = build(language_model, questions_csv, cache_root, tmp_path, dataset=dataset_of(**parts), split=split)
    table = [row for row in table_of(built) if row["exact_answer"] is not None]
    tested = {row["exact_answer"].casefold() for row in table if row["source_split"] == "test"}
    assert all(row["split"] == "test" for row in table if row["source_split"] == "test")
    again = [row for row in table if row["source_split"] == "train" and row["exact_answer"].casefold() in tested]
    assert again
    assert all(row["split"] is None for row in again)
    out = find_tested([row["group"] for row in table], [row["source_split"] for row in table])
    assert f"positions: {sum(out)} of 300 examples share a group with the set's test part and are left" in caplog.text


@pytest.mark.parametrize(
    ("by", "rules", "line"),
    [
        (
            "exact_answer",
            EXACT[:1],
            "expected a position that uses the exact answer beside 'exact_answer', got end; add",
        ),
        (
            "town",
            EXACT,
            "expected question, gold, exact_answer or a column of lands, got 'town'; its columns are quest",
        ),
    ],
)
def test_what_cannot_be_held_out_is_refused(by, rules, line, language_model, questions_csv, lands_csv, tmp_path):
    changes = {"dataset": dataset_of(lands_csv), "split": GroupSplit(by=by)}
    with pytest.raises(ValueError, match=rf"^split\.by: {re.escape(line)}"):
        build(language_model, questions_csv, tmp_path / "cache", tmp_path, rules=rules, **changes)
    assert not list(tmp_path.rglob("*.parquet"))  # nothing was asked


def test_rows_that_leave_one_class_are_refused(language_model, questions_csv, cache_root, tmp_path, monkeypatch):
    monkeypatch.setattr(Positions, "choose_rows", lambda self, valid, spans: valid[:, 0].cumsum(0) <= 5)
    line = (
        r"rows=exact_answer: expected at least 10 right and 10 wrong examples, got \d and \d of 300; set positions.rows"
    )
    with pytest.raises(ValueError, match=line):
        build(language_model, questions_csv, cache_root, tmp_path)


def test_controls_share_the_splits_and_ignore_the_answers(language_model, questions_csv, cache_root, tmp_path):
    built = build(language_model, questions_csv, cache_root, tmp_path, control_labels=True)
    assert built.card is not None
    assert [target.name for target in built.card.targets] == ["correctness", "control"]
    table = table_of(built)
    assert [row["split/control"] for row in table] == [row["split/correctness"] for row in table]
    assert 0.35 < np.mean([row["label/control"] == row["label/correctness"] for row in table]) < 0.65
