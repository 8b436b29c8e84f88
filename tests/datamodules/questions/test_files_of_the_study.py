"""The question files of the study, where they are beside the repository."""

import collections
import re

import pytest

from datamodules.questions.files import FileQuestions
from tests.support.places import SHARED
from tests.test_configs import composed
from train import build

LLMSKNOW = SHARED / "data" / "llmsknow"


@pytest.mark.skipif(not LLMSKNOW.is_dir(), reason="the real question files are not here")
@pytest.mark.parametrize(
    ("train", "test", "settings", "overlap", "sizes"),
    [
        ("movie_qa_train", "movie_qa_test", {"question": "Question", "answer": "Answer"}, "162 of 7856", (9753, 7764)),
        ("AnswerableMath", "AnswerableMath_test", {}, "3 of 650", (1944, 650)),
        (
            "mnli_train",
            "mnli_validation",
            {
                "question": "Question",
                "answer": "Answer",
                "labels": {"entailment": [], "neutral": [], "contradiction": []},
            },
            None,
            (9888, 6238),
        ),
        (
            "winogrande_train",
            "winogrande_test",
            {"question": "Question", "answer": "Answer", "options": ["Answer", "Wrong_Answer"]},
            None,
            (10000, 10000),
        ),
        (
            "winobias_dev",
            "winobias_test",
            {"question": "{sentence} {q_instruct}", "options": ["answer", "incorrect_answer"]},
            "6 of 1584",
            (1578, 1584),
        ),
    ],
)
def test_the_study_s_files(train, test, settings, overlap, sizes):
    """Sizes and overlaps counted beforehand with pandas, on the texts as they stand."""
    told = []
    paths = {"path": str(LLMSKNOW / f"{train}.csv"), "test_path": str(LLMSKNOW / f"{test}.csv")}
    questions = FileQuestions(**paths, **settings).load(told.append)
    parts = {split: [q for q in questions if q.split == split] for split in ("train", "test")}
    assert (len(parts["train"]), len(parts["test"])) == sizes
    assert not {q.group for q in parts["train"]} & {q.group for q in parts["test"]}
    found = [line for line in told if "letter by letter" in line]
    assert [f"{overlap} test rows also occur in train" in line for line in found] == ([True] if overlap else [])
    assert not [line for line in told if "skipped" in line]
    if "options" in settings:
        assert all(q.answers[0] == q.options[0][0] for q in questions)


@pytest.mark.skipif(not LLMSKNOW.is_dir(), reason="the real question files are not here")
@pytest.mark.parametrize(
    ("name", "train", "test", "left", "joined"),
    [
        ("winobias", "winobias_dev", "winobias_test", 1574, 1574),
        ("winogrande", "winogrande_train", "winogrande_test", 7550, 2352),
        ("mnli", "mnli_train", "mnli_validation", 9881, 510),
        ("math", "AnswerableMath", "AnswerableMath_test", 1841, 105),
        ("movies", "movie_qa_train", "movie_qa_test", 9753, 0),
    ],
)
def test_twins_of_the_study_s_files_are_held_together(name, train, test, left, joined, tmp_path):
    paths = [f"dataset.path={LLMSKNOW}/{train}.csv", f"dataset.test_path={LLMSKNOW}/{test}.csv"]
    questions = build(composed(tmp_path, f"dataset={name}", *paths).dataset).load(lambda line: None)
    sizes = collections.Counter(q.group for q in questions if q.split == "train")
    assert (sum(sizes.values()), sum(n for n in sizes.values() if n > 1)) == (left, joined)
    assert not sizes.keys() & {q.group for q in questions if q.split == "test"}
    if name == "winobias":  # counted with the pronouns taken out: 1,574 of 1,584 rows have a twin, 6 of them in test
        pronouns = re.compile(r"\b(he|she|him|her|his|hers)\b")
        groups = collections.defaultdict(set)
        for q in questions:
            groups[pronouns.sub("", q.text.lower()), q.answers].add(q.group)
        assert {len(together) for together in groups.values()} == {1}
